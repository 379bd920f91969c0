from __future__ import annotations

import pytest

from lepton_automl.errors import ArchError
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.head import Head
from tests.helpers.oracle import close, trace


def test_a_head_is_the_mean_over_positions_and_a_matrix_product():
    run = trace(Head())
    weight, bias = (run.weights[f"0/logits.{part}"] for part in ("weight", "bias"))
    assert close(run.logits, run.x.mean((2, 3)) @ weight.T + bias)


def test_features_are_mixed_by_one_by_one_before_the_mean():
    run = trace(Head(features=12))
    weight, bias = (run.weights[f"0/logits.{part}"] for part in ("weight", "bias"))
    features = run.conv("features", run.x).relu()
    assert close(run.logits, features.mean((2, 3)) @ weight.T + bias)


def test_features_can_be_cut_and_classes_never():
    graph = trace(Head(features=12)).arch.graph
    assert [(w.size, w.fields) for w in graph.widths] == [(12, ((0, "features"),))]
    assert trace(Head()).arch.graph.widths == ()


def test_a_single_class_is_refused():
    with pytest.raises(ArchError, match="at least 2"):
        assert chain((8, 8, 1), [Head()], 1).graph
