"""Models opened in a process of their own; many damaged ones in one that may die."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lepton_automl.compress.external import load
from lepton_automl.compress.external.load import load_external
from lepton_automl.errors import DataError, LeptonError
from tests.compress.test_external_interface import predict_file
from tests.helpers import external_models as models

MUTATED = int(os.environ.get("LEPTON_MUTATED", "200"))
"""Damaged files that are opened; `make fuzz` opens 10,000."""

SERVER = """
import json, sys
from lepton_automl.compress.external.load import answer
for line in sys.stdin:
    print(answer(json.loads(line)).get("error", "opened"), flush=True)
"""


def test_a_model_comes_back_in_our_form(tmp_path: Path) -> None:
    path = models.written(tmp_path)
    found = load_external(path, None, models.CLASSES, tmp_path / "float.onnx")
    pixels, labels = models.pictures(60, seed=4)
    assert (predict_file(found.file, pixels).argmax(1) == labels).mean() > 0.8
    assert found.class_names == models.CLASSES
    assert "preprocessing.toml" in found.preprocessing


def test_its_own_order_of_classes_counts_and_others_are_refused(tmp_path: Path) -> None:
    made = models.model()
    made.metadata_props.add(key="labels", value='["2", "0", "1"]')
    path = models.written(tmp_path, made)
    found = load_external(path, None, models.CLASSES, tmp_path / "float.onnx")
    assert found.class_names == ("2", "0", "1")
    for names, says in ((("a", "b", "2"), "0, 1"), (("a", "b"), "has 3 classes")):
        with pytest.raises(DataError, match=says):
            load_external(path, None, names, tmp_path / "float.onnx")


def test_a_process_that_dies_is_the_files_fault(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(load, "PROGRAM", "import os; os.abort()")
    with pytest.raises(DataError, match="signal 6"):
        load_external(models.written(tmp_path), None, models.CLASSES, tmp_path / "float.onnx")


class Server:
    """A process that opens one model after the other; whoever kills it gets a new one."""

    def __init__(self) -> None:
        self.deaths, self._process = 0, self._started()

    def _started(self) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", SERVER]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(words, text=True, **pipes)  # type: ignore[call-overload,no-any-return]

    def says(self, path: Path, out: Path) -> str:
        """`opened`, the kind of error, or `died`."""
        request = {"path": str(path), "preprocessing": None, "out": str(out)}
        line = json.dumps(request | {"class_names": list(models.CLASSES)})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline().strip()
        if said:
            return said
        code, errors = self._process.wait(), self._process.communicate()[1]
        assert code < 0, errors
        self.deaths, self._process = self.deaths + 1, self._started()
        return "died"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


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


@pytest.mark.timeout(3600)
def test_damaged_models_are_refused_or_opened_and_never_anything_else(tmp_path: Path) -> None:
    content = [models.model(k).SerializeToString() for k in ("plain", "mobile")]
    draws, server = np.random.default_rng(0), Server()
    path = models.written(tmp_path)
    seen: dict[str, int] = {}
    for number in range(MUTATED):
        path.write_bytes(mutated(content[number % 2], draws))
        said = server.says(path, tmp_path / "float.onnx")
        seen[said] = seen.get(said, 0) + 1
    server.close()
    print(seen)  # noqa: T201  Of interest where many were tried.
    assert seen.keys() <= {"opened", "died", *(kind.__name__ for kind in _kinds())}
    assert seen.get("DataError", 0) > MUTATED / 10


def _kinds() -> list[type[LeptonError]]:
    return [LeptonError, *LeptonError.__subclasses__()]


def test_a_full_disk_is_the_machines_fault_and_not_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr(load, "_opened", full)
    assert load.answer({"path": "x.onnx"})["error"] == "MachineError"
