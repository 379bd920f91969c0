from __future__ import annotations

import sys

import pytest

from lepton_automl.core import plugins
from lepton_automl.errors import ConfigError, MachineError
from lepton_automl.search import callbacks


def test_these_are_shipped() -> None:
    assert {"mlflow", "tensorboard", "wandb"} <= set(plugins.names("callbacks"))


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="not a callback of lepton") as caught:
        callbacks.load("tensorbord")
    assert "did you mean 'tensorboard'?" in caught.value.fix


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_package_that_is_missing_is_named_with_the_command_that_gets_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (name, "torch.utils.tensorboard", f"lepton_automl.callbacks.{name}"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MachineError, match=f"--callback {name} needs") as caught:
        callbacks.load(name)
    assert caught.value.fix == f"pip install 'lepton-automl[{name}]'"
    assert caught.value.exit_code == 7
