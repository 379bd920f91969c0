"""CIFAR-10 and CIFAR-100 in their binary version: `data_batch_1.bin`, `train.bin`, `test.bin`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_files import FileKind
from lepton_automl.data.layouts.folder_kinds import CIFAR_NAME, folder_kind
from lepton_automl.data.layouts.named_arrays import MemoryArrays, converted, read_raw
from lepton_automl.data.samples import RawSamples, Samples
from lepton_automl.data.sources import Source
from lepton_automl.errors import DataError

_BATCH = FileKind("batches of CIFAR", 1 << 30)
_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_NAMES = {1: "batches.meta.txt", 2: "fine_label_names.txt"}
"""Bytes of labels a record -> file of the names of the classes."""
_CLASSES = {1: 10, 2: 100}
_FIX = "download the binary version again, cifar-10-binary.tar.gz or cifar-100-binary.tar.gz"


class Cifar(Source):
    """Records of one label byte, or of a coarse and a fine one, and 3072 bytes of pixels.

    Of CIFAR-100 the fine labels are the classes. The pickled (Python) version is refused.
    """

    def accepts(self, data: str) -> bool:
        return folder_kind(data) == "cifar"

    def read(self, data: str) -> Samples:
        return converted(data, self.read_raw(data))

    def read_raw(self, data: str) -> RawSamples | Samples:
        folder = Path(data)
        names = sorted(p.name for p in folder.iterdir() if CIFAR_NAME.fullmatch(p.name))
        if not names:
            raise DataError(
                f"{data} holds the pickled version of CIFAR; unpickling a file runs code that is "
                "in it, so no pickle is read",
                fix="download the binary version, cifar-10-binary.tar.gz or "
                "cifar-100-binary.tar.gz, and give its folder; or save the arrays with np.savez",
            )
        labels = 2 if any(name in ("train.bin", "test.bin") for name in names) else 1
        is_test = {name: name.startswith("test") for name in names}
        arrays: dict[str, NDArray[Any]] = {}
        for part, chosen in (("train", False), ("test", True)):
            files = [folder / name for name in names if is_test[name] == chosen]
            if not files:
                continue
            records = np.concatenate([_records(file, labels) for file in files])
            pixels = records[:, labels:].reshape(-1, *_SHAPE)
            arrays[f"x_{part}"] = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
            arrays[f"y_{part}"] = records[:, labels - 1]
        if (folder / _NAMES[labels]).exists():
            arrays["class_names"] = _class_names(folder / _NAMES[labels], _CLASSES[labels])
        return read_raw(data, MemoryArrays(arrays), None, "last")


def _records(path: Path, labels: int) -> NDArray[np.uint8]:
    content = untrusted_files.read_bytes(path, _BATCH, fix=_FIX)
    width = labels + _PIXELS
    if not content or len(content) % width:
        raise DataError(
            f"{path} has {len(content)} bytes; the rule is records of {width} bytes, {labels} of "
            f"labels and {_PIXELS} of pixels",
            fix=_FIX,
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, width)
    bad = np.flatnonzero(records[:, labels - 1] >= _CLASSES[labels])
    if len(bad):
        raise DataError(
            f"{path}: record {bad[0]} has the label {records[bad[0], labels - 1]}, the rule is 0 "
            f"to {_CLASSES[labels] - 1}",
            fix=_FIX,
        )
    return records


def _class_names(path: Path, count: int) -> NDArray[np.str_]:
    lines = [line.strip() for line in untrusted_files.read_text(path, fix=_FIX).split("\n")]
    names = [line for line in lines if line]
    if len(names) != count or len(set(names)) != count:
        raise DataError(
            f"{path} has {len(set(names))} different names of classes, the rule is {count}",
            fix=_FIX,
        )
    return np.array(names)
