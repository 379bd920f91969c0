from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from lepton_automl.config import Limits, RunConfig
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.models.model import Model
from lepton_automl.models.quantization import Preprocessing
from lepton_automl.pipeline.compress_net import compress_net
from lepton_automl.training.evaluate import predict_logits
from lepton_automl.training.loop import fit, initial_model
from lepton_automl.training.recipe import Recipe
from tests.helpers import external_models as models
from tests.training.test_loop import small, stripes

pytestmark = pytest.mark.usefixtures("children_answer_here")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net trained outside of any search, and its data beside it."""
    folder = tmp_path_factory.mktemp("net")
    recipe = Recipe(augment=0.0, lr=0.05, batch_size=16)
    model = fit(
        initial_model(small(), Preprocessing(100, 0.0125), 0),
        stripes(192),
        recipe,
        epochs=8,
        seed=0,
    )
    model.save(folder / "mine")
    models.data(folder)
    return folder / "mine"


def config(net: Path, out: Path, **more) -> RunConfig:
    settings = {
        "limits": Limits(max_drop=5.0),
        "objectives": ("accuracy", "size_bytes"),
        "budget_seconds": 60.0,
    }
    return RunConfig(str(net.parent / "stripes.npz"), out, **(settings | more))


def test_a_net_in_leptons_format_is_compressed_and_verified(net: Path, tmp_path: Path) -> None:
    outcome = compress_net(config(net, tmp_path / "out"), net)
    verdict = outcome.verdict
    assert verdict.int8 is not None
    assert verdict.reference is not None
    assert verdict.parity is not None
    assert verdict.int8.size_bytes < verdict.reference.size_bytes
    session = onnxruntime.InferenceSession(str(outcome.artifact / "model.int8.onnx"))
    with np.load(net.parent / "stripes.npz") as arrays:
        x, y = arrays["x_test"], arrays["y_test"]
    right = session.run(None, {"pixels": x})[0].argmax(1) == y
    assert verdict.int8.accuracy == pytest.approx(right.mean())
    assert compress_net(config(net, tmp_path / "out"), net).verdict == verdict


def test_a_budget_too_short_for_the_limits_gives_a_file_and_says_how_to_go_on(
    net: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    short = config(net, tmp_path / "out", limits=Limits(max_size_bytes=100), budget_seconds=0.01)
    outcome = compress_net(short, net, emit=lambda event: said.append(event.message))
    assert (outcome.artifact / "model.int8.onnx").is_file()
    assert outcome.verdict.status == "broken"
    assert any("time is used up; --fresh with a larger --budget" in text for text in said)
    said.clear()
    compress_net(short, net, emit=lambda event: said.append(event.message))
    assert any(text.endswith("--fresh starts again") for text in said)


def test_arch_and_weights_alone_are_enough(net: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("arch.json", "weights.safetensors"):
        shutil.copy(net / name, plain)
    outcome = compress_net(config(net, tmp_path / "out"), plain)
    assert outcome.verdict.reference is not None
    with np.load(net.parent / "stripes.npz") as arrays:
        answers = predict_logits(Model.load(net), torch.from_numpy(arrays["x_test"])).argmax(1)
        right = answers.numpy() == arrays["y_test"]
    assert outcome.verdict.reference.accuracy == pytest.approx(right.mean())


def test_a_folder_without_a_net_and_other_data_are_rejected(net: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not hold a net"):
        compress_net(config(net, tmp_path / "out"), tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(net, broken)
    (broken / "weights.safetensors").write_bytes(b"\x00" * 9)
    with pytest.raises(DataError, match="does not hold a net"):
        compress_net(config(net, tmp_path / "out"), broken)
    digits = dataclasses.replace(config(net, tmp_path / "out"), data="digits")
    with pytest.raises(DataError, match="3 classes"):
        compress_net(digits, net)


def test_a_net_is_refused_for_data_that_are_read_with_other_channels(
    net: Path, tmp_path: Path
) -> None:
    own, other = {1: ("1", "3"), 3: ("3", "1")}[Model.load(net).arch.input[2]]
    with pytest.raises(DataError, match=f"with {own} channels, the data have 3 and {other}"):
        compress_net(config(net, tmp_path / "out", channels=other), net)
    with np.load(net.parent / "stripes.npz") as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    for name in [name for name in changed if name.startswith("x")]:
        grey = changed[name].reshape(*changed[name].shape[:3], -1)[..., :1]
        changed[name] = grey if other == "1" else np.repeat(grey, 3, 3)
    np.savez(tmp_path / "other.npz", **changed)
    data = dataclasses.replace(config(net, tmp_path / "b"), data=str(tmp_path / "other.npz"))
    with pytest.raises(DataError) as caught:
        compress_net(data, net)
    assert f"--channels {own}" in caught.value.fix


def test_a_folder_with_the_compression_of_another_net_is_rejected(
    net: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    model = fit(
        initial_model(small(), Preprocessing(100, 0.0125), 1),
        stripes(192),
        Recipe(augment=0.0, lr=0.05, batch_size=16),
        epochs=8,
        seed=1,
    )
    model.save(other)
    compress_net(config(net, tmp_path / "out"), net)
    with pytest.raises(ConfigError, match="another net"):
        compress_net(config(net, tmp_path / "out"), other)
