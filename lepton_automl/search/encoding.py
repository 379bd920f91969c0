"""Encoding: points of a search space as levels of their parameters, and how alike two are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.space import Parameter

REACH = 0.6
"""Distance between numbers, as a share of their range, at which one tells less of the other."""
JOINT_DECAY = 7.0
"""Points that differ in everything are alike by exp(-7) as far as parameters act together."""

Floats = NDArray[np.float64]


class Encoding:
    """Every parameter's values as levels; numbers keep their order, names are only equal or not.

    A parameter that a point does not have (of a layer that was not chosen, say) has a level of
    its own.

    Parameters
    ----------
    knobs : mapping
        The open parameters of a space.
    """

    def __init__(self, knobs: Mapping[str, Parameter]) -> None:
        sizes = [len(knob.values) + 1 for knob in knobs.values()]
        starts = [sum(sizes[:place]) for place in range(len(sizes))]
        self._places = [
            (start, path, _levels(knob))
            for start, (path, knob) in zip(starts, knobs.items(), strict=True)
        ]
        self._size, self._count = sum(sizes), max(1, len(sizes))
        self._alike = np.zeros((self._size, self._size))
        floor = math.exp(-JOINT_DECAY / self._count)
        self._log_joint = np.zeros_like(self._alike)
        for start, knob, size in zip(starts, knobs.values(), sizes, strict=True):
            here = slice(start, start + size)
            self._alike[here, here] = _alike(knob)
            self._log_joint[here, here] = np.log(floor + (1 - floor) * _alike(knob))

    def rows(self, points: Sequence[Mapping[str, Any]]) -> Floats:
        """Points as 0 and 1: a column for every level of every parameter.

        Returns
        -------
        ndarray
            (N, levels).
        """
        rows = np.zeros((len(points), self._size))
        columns = [self._columns(point) for point in points]
        rows[np.arange(len(points))[:, None], np.array(columns, np.int64)] = 1.0
        return rows

    def _columns(self, point: Mapping[str, Any]) -> list[int]:
        return [
            first + (levels[point[path]] if path in point else len(levels))
            for first, path, levels in self._places
        ]

    def likeness(self, a: Floats, b: Floats) -> tuple[Floats, Floats, Floats]:
        """How alike points are, 0 to 1: one parameter at a time, all together, and identical.

        Parameters
        ----------
        a, b : ndarray
            (N, levels) and (M, levels) as `rows` gives them.

        Returns
        -------
        tuple of ndarray
            (N, M) each.
        """
        single = a @ self._alike @ b.T / self._count
        joint = np.exp(a @ self._log_joint @ b.T)
        same = (a @ b.T > self._count - 0.5).astype(np.float64)
        return single, joint, same


def _levels(knob: Parameter) -> dict[Any, int]:
    values = sorted(knob.values) if _is_ordered(knob) else list(knob.values)
    return {value: level for level, value in enumerate(values)}


def _is_ordered(knob: Parameter) -> bool:
    return all(type(value) in (int, float) for value in knob.values)


def _alike(knob: Parameter) -> Floats:
    """Of the levels of one parameter; the last one, its absence, is like nothing else."""
    count = len(knob.values)
    alike = np.eye(count + 1)
    if _is_ordered(knob) and count > 1:
        place = np.arange(count) / (count - 1)
        alike[:count, :count] = np.exp(-0.5 * ((place[:, None] - place) / REACH) ** 2)
    return alike
