from __future__ import annotations

import pytest
import torch

from lepton_automl.config import RunConfig
from lepton_automl.errors import ConfigError, MachineError
from lepton_automl.events import silent
from lepton_automl.session import chosen_device, opened
from lepton_automl.space import load


def config(tmp_path, **more):
    return RunConfig(data="digits", out=tmp_path / "run", **more)


def test_a_session_claims_the_folder_and_keeps_a_copy_of_the_space(tmp_path):
    with opened(config(tmp_path), silent) as session:
        assert session.space.name == "tiny"
        assert session.folder.definition().data_fingerprint == session.dataset.fingerprint
        assert load(str(session.folder.space_file)).digest == session.space.digest


def test_a_second_command_on_the_same_run_is_refused(tmp_path):
    with (
        opened(config(tmp_path), silent),
        pytest.raises(ConfigError, match="another command"),
        opened(config(tmp_path), silent),
    ):
        pass
    with opened(config(tmp_path), silent):
        pass


@pytest.mark.parametrize(
    ("more", "said", "hint"),
    [
        ({"objectives": ("accuracy", "latency")}, "'latency' is not a", "latency_ms"),
        ({"objectives": ("size_bytes",)}, "accuracy must be among them", "--objective"),
        ({"objectives": ("accuracy", "macs", "macs")}, "each once", "--objective"),
        ({"space": "tinny"}, "'tinny'", "tiny"),
        ({"target": "x86-vni"}, "'x86-vni'", "x86-vnni"),
    ],
)
def test_a_wrong_option_is_answered_before_anything_is_written(tmp_path, more, said, hint):
    with pytest.raises(ConfigError) as caught, opened(config(tmp_path, **more), silent):
        pass
    assert said in caught.value.what
    assert hint in caught.value.fix
    assert not (tmp_path / "run").exists()


def test_cuda_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == torch.device("cpu")
    with pytest.raises(MachineError) as caught:
        chosen_device("cuda")
    assert "--device cpu" in caught.value.fix


def test_what_a_killed_command_left_half_written_is_gone(tmp_path):
    left = tmp_path / "run" / "models" / ".weights.safetensors.4711.tmp"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.toml.4711.tmp").touch()
    with opened(config(tmp_path), silent):
        left.parent.mkdir()
        left.touch()
    with opened(config(tmp_path), silent):
        assert not [path for path in (tmp_path / "run").rglob("*") if path.suffix == ".tmp"]
