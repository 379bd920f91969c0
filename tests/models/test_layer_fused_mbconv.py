from __future__ import annotations

import itertools

import pytest

from lepton_automl.models.layers.fused_mbconv import FusedMBConv
from tests.helpers.oracle import close, trace


@pytest.mark.parametrize(
    ("kernel", "stride", "out"), list(itertools.product((3, 5), (1, 2), (6, 8)))
)
def test_a_fused_mbconv_expands_densely_projects_and_adds_where_shapes_allow(kernel, stride, out):
    run = trace(FusedMBConv(out=out, kernel=kernel, stride=stride, expand=3))
    y = run.conv("project", run.conv("expand", run.x, stride=stride).relu())
    added = stride == 1 and out == run.x.shape[1]
    assert run.arch.layers[0].residual is added
    assert close(run.y, y + run.x if added else y)


def test_the_inner_width_is_set_by_the_factor_and_pruned_independently():
    run = trace(FusedMBConv(out=8, expand=4))
    assert run.arch.layers[0].hidden == 24
    assert sorted(f for w in run.arch.graph.widths for f in w.fields) == [(0, "hidden"), (0, "out")]
