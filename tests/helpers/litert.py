"""Run `.tflite` files in LiteRT and in LiteRT for Microcontrollers, where they are installed."""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from typing import Any

import numpy as np
import pytest

KINDS = ("AUTO", "BUILTIN_REF")
"""XNNPACK's kernels, which LiteRT uses by itself, and the reference kernels."""


def litert() -> Any:
    """The module of LiteRT's interpreter, or skip."""
    return pytest.importorskip(
        "ai_edge_litert.interpreter", reason="LiteRT needs lepton-automl[litert]"
    )


def schema() -> Any:
    """LiteRT's generated reader of files, or skip."""
    return pytest.importorskip(
        "ai_edge_litert.schema_py_generated", reason="LiteRT needs lepton-automl[litert]"
    )


def run(file: bytes, samples: np.ndarray, kind: str = "AUTO") -> np.ndarray:
    """Probabilities (n, classes) by LiteRT."""
    module = litert()
    interpreter = module.Interpreter(
        model_content=file,
        num_threads=1,
        experimental_op_resolver_type=module.OpResolverType[kind],
    )
    interpreter.allocate_tensors()
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for sample in samples:
        interpreter.set_tensor(given["index"], sample[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(made["index"])[0])
    return np.array(found)


def micro(file: bytes, samples: np.ndarray) -> tuple[np.ndarray, int]:
    """Probabilities by LiteRT for Microcontrollers, and bytes of its arena for feature maps."""
    pytest.importorskip("tflite_micro", reason="the package tflite-micro is not installed")
    runtime = importlib.import_module("tflite_micro.python.tflite_micro.runtime")
    interpreter = runtime.Interpreter.from_bytes(file, arena_size=4 << 20)
    found = []
    for sample in samples:
        interpreter.set_input(sample[None], 0)
        interpreter.invoke()
        found.append(interpreter.get_output(0)[0])
    return np.array(found), int(re.findall(r"head (\d+) bytes", _said(interpreter))[0])


def _said(interpreter: Any) -> str:
    """What the interpreter says of its arena; it writes to the descriptor of standard error."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            interpreter.print_allocations()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        return file.read().decode()
