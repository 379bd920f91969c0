"""Whole compressions of models made elsewhere, judged again by an independent evaluation."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import shape_inference
from PIL import Image

from lepton_automl import api
from lepton_automl.artifact.predict import predict
from lepton_automl.compress.external import quantize
from lepton_automl.compress.steps import read_steps
from lepton_automl.config import Limits, RunConfig
from lepton_automl.core.events import Event
from lepton_automl.cost.latency import last_reference_ms
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.models import onnx_file
from lepton_automl.pipeline import compress_onnx, export
from lepton_automl.pipeline.compress_onnx import compress_model
from lepton_automl.pipeline.outcome import Outcome
from lepton_automl.pipeline.verify import verify as verify_again
from lepton_automl.runs.ledger import EventKind, LedgerView
from tests.helpers import external_models as models
from tests.helpers.children import ProcessHere

pytestmark = pytest.mark.usefixtures("children_answer_here")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What `compress_model` is given."""

    config: RunConfig
    model: Path

    def compress(self, **more: Any) -> Outcome:
        return compress_model(self.config, self.model, **more)

    def changed(self, **settings: Any) -> Wanted:
        return Wanted(dataclasses.replace(self.config, **settings), self.model)


def order(folder: Path, made=None, **more) -> Wanted:
    (folder / "models").mkdir(exist_ok=True)
    path = models.written(folder / "models", made)
    data = folder / "stripes.npz"
    if not data.exists():
        models.data(folder)
    return Wanted(RunConfig(str(data), folder / "out", balance="off", **more), path)


def independent(artifact: Path, data: Path) -> float:
    """Accuracy of the shipped file by nothing but ONNX Runtime and numpy."""
    session = onnxruntime.InferenceSession(str(artifact / "model.int8.onnx"))
    with np.load(data) as arrays:
        x, y = arrays["x_test"], arrays["y_test"]
    pixels = x if x.ndim == 4 else x[..., None]
    labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
    given = session.run(None, {"pixels": pixels})[0].argmax(1)
    return float(np.mean([int(labels[g]) == int(t) for g, t in zip(given, y, strict=True)]))


@pytest.fixture(scope="module")
def run_here() -> list[str]:
    """What ran a graph in the process of the command itself, while `finished` was made."""
    return []


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, run_here: list[str]
) -> tuple[Wanted, Outcome]:
    """A compression that nothing interrupts; many tests read it, none changes it."""
    wanted = order(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        record_graphs(patch, run_here)
        return wanted, wanted.compress()


def record_graphs(patch: pytest.MonkeyPatch, found: list[str]) -> None:
    """Record each graph that is opened, but by what stands for a child process."""
    inside: list[None] = []
    call = ProcessHere.call

    def answered(self: ProcessHere, *given: Any, **more: Any) -> Any:
        inside.append(None)
        try:
            return call(self, *given, **more)
        finally:
            inside.pop()

    def recorded(what: Any) -> Any:
        def opened(*given: Any, **more: Any) -> Any:
            if not inside:
                found.append(what.__name__)
            return what(*given, **more)

        return opened

    patch.setattr(ProcessHere, "call", answered)
    for module, name in ((onnxruntime, "InferenceSession"), (shape_inference, "infer_shapes")):
        patch.setattr(module, name, recorded(getattr(module, name)))


@pytest.fixture
def own(finished: tuple[Wanted, Outcome], tmp_path: Path) -> Wanted:
    """The same command for a copy of the finished run folder, which a test may change."""
    wanted, _ = finished
    shutil.copytree(wanted.config.out, tmp_path / "out")
    return wanted.changed(out=tmp_path / "out")


MADE = {"torch": models.model, "keras": models.keras_like, "mobile": lambda: models.model("mobile")}


@pytest.mark.parametrize("made", MADE.values(), ids=list(MADE))
def test_the_verdict_is_what_an_independent_evaluation_finds(tmp_path: Path, made) -> None:
    wanted = order(tmp_path, made(), limits=Limits(max_drop=3, max_size_bytes=50_000))
    outcome = wanted.compress()
    found = outcome.verdict
    assert found.int8 is not None
    assert found.float32 is not None
    again = independent(outcome.artifact, tmp_path / "stripes.npz")
    assert found.int8.accuracy == pytest.approx(again)
    assert found.int8.n_samples == 300
    assert found.status == "holds"
    assert found.int8.weight_bytes * 4 == found.float32.weight_bytes
    assert (outcome.artifact / "MODEL_CARD.md").read_text().count("Made elsewhere") == 1
    (said,) = (decision for decision in outcome.decisions if decision.name == "quantization")
    (steps,) = (wanted.config.out / "models").glob("compressed-*/steps.json")
    method, _, divergence = json.loads(steps.read_text())[1]["why"].partition("; KL divergence ")
    assert said.choice == method
    assert divergence.split()[-1] in said.evidence
    if made is not MADE["torch"]:
        return
    proven = verify_again(outcome.artifact, data=wanted.config.data).verdict
    assert proven.int8 is not None
    assert proven.int8.accuracy == found.int8.accuracy


def test_layers_that_lose_accuracy_stay_float_and_every_step_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "equalize_graph", lambda file, pixels: file)
    told: list[Event] = []
    wanted = order(tmp_path, models.uneven(2.5, seed=3), limits=Limits(max_drop=2))
    outcome = wanted.compress(emit=told.append)
    (folder,) = (wanted.config.out / "models").glob("compressed-*")
    steps = json.loads((folder / "steps.json").read_text())
    assert [rung.name for rung in read_steps(folder)][:2] == ["float", "int8"]
    assert not steps[1]["is_accepted"]
    assert steps[1]["drop"] > 2
    assert steps[-1]["is_accepted"]
    assert 0 < steps[-1]["float_layers"] <= 3
    assert outcome.verdict.drops["int8"].points < 2
    assert any("rejected" in event.message for event in told)
    assert "layers left in float" in (outcome.artifact / "MODEL_CARD.md").read_text()


