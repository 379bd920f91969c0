"""Artifacts with a LiteRT file: judged beside ONNX, and labels that are swapped named."""

from __future__ import annotations

import pytest

from lepton_automl.artifact.verify import verify
from lepton_automl.models.formats import litert as litert_format
from lepton_automl.models.litert_export.lowering import int8_litert
from tests.helpers import children
from tests.helpers.artifacts import CLASSES, make_bundle, seal_bundle
from tests.helpers.litert import litert


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    litert()
    children.answer_formats_here(monkeypatch)


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


def test_swapped_labels_are_named(tmp_path, monkeypatch):
    """Other wrong exports are in test_wrong_exports."""

    def wrong(net, class_names, logit_range):
        return int8_litert(net, class_names[::-1], logit_range)

    monkeypatch.setattr(litert_format, "int8_litert", wrong)
    made = make_bundle(tmp_path, formats=("litert",))
    seal_bundle(made, status="holds", problems=())
    verdict = verify(made.request)
    assert verdict.status == "broken"
    assert any(text.startswith("litert: ") and CLASSES[0] in text for text in verdict.reasons)
