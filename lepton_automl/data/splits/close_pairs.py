"""Connect vectors that lie closer than their reach: an exact search by bounds in few dimensions.

A thing is seen in several views. Two are connected where a view of one and the first view of the
other are nearer than the geometric mean of their reaches. Orthogonal projections lengthen no
distance, so pairs are first compared by a few principal components; boxes around neighbours leave
out pairs before that, and so does what is connected already.

Source: the range join of Gray and Moore 2000, N-body problems in statistical learning (NIPS 13),
with one level of boxes and a matrix product for each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BOX = 256
"""Vectors at most in a box."""
_FEW = 512
"""Vectors up to which principal components cost more than they save."""
_COMPONENTS = 24
"""Principal components by which pairs are compared first."""
_SAMPLE = 2048
"""Vectors from which they are taken."""
_MANY = 0.03
"""Share of pairs that pass above which all are compared in every dimension by one product."""
_PAIRS = 1 << 15
"""Pairs at most whose distance is computed at once."""
_WIDTH = 2048
"""Columns of such a product: it fits into a cache."""
_TOLERANCE = 1e-5
"""Error of squared distances in float32 for vectors of about unit length."""

Floats = NDArray[np.float32]


def connect(views: Floats, reaches: Floats) -> NDArray[np.int64]:
    """Component (R, N) of each vector, for each row of reaches.

    Vectors i and j are connected if distance^2 < reach_i * reach_j; the distance is the least one
    of any view of one and the first view of the other.

    Parameters
    ----------
    views : ndarray
        float32 (V, N, D), of about unit length.
    reaches : ndarray
        float32 (R, N), at least 0.
    """
    count = views.shape[1]
    points = views if count <= _FEW else _projected(views)
    order, starts = _boxes(points[0])
    points, widest = points[:, order], reaches.max(0)[order]
    ends = np.append(starts[1:], count)
    low = np.minimum.reduceat(points, starts, axis=1)
    high = np.maximum.reduceat(points, starts, axis=1)
    longest = np.maximum.reduceat(widest, starts)
    # One product tells whether a squared distance is below the product of the reaches.
    half = -0.5 * np.einsum("vnk,vnk->vn", points, points)[..., None]
    ones, sides = np.ones((count, 1), np.float32), (widest / np.sqrt(2))[:, None]
    right = np.concatenate([points[0], ones, half[0], sides], 1, dtype=np.float32)
    components = _Components(views, reaches, order, starts)
    for box in range(len(starts)):
        rows = slice(starts[box], ends[box])
        for view in range(len(points)):
            gap = np.maximum(0, np.maximum(low[view, box] - high[0], low[0] - high[view, box]))
            near = np.einsum("bk,bk->b", gap, gap) < longest[box] * longest + _TOLERANCE
            near &= ~components.hold(box)
            columns = _ranges(starts[near], ends[near])
            if not len(columns):
                continue
            own = (points[view, rows], half[view, rows], ones[rows], sides[rows])
            left = np.concatenate(own, 1, dtype=np.float32)
            hits = np.flatnonzero(left @ right[columns].T > -_TOLERANCE)
            if len(hits) > _MANY * len(left) * len(columns):
                components.add_all(view, np.arange(starts[box], ends[box]), columns)
            else:
                first, second = starts[box] + hits // len(columns), columns[hits % len(columns)]
                components.add(view, first, second)
    found = np.empty_like(components.labels)
    found[:, order] = components.labels
    return found


class _Components:
    """Components that grow by pairs of vectors in the order of the boxes."""

    def __init__(
        self,
        views: Floats,
        reaches: Floats,
        order: NDArray[np.int64],
        starts: NDArray[np.int64],
    ) -> None:
        self._views, self._reaches = views, reaches[:, order]
        self._order, self._starts = order, starts
        self.labels = np.tile(np.arange(len(order)), (len(reaches), 1))
        """(R, N), of vectors in the order of the boxes."""
        self._least = self._most = np.empty(0, np.int64)
        self._bound()

    def _bound(self) -> None:
        """Least and largest label (R, B) of each box."""
        self._least = np.minimum.reduceat(self.labels, self._starts, axis=1)
        self._most = np.maximum.reduceat(self.labels, self._starts, axis=1)

    def hold(self, box: int) -> NDArray[np.bool_]:
        """For each box, whether all vectors of it and of `box` are in one component (B,)."""
        label = self._least[:, box, None]
        ends = (self._least == label) & (self._most == label)
        hold: NDArray[np.bool_] = (ends & (self._most[:, box, None] == label)).all(0)
        return hold

    def add(self, view: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> None:
        """Connect the pairs that are near enough: `view` of the first, the second as they are."""
        for start in range(0, len(first), _PAIRS):
            a, b = first[start : start + _PAIRS], second[start : start + _PAIRS]
            apart = (self.labels[:, a] != self.labels[:, b]).any(0)
            a, b = a[apart], b[apart]
            gap = self._views[view, self._order[a]] - self._views[0, self._order[b]]
            squared = np.einsum("nd,nd->n", gap, gap)
            for row, reach in enumerate(self._reaches):
                near = squared < reach[a] * reach[b]
                self._join(row, a[near], b[near])

    def add_all(self, view: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
        """The same for every pair of a row and a column, few of them by exact differences."""
        seen = self._views[view, self._order[rows]]
        for start in range(0, len(columns), _WIDTH):
            block = columns[start : start + _WIDTH]
            plain = self._views[0, self._order[block]]
            squared = seen @ plain.T
            squared *= -2
            squared += np.einsum("nd,nd->n", seen, seen)[:, None]
            squared += np.einsum("nd,nd->n", plain, plain)
            for row, reach in enumerate(self._reaches):
                excess = squared - reach[rows, None] * reach[block]
                hits = np.flatnonzero(excess < _TOLERANCE)
                first, second = rows[hits // len(block)], block[hits % len(block)]
                is_near = excess.reshape(-1)[hits] < -_TOLERANCE
                self._join(row, first[is_near], second[is_near])
                self.add(view, first[~is_near], second[~is_near])

    def _join(self, row: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> None:
        label = self.labels[row]
        a, b = label[first], label[second]
        apart = a != b
        if not apart.any():
            return
        from scipy.sparse import coo_matrix  # Slow to import; workers do without.
        from scipy.sparse.csgraph import connected_components

        edges = (np.ones(int(apart.sum())), (a[apart], b[apart]))
        joined = connected_components(coo_matrix(edges, (len(label),) * 2), directed=False)[1]
        self.labels[row] = joined[label]
        self._bound()


def _projected(views: Floats) -> Floats:
    """Points (V, N, K + 1) whose distances are at most those of the views.

    K principal components of the first view, and the length of what they leave out.
    """
    sample = views[0, :: -(-views.shape[1] // _SAMPLE)]
    mean = sample.mean(0)
    axes = np.linalg.eigh((sample - mean).T @ (sample - mean))[1][:, ::-1][:, :_COMPONENTS]
    points = np.empty((*views.shape[:2], axes.shape[1] + 1), np.float32)
    for view, made in zip(views, points, strict=True):
        centred = view - mean
        inside = made[:, :-1] = centred @ axes
        rest = np.einsum("nd,nd->n", centred, centred) - np.einsum("nk,nk->n", inside, inside)
        made[:, -1] = np.sqrt(np.maximum(rest, 0.0))
    return points


def _boxes(points: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order (N,) of points in which boxes are runs, and the start of each run.

    Boxes are halved at the median of their widest dimension.
    """
    waiting, made = [np.arange(len(points))], []
    while waiting:
        own = waiting.pop()
        if len(own) <= _BOX:
            made.append(own)
            continue
        widest = int(np.ptp(points[own], axis=0).argmax())
        middle = len(own) // 2
        parted = own[np.argpartition(points[own, widest], middle)]
        waiting += [parted[:middle], parted[middle:]]
    sizes = np.array([len(own) for own in made])
    return np.concatenate(made), np.cumsum(sizes) - sizes


def _ranges(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """The whole numbers from each start to before its end, one range after the other."""
    sizes = ends - starts
    offsets = np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
    return offsets + np.arange(int(sizes.sum()))