def test_the_same_call_returns_at_once_and_another_is_rejected(
    finished: tuple[Wanted, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, first = finished
    monkeypatch.setattr(compress_onnx, "load_external", None)
    assert wanted.compress().verdict == first.verdict
    for other in (
        wanted.changed(limits=Limits(max_drop=1)),
        wanted.changed(target="x86-vnni"),
    ):
        with pytest.raises(ConfigError, match="another run"):
            other.compress()


def test_the_same_call_after_a_kill_writes_the_same_file(
    tmp_path: Path, finished: tuple[Wanted, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = finished[0].changed(out=tmp_path / "out")

    def dies(*args: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(export, "verify_in_fresh_process", dies)
        with pytest.raises(KeyboardInterrupt):
            wanted.compress()
    assert not (wanted.config.out / "artifact" / "manifest.json").exists()
    outcome = wanted.compress()
    assert outcome.verdict.int8.accuracy == finished[1].verdict.int8.accuracy
    files = [made.artifact / "model.int8.onnx" for made in (outcome, finished[1])]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_its_graph_runs_in_child_processes_only(
    finished: tuple[Wanted, Outcome], run_here: list[str]
) -> None:
    assert run_here == []
    with pytest.MonkeyPatch.context() as patch:
        record_graphs(patch, run_here)
        onnx_file.open_session((finished[1].artifact / "model.int8.onnx").read_bytes())
    assert run_here == ["InferenceSession"]


def test_a_model_near_chance_is_rejected(tmp_path: Path) -> None:
    wanted = order(tmp_path)
    (wanted.model.parent / "preprocessing.toml").write_text("mean = 500.0\nstd = 0.001\n")
    with pytest.raises(DataError, match="of 192 training pictures right"):
        wanted.compress()
    assert not wanted.config.out.exists()


def test_expectations_stop_it_and_decisions_are_recorded(
    finished: tuple[Wanted, Outcome], tmp_path: Path
) -> None:
    wanted, outcome = finished
    names = {decision.name for decision in outcome.decisions}
    assert {"class order", "pixel preprocessing"} <= names
    with pytest.raises(ConfigError, match="--expects 930"):
        wanted.changed(out=tmp_path / "out").compress(expects=930)
    with pytest.raises(ConfigError, match="labels"):
        wanted.compress(labels="natural")  # Another run than that in the folder.


def test_the_framing_of_the_model_is_used_for_every_part_and_by_predict(tmp_path: Path) -> None:
    wanted = order(tmp_path, limits=Limits(max_drop=50))
    (wanted.model.parent / "preprocessing.toml").write_text(
        f'mean = {models.MEAN}\nstd = {models.STD}\nresize = 12\ninterpolation = "nearest"\n'
    )
    # Each picture is the middle of a larger one, which is noise around it.
    draws = np.random.default_rng(0)
    arrays = dict(np.load(wanted.config.data))
    for part in ("train", "val", "test"):
        inner = arrays[f"x_{part}"].reshape(-1, 8, 8)
        outer = draws.integers(0, 256, (len(inner), 12, 12), np.uint8)
        outer[:, 2:10, 2:10] = inner
        arrays[f"x_{part}"] = outer
    np.savez(wanted.config.data, **arrays)
    outcome = wanted.compress()
    assert outcome.verdict.float32 is not None
    assert outcome.verdict.float32.accuracy > 0.9
    again = verify_again(outcome.artifact, data=wanted.config.data).verdict
    assert again.float32 is not None
    assert again.float32.accuracy == outcome.verdict.float32.accuracy
    files = []
    for number, pixels in enumerate(arrays["x_test"][:60]):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(files[-1])
    answers = [int(found.label) for found in api.predict(outcome.artifact, files)]
    assert np.mean(np.array(answers) == arrays["y_test"][:60]) > 0.9


def test_a_rejected_model_leaves_no_folder(tmp_path: Path) -> None:
    wanted = order(tmp_path)
    wanted.model.write_bytes(b"no model")
    with pytest.raises(DataError, match="not an ONNX file"):
        wanted.compress()
    assert not wanted.config.out.exists()


def test_a_folder_with_other_files_is_not_changed(tmp_path: Path) -> None:
    wanted = order(tmp_path)
    wanted.config.out.mkdir()
    (wanted.config.out / "precious.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        wanted.compress()
    with pytest.raises(DataError, match="cannot be read"):
        dataclasses.replace(wanted, model=tmp_path / "gone.onnx").compress()


def test_latencies_are_ratios_to_the_recorded_reference_net_and_replayed(own: Wanted) -> None:
    (folder,) = (own.config.out / "models").glob("compressed-*")
    first = [rung.latency_ms for rung in read_steps(folder)]
    with LedgerView(own.config.out / "ledger.db") as ledger:
        quiet = last_reference_ms(ledger)
        ratios = [event["ratio"] for event in ledger.all(EventKind.FILE_LATENCY).values()]
    assert first == pytest.approx([ratio * quiet for ratio in ratios[: len(first)]])
    shutil.rmtree(own.config.out / "artifact")
    own.compress()
    assert [rung.latency_ms for rung in read_steps(folder)] == first


def test_its_folder_is_a_run_that_can_be_verified_but_not_searched(
    own: Wanted, finished: tuple[Wanted, Outcome]
) -> None:
    _, outcome = finished
    found = api.verify(own.config.out).verdict
    assert found.int8 is not None
    assert found.int8.accuracy == outcome.verdict.int8.accuracy
    assert api.status(own.config.out).verdict == outcome.verdict
    with pytest.raises(DataError, match="made elsewhere"):
        api.compress(own.config.out)


def test_the_same_model_starts_again_with_fresh(tmp_path: Path, own: Wanted) -> None:
    own.changed(limits=Limits(max_drop=5), fresh=True).compress()
    assert len(list(tmp_path.glob("out*"))) == 2


def test_a_12_bit_picture_is_read_as_those_of_the_data_also_by_the_file_alone(
    tmp_path: Path,
) -> None:
    wanted = order(tmp_path)
    with np.load(tmp_path / "stripes.npz") as arrays:
        deep = {
            name: np.rint(array / 255 * 4095).astype(np.uint16) if name[0] == "x" else array
            for name, array in arrays.items()
        }
        plain = arrays["x_test"][0, ..., 0]
    np.savez(tmp_path / "stripes.npz", **deep)
    Image.fromarray(deep["x_test"][0, ..., 0]).save(tmp_path / "deep.png")
    Image.fromarray(plain).save(tmp_path / "plain.png")
    artifact = wanted.compress().artifact
    alone = Path(shutil.copy(artifact / "model.int8.onnx", tmp_path / "alone.onnx"))
    pictures = [tmp_path / "deep.png", tmp_path / "plain.png"]
    for place in (artifact, alone):
        first, second = predict(place, pictures)
        assert (first.label, first.probability) == (second.label, second.probability)


def test_a_target_that_wants_one_scale_a_layer_is_refused_before_anything_is_read(tmp_path):
    wanted = order(tmp_path, target="litert-per-tensor")
    with pytest.raises(ConfigError, match="one scale per layer") as caught:
        wanted.compress()
    assert "--target" in caught.value.fix
    assert not (tmp_path / "out").exists()
