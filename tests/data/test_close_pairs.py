from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from lepton_automl.data.splits import close_pairs
from lepton_automl.data.splits.close_pairs import connect


def every_pair(views, reach):
    """Components by the distances of all pairs, in float64."""
    views, reach = views.astype(np.float64), reach.astype(np.float64)
    near = np.zeros((len(reach), len(reach)), bool)
    for view in views:
        near |= cdist(view, views[0], "sqeuclidean") < np.multiply.outer(reach, reach)
    return connected_components(near | near.T, directed=False)[1]


def firsts(labels):
    """Index of the first vector of each one's component."""
    _, first, place = np.unique(labels, return_index=True, return_inverse=True)
    return first[place]


def of_unit_length(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def random_views(rng, count, dimensions, spread):
    plain = rng.normal(size=(count, dimensions)) * np.linspace(1, 0.1, dimensions)
    moved = [plain + spread * rng.normal(size=plain.shape) for _ in range(2)]
    return of_unit_length(np.stack([plain, *moved]))


def clusters(rng):
    """Dense groups far from each other, of very different sizes, and some vectors between them."""
    centres = rng.normal(size=(6, 40))
    place = rng.choice(6, 700, p=[0.6, 0.2, 0.1, 0.05, 0.03, 0.02])
    return of_unit_length((centres[place] + 0.02 * rng.normal(size=(700, 40)))[None])


def grid():
    """Neighbours at the same distance in a chain that runs through all boxes."""
    angle = np.arange(700) * 2e-3
    return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)[None]


def twins(rng):
    """Pairs whose difference is a length along dimensions that the principal components miss."""
    plain = rng.normal(size=(600, 20)) * np.repeat([1.0, 0.0], [6, 14])
    return np.concatenate([plain, plain[:50] + 0.1 * np.eye(20)[12]]).astype(np.float32)[None]


def cases():
    rng = np.random.default_rng(0)
    for spread in (0.05, 0.5):
        for scale in (0.1, 0.3, 0.6):
            reach = scale * rng.uniform(0.2, 1.5, 650)
            yield f"random {spread} {scale}", random_views(rng, 650, 30, spread), reach
    noise = of_unit_length(rng.normal(size=(2, 600, 60)))
    yield "noise", noise, np.full(600, 1.15)
    for scale in (0.02, 0.05, 0.3):
        yield f"clusters {scale}", clusters(rng), np.full(700, scale)
    one_far = np.full(700, 0.01)
    one_far[3] = 50.0
    yield "one long reach", clusters(rng), one_far
    for scale in (1.9e-3, 2.1e-3):
        yield f"chain {scale}", grid(), np.full(700, scale)
    equal = np.tile(of_unit_length(rng.normal(size=(1, 5, 30))), (1, 130, 1))
    yield "equal vectors", equal, np.full(650, 1e-3)
    yield "no reach", equal, np.zeros(650)
    yield "twins", twins(rng), np.full(650, 0.12)
    yield "few", random_views(rng, 7, 3, 0.3), np.full(7, 0.7)
    yield "one", random_views(rng, 1, 3, 0.3), np.ones(1)


@pytest.mark.parametrize("box", [16, 256])
def test_components_are_those_of_all_pairs(box, monkeypatch):
    monkeypatch.setattr(close_pairs, "_BOX", box)
    monkeypatch.setattr(close_pairs, "_COMPONENTS", 6)
    monkeypatch.setattr(close_pairs, "_PAIRS", 500)
    monkeypatch.setattr(close_pairs, "_WIDTH", 100)
    for name, views, reach in cases():
        reaches = np.stack([reach, 0.8 * reach]).astype(np.float32)
        for found, own in zip(connect(views, reaches), reaches, strict=True):
            wanted = firsts(every_pair(views, own))
            np.testing.assert_array_equal(firsts(found), wanted, err_msg=name)
