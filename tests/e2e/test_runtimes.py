"""Other versions of ONNX Runtime are asked by a program without lepton, and compared right."""

from __future__ import annotations

import ast
import sys

import numpy as np

from benchmarks.quality import runtimes
from lepton_automl.models.integer_reference import integer_reference
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.onnx_file import onnx_probabilities
from lepton_automl.models.random_weights import random_net
from tests.helpers.nets import random_arch, random_samples


def test_the_program_for_other_runtimes_imports_numpy_and_onnxruntime_alone():
    tree = ast.parse(runtimes.WORKER.read_text())
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    parts = {getattr(node, "module", None) or alias.name for node in nodes for alias in node.names}
    assert {part.split(".")[0] for part in parts} - set(sys.stdlib_module_names) == {
        "numpy",
        "onnxruntime",
    }


def test_answers_in_another_process_are_those_of_the_file(tmp_path):
    arch = random_arch(1)
    file = int8_onnx(random_net(arch, 64), list("abcde"), {})
    samples = random_samples(arch, 5)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, part in zip(folders, (samples, samples[:2]), strict=True):
        runtimes.prepare(folder, file, part)
    found, few = runtimes.answers(folders, None)
    assert len(few["last on 1 1"]) == 2
    assert len(found) == 1 + 2 * 8
    exact = integer_reference(file).run(samples)
    for name, values in found.items():
        if name.startswith("last"):
            assert (
                np.abs(values.reshape(exact.last_quantized.shape) - exact.last_quantized).max() <= 1
            )
        elif name.startswith("probabilities"):
            assert np.allclose(values, exact.probabilities, atol=0.02)
    assert np.array_equal(
        found[f"probabilities {runtimes.DEFAULT}"], onnx_probabilities(file, samples)
    )


def test_steps_and_classes_of_another_version_are_counted():
    expected = {"probabilities on 1 64": np.array([[0.9, 0.1], [0.503, 0.497], [0.2, 0.8]])}
    expected["last on 1 64"] = np.array([[[7]], [[0]], [[255]]], np.uint8)
    other = {"version": np.array("1.0")}
    for setting in ("on 1 64", "on 2 1"):
        other[f"probabilities {setting}"] = expected["probabilities on 1 64"].copy()
        other[f"last {setting}"] = expected["last on 1 64"].copy()
    other["last on 2 1"][1:] = [[[1]], [[0]]]  # One step, and 255 that uint8 would call one.
    other["probabilities on 2 1"][:2] = [[0.4, 0.6], [0.497, 0.503]]
    found = runtimes.compare(other, expected, "on")
    assert found == runtimes.Comparison(
        answers=6,
        equal=4,
        near=5,
        steps=255,
        same_class=4,
        clear=4,
        clear_same_class=3,
        probability=0.5,
    )
    assert found + found == runtimes.Comparison(12, 8, 10, 255, 8, 8, 6, 0.5)
