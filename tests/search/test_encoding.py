from __future__ import annotations

import numpy as np

from lepton_automl.search.encoding import Encoding
from lepton_automl.space import Choice, Range

KNOBS = {
    "kind": Choice(("conv", "residual", "mbconv")),
    "out": Range(8, 40, 8),
    "lr": Choice((0.1, 0.05, 0.2)),
}


def likeness(a: dict[str, object], b: dict[str, object]) -> tuple[float, float, float]:
    encoding = Encoding(KNOBS)
    single, joint, same = encoding.likeness(encoding.rows([a]), encoding.rows([b]))
    return float(single[0, 0]), float(joint[0, 0]), float(same[0, 0])


def test_a_point_is_wholly_like_itself() -> None:
    point = {"kind": "conv", "out": 16, "lr": 0.05}
    assert likeness(point, point) == (1.0, 1.0, 1.0)


def test_numbers_are_more_alike_the_nearer_they_are_and_names_only_if_equal() -> None:
    point = {"kind": "conv", "out": 8, "lr": 0.05}
    near, far = (likeness(point, point | {"out": out}) for out in (16, 40))
    assert near[0] > far[0] > 2 / 3
    assert near[1] > far[1]
    assert near[2] == far[2] == 0.0
    names = [likeness(point, point | {"kind": kind})[0] for kind in ("residual", "mbconv")]
    assert names[0] == names[1]
    assert abs(names[0] - 2 / 3) < 1e-12


def test_listed_numbers_count_by_size_not_by_place_in_the_list() -> None:
    point = {"kind": "conv", "out": 8, "lr": 0.05}
    assert likeness(point, point | {"lr": 0.1})[0] > likeness(point, point | {"lr": 0.2})[0]


def test_what_a_point_does_not_have_is_like_nothing_but_its_absence() -> None:
    without, with_it = {"kind": "conv", "out": 8}, {"kind": "conv", "out": 8, "lr": 0.05}
    assert likeness(without, without) == (1.0, 1.0, 1.0)
    assert abs(likeness(without, with_it)[0] - 2 / 3) < 1e-12
    assert likeness(without, with_it)[2] == 0.0


def test_likenesses_are_covariances() -> None:
    encoding, rng = Encoding(KNOBS), np.random.default_rng(0)
    points = [
        {path: knob.values[rng.integers(len(knob.values))] for path, knob in KNOBS.items()}
        for _ in range(40)
    ]
    rows = encoding.rows(points)
    for part in encoding.likeness(rows, rows):
        assert np.allclose(part, part.T)
        assert np.linalg.eigvalsh(part).min() > -1e-9
