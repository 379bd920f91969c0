"""Whole compressions of models made elsewhere, judged again by an independent evaluation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from lepton_automl.config import Limits
from lepton_automl.core.events import Event
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.pipeline import compress_onnx
from lepton_automl.pipeline.compress_onnx import Order, compress_model
from lepton_automl.pipeline.export import prove_again
from tests.helpers import external_models as models


def order(folder: Path, made=None, **more) -> Order:
    (folder / "models").mkdir(exist_ok=True)
    path = models.written(folder / "models", made)
    data = folder / "stripes.npz"
    if not data.exists():
        models.data(folder)
    return Order(path, str(data), folder / "out", **more)


def independent(artifact: Path, data: Path) -> float:
    """Accuracy of the shipped file by nothing but ONNX Runtime and numpy."""
    session = onnxruntime.InferenceSession(str(artifact / "model.int8.onnx"))
    with np.load(data) as arrays:
        x, y = arrays["x_test"], arrays["y_test"]
    pixels = x if x.ndim == 4 else x[..., None]
    labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
    given = session.run(None, {"pixels": pixels})[0].argmax(1)
    return float(np.mean([int(labels[g]) == int(t) for g, t in zip(given, y, strict=True)]))


MADE = {"torch": models.model, "keras": models.keras_like, "mobile": lambda: models.model("mobile")}


@pytest.mark.parametrize("made", MADE.values(), ids=list(MADE))
def test_the_verdict_is_what_an_independent_evaluation_finds(tmp_path: Path, made) -> None:
    wanted = order(tmp_path, made(), limits=Limits(max_drop=3, max_size_bytes=50_000))
    outcome = compress_model(wanted)
    found = outcome.verdict
    assert found.int8 is not None
    assert found.float32 is not None
    again = independent(outcome.artifact, tmp_path / "stripes.npz")
    assert found.int8.accuracy == pytest.approx(again)
    assert found.int8.n_samples == 300
    assert found.status == "holds"
    assert found.int8.weight_bytes * 4 == found.float32.weight_bytes
    assert (outcome.artifact / "MODEL_CARD.md").read_text().count("Made elsewhere") == 1
    proven = prove_again(outcome.artifact, data=wanted.data).verdict
    assert proven.int8 is not None
    assert proven.int8.accuracy == found.int8.accuracy


def test_what_int8_breaks_is_repaired_and_every_step_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lepton_automl.compress.external.quantize.equalized", lambda file, pixels: file
    )
    told: list[Event] = []
    wanted = order(tmp_path, models.uneven(2.5, seed=3), limits=Limits(max_drop=2))
    outcome = compress_model(wanted, emit=told.append)
    steps = json.loads((wanted.out / "steps.json").read_text())
    assert [step["name"] for step in steps][:2] == ["float", "int8"]
    assert not steps[1]["is_accepted"]
    assert steps[1]["drop"] > 2
    assert steps[-1]["is_accepted"]
    assert 0 < steps[-1]["kept_float"] <= 3
    assert outcome.verdict.drops["int8"].points < 2
    assert any("not enough" in event.message for event in told)
    assert "layers left in float" in (outcome.artifact / "MODEL_CARD.md").read_text()


def test_the_same_command_answers_at_once_and_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = order(tmp_path)
    first = compress_model(wanted)
    monkeypatch.setattr(compress_onnx, "probed", None)
    assert compress_model(wanted).verdict == first.verdict
    for other in (
        dataclasses.replace(wanted, limits=Limits(max_drop=1)),
        dataclasses.replace(wanted, target="x86-vnni"),
    ):
        with pytest.raises(ConfigError, match="another compression"):
            compress_model(other)


def test_killed_half_way_the_same_command_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = order(tmp_path)

    def dies(*args: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compress_onnx, "verify_in_fresh_process", dies)
        with pytest.raises(KeyboardInterrupt):
            compress_model(wanted)
    assert not (wanted.out / "artifact" / "manifest.json").exists()
    assert compress_model(wanted).verdict.status == "holds"


def test_a_model_that_only_guesses_here_is_fed_wrongly(tmp_path: Path) -> None:
    wanted = order(tmp_path)
    (wanted.model.parent / "preprocessing.toml").write_text("mean = 500.0\nstd = 0.001\n")
    with pytest.raises(DataError, match="prepared otherwise"):
        compress_model(wanted)


def test_a_refused_model_leaves_nothing_behind(tmp_path: Path) -> None:
    wanted = order(tmp_path)
    wanted.model.write_bytes(b"no model")
    with pytest.raises(DataError, match="not an ONNX file"):
        compress_model(wanted)
    assert not wanted.out.exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    wanted = order(tmp_path)
    wanted.out.mkdir()
    (wanted.out / "precious.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        compress_model(wanted)
    with pytest.raises(DataError, match="cannot be read"):
        compress_model(dataclasses.replace(wanted, model=tmp_path / "gone.onnx"))
