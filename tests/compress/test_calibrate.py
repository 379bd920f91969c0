from __future__ import annotations

import pytest
import torch

from lepton_automl.compress.calibrate import balanced, calibrate, stored
from lepton_automl.compress.fold import fold
from lepton_automl.graph import ACTIVATIONS, Linear, MaxPool
from tests.nets import random_arch, random_model, random_pixels


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_streaming_sees_what_all_pictures_at_once_show(batch):
    model = fold(random_model(random_arch(5, activations=ACTIVATIONS), 5))
    pixels = random_pixels(model.arch, 30, 5)
    seen = {}
    with torch.no_grad():
        model.network()(model.preprocessing.apply(pixels), lambda n, v: seen.setdefault(n, v))
    found = calibrate(model, pixels, batch=batch)
    for name in stored(model.arch.graph):
        value = seen[name]
        assert found.low[name] == pytest.approx(float(value.min()), rel=1e-4, abs=1e-5)
        assert found.high[name] == pytest.approx(float(value.max()), rel=1e-4, abs=1e-5)
        torch.testing.assert_close(found.peaks[name], value.abs().amax((0, 2, 3)))
        torch.testing.assert_close(found.means[name], value.mean(0), rtol=1e-3, atol=1e-5)


def test_only_values_with_a_scale_of_their_own_are_stored():
    graph = random_arch(0, layers=("conv", "max_pool")).graph
    others = {op.y.name for op in graph.ops if isinstance(op, (MaxPool, Linear))}
    assert set(stored(graph)) == {op.y.name for op in graph.ops} - others


def test_pictures_come_from_all_classes_in_turn():
    labels = torch.tensor([0] * 90 + [1] * 8 + [2] * 2)
    index = balanced(labels, 12, seed=3)
    assert index.tolist() == sorted(set(index.tolist()))
    assert torch.bincount(labels[index]).tolist() == [5, 5, 2]
    assert balanced(labels, 12, seed=3).tolist() == index.tolist()
    assert balanced(labels, 12, seed=4).tolist() != index.tolist()
    assert len(balanced(labels, 1000, seed=3)) == 100
