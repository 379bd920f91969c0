"""Models opened in a process of their own; many damaged ones in one that may die."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from lepton_automl.compress.external import load
from lepton_automl.compress.external.load import load_external
from lepton_automl.core.limited_process import LimitedProcess, Message
from lepton_automl.errors import DataError, LeptonError
from tests.compress.test_external_interface import predict_file
from tests.helpers import external_models as models

MUTATED = int(os.environ.get("LEPTON_MUTATED", "200"))
"""Damaged files that are opened; `make fuzz` opens 10,000."""


def test_a_model_comes_back_in_our_form(tmp_path: Path) -> None:
    path = models.written(tmp_path)
    found = load_external(path, None, models.CLASSES)
    pixels, labels = models.pictures(60, seed=4)
    assert (predict_file(found.file, pixels).argmax(1) == labels).mean() > 0.8
    assert found.class_names == models.CLASSES
    assert "preprocessing.toml" in found.preprocessing


def test_its_own_order_of_classes_counts_and_others_are_refused(tmp_path: Path) -> None:
    made = models.model()
    made.metadata_props.add(key="labels", value='["2", "0", "1"]')
    path = models.written(tmp_path, made)
    found = load_external(path, None, models.CLASSES)
    assert found.class_names == ("2", "0", "1")
    for names, says in ((("a", "b", "2"), "0, 1"), (("a", "b"), "has 3 classes")):
        with pytest.raises(DataError, match=says):
            load_external(path, None, names)


def test_a_process_that_dies_is_the_files_fault(tmp_path: Path, monkeypatch) -> None:
    program = "import os; from lepton_automl.core.limited_process import serve; serve(os.abort)"
    monkeypatch.setattr(load, "PROGRAM", program.replace("os.abort", "lambda _: os.abort()"))
    with pytest.raises(DataError, match="signal 6"):
        load_external(models.written(tmp_path), None, models.CLASSES)


def mutated(content: bytes, draws: np.random.Generator) -> bytes:
    """Some bytes changed, gone, doubled or cut off."""
    body = bytearray(content)
    for _ in range(draws.integers(1, 6)):
        at = int(draws.integers(len(body)))
        match int(draws.integers(4)):
            case 0:
                body[at] = int(draws.integers(256))
            case 1:
                del body[at : at + int(draws.integers(1, 20))]
            case 2:
                body[at:at] = body[at : at + int(draws.integers(1, 20))]
            case _:
                body[at : at + 4] = draws.bytes(4)
        if not body:
            break
    return bytes(body)


class Opener:
    """One process opens one model after the other; where it dies a new one is started."""

    def __init__(self) -> None:
        self._process = LimitedProcess(load.PROGRAM)

    def says(self, path: Path) -> str:
        """`opened`, the kind of error, or `died`."""
        if not self._process.is_usable:
            self._process = LimitedProcess(load.PROGRAM)
        request = {"path": str(path), "preprocessing": None, "class_names": list(models.CLASSES)}
        limits = load.limits_of(path)
        try:
            self._process.call(request, subject=str(path), fix="none", limits=limits)
        except LeptonError as error:
            return "died" if "crashed" in error.what else type(error).__name__
        return "opened"

    def close(self) -> None:
        self._process.close()


@pytest.mark.timeout(3600)
def test_damaged_models_are_refused_or_opened_and_never_anything_else(tmp_path: Path) -> None:
    content = [models.model(k).SerializeToString() for k in ("plain", "mobile")]
    draws, opener = np.random.default_rng(0), Opener()
    path = models.written(tmp_path)
    seen: dict[str, int] = {}
    for number in range(MUTATED):
        path.write_bytes(mutated(content[number % 2], draws))
        said = opener.says(path)
        seen[said] = seen.get(said, 0) + 1
    opener.close()
    print(seen)  # noqa: T201  Of interest where many were tried.
    assert seen.keys() <= {"opened", "died", "DataError"}
    assert seen.get("DataError", 0) > MUTATED / 10


def test_a_full_disk_is_the_machines_fault_and_not_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr(load, "open_external", full)
    with pytest.raises(OSError, match="No space left"):
        load.answer(Message({"path": "x.onnx"}))
