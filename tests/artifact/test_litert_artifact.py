"""Artifacts with a LiteRT file: judged beside ONNX, and wrong exports caught."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lepton_automl.artifact.verify import verify
from lepton_automl.models.formats import litert as litert_format
from lepton_automl.models.litert_export.lowering import int8_litert
from tests.helpers import children
from tests.helpers.artifacts import CLASSES, make_bundle, seal_bundle
from tests.helpers.litert import litert

FAULTS = ("scale", "transposed weight", "swapped classes", "swapped labels", "mean")


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    litert()
    children.answer_formats_here(monkeypatch)


def changed(net, fault):
    q, about = net.qparams, net.preprocessing
    first, *_, last = (op.name for op in net.arch.graph.weighted_ops)
    match fault:
        case "scale":
            scales = q.weight_scales | {first: q.weight_scales[first] * np.float32(1.05)}
            return {"qparams": dataclasses.replace(q, weight_scales=scales)}
        case "transposed weight":
            turned = q.weights | {first: np.ascontiguousarray(q.weights[first].swapaxes(2, 3))}
            return {"qparams": dataclasses.replace(q, weights=turned)}
        case "swapped classes":
            turned = q.weights | {last: np.ascontiguousarray(q.weights[last][::-1])}
            return {"qparams": dataclasses.replace(q, weights=turned)}
        case "mean":
            moved = dataclasses.replace(about, zero_point=about.zero_point - 10)
            return {"preprocessing": moved}
        case _:
            return {}


def test_a_litert_file_is_judged_beside_onnx_and_holds(tmp_path):
    made = make_bundle(tmp_path, formats=("litert",), ship="litert")
    seal_bundle(made)
    verdict = verify(made.request)
    (one,) = verdict.formats
    assert (verdict.status, one.file, one.not_run) == ("holds", "model.int8.tflite", "")
    assert one.n_same_class == verdict.int8.n_samples
    assert one.max_difference < 0.01
    assert one.metrics.peak_ram_bytes == one.arena_bytes > 0
    assert one.file_bytes == (made.folder / "model.int8.tflite").stat().st_size
    assert verdict.shipped.file == "model.int8.tflite"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_export_is_caught(tmp_path, monkeypatch, fault):
    def wrong(net, class_names, logit_range):
        names = class_names[::-1] if fault == "swapped labels" else class_names
        return int8_litert(dataclasses.replace(net, **changed(net, fault)), names, logit_range)

    monkeypatch.setattr(litert_format, "int8_litert", wrong)
    made = make_bundle(tmp_path, formats=("litert",))
    seal_bundle(made, status="holds", problems=())
    verdict = verify(made.request)
    assert verdict.status == "broken"
    assert any(text.startswith("litert: ") for text in verdict.reasons)
    if fault == "swapped labels":
        assert any(CLASSES[0] in text for text in verdict.reasons)
