"""A file format of another package, for tests: the ONNX file, compressed.

Environment variables, which child processes inherit, make it a bad one: PACKED_FAULTY lets it write
wrong scales, PACKED_MISSING what the machine lacks, PACKED_CODE says that its files are compiled,
and PACKED_VERSION what one of them holds.
"""

from __future__ import annotations

from pathlib import Path

import pytest

SOURCE = '''
"""The ONNX file, compressed."""

import dataclasses
import gzip
import os

import numpy as np

from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_files import MODEL
from lepton_automl.errors import DataError
from lepton_automl.models.formats import FileFormat, Session, Sizes
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.onnx_file import open_session, predict_probabilities

FIX = "make it again"


def faulty(net):
    q, first = net.qparams, next(iter(net.arch.graph.weighted_ops)).name
    scales = q.weight_scales | {first: q.weight_scales[first] * np.float32(1.05)}
    return dataclasses.replace(net, qparams=dataclasses.replace(q, weight_scales=scales))


class Packed(FileFormat):
    """The ONNX file, compressed."""

    main = "packed/net.gz"
    max_difference = 1e-6
    runs_code = bool(os.environ.get("PACKED_CODE"))

    def files(self, net, words, golden):
        if os.environ.get("PACKED_FAULTY") and net.qparams is not None:
            net = faulty(net)
        content = int8_onnx(net, words.class_names, words.metadata)
        note = os.environ.get("PACKED_VERSION", "1").encode()
        return {"packed/README": note, self.main: gzip.compress(content, mtime=0)}

    def session(self, folder):
        content = untrusted_files.read_bytes(folder / self.main, MODEL, fix=FIX)
        try:
            return Opened(gzip.decompress(content))
        except (OSError, EOFError) as error:
            raise DataError(f"{self.main} is not compressed: {error}", fix=FIX) from error

    def sizes(self, folder):
        size = sum((folder / name).stat().st_size for name in ("packed/README", self.main))
        return Sizes(size, flash_bytes=7000, arena_bytes=500)

    def missing(self):
        return os.environ.get("PACKED_MISSING", "")

    def differences(self, net):
        return ("nothing differs",)


class Opened(Session):
    def __init__(self, file):
        self._session = open_session(file)

    def predict(self, samples):
        return predict_probabilities(self._session, samples)
'''


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the format `packed` in a folder, as pip would lay it down."""
    (folder / "packed_format.py").write_text(SOURCE)
    about = folder / "packed_format-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: packed_format\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[lepton_automl.formats]\npacked = packed_format\n")
    monkeypatch.syspath_prepend(folder)
