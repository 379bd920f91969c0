"""Wrong exports of every format beside ONNX: `verify` finds them though all documents say it holds.

The writer of the format is made to write another net, the artifact is sealed with a verdict that
claims that all is well, and is then verified by a lepton without the fault.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lepton_automl.artifact.verify import verify
from lepton_automl.models import formats
from lepton_automl.models.formats import Words, c
from tests.helpers import children
from tests.helpers.artifacts import make_bundle, seal_bundle

NAMES = [name for name in formats.names() if name != formats.ONNX]


def scale(net, words):
    first = next(iter(net.arch.graph.weighted_ops)).name
    scales = net.qparams.weight_scales
    changed = scales | {first: scales[first] * np.float32(1.05)}
    return with_qparams(net, weight_scales=changed), words


def transposed(net, words):
    first = next(iter(net.arch.graph.weighted_ops)).name
    weights = net.qparams.weights
    turned = np.ascontiguousarray(weights[first].swapaxes(2, 3))
    return with_qparams(net, weights=weights | {first: turned}), words


def swapped_classes(net, words):
    last = list(net.arch.graph.weighted_ops)[-1].name
    weights = net.qparams.weights
    other = np.ascontiguousarray(weights[last][::-1])
    return with_qparams(net, weights=weights | {last: other}), words


def swapped_labels(net, words):
    return net, Words(words.class_names[::-1], words.metadata)


def mean(net, words):
    about = net.preprocessing
    other = dataclasses.replace(about, zero_point=about.zero_point + 9)
    return dataclasses.replace(net, preprocessing=other), words


def with_qparams(net, **changes):
    return dataclasses.replace(net, qparams=dataclasses.replace(net.qparams, **changes))


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    children.answer_formats_here(monkeypatch)
    monkeypatch.setattr(c, "CROSS_COMPILER", "none")  # Sizes are measured elsewhere.


@pytest.fixture(params=NAMES)
def name(request):
    if why := formats.load(request.param).missing():
        pytest.skip(f"not run here: {why}")
    return request.param


def sealed_with(fault, name, folder):
    """An artifact whose format was written wrongly, with a verdict that says that it holds."""
    kind = type(formats.load(name))
    write = kind.files
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            kind, "files", lambda self, net, words, golden: write(self, *fault(net, words), golden)
        )
        made = make_bundle(folder, formats=(name,))
        found = verify(dataclasses.replace(made.request, digests=made.digests))
        seal_bundle(made, found, status="holds", problems=())
    return made, found


@pytest.mark.parametrize("fault", [scale, transposed, swapped_classes, swapped_labels, mean])
def test_a_wrong_export_is_found(name, fault, tmp_path):
    made, own = sealed_with(fault, name, tmp_path)
    again = verify(made.request)
    assert again.status == "broken"
    assert any(text.startswith(f"{name}: ") for text in again.reasons)
    if fault is not swapped_labels:  # Its own writer sees labels only where files can be asked.
        assert own.status == "broken"
        assert any(text.startswith(f"{name}: ") for text in own.reasons)


def test_a_right_export_holds(name, tmp_path):
    made, own = sealed_with(lambda net, words: (net, words), name, tmp_path)
    again = verify(made.request)
    for found in (own, again):
        assert (found.status, found.problems) == ("holds", ())
        assert found.formats[0].metrics is not None
