"""Find near duplicates: one scene or piece under other light, with noise, or slightly shifted.

A picture becomes a grey thumbnail, and its vector 16x16 values without mean and linear gradient,
of unit length: brightness, contrast and a light from one side drop out. The distance of two
pictures is the least one between one as it is and the other cropped in several ways. Whether a
distance is too small for unrelated pictures depends on the data: handwritten digits look alike,
photographs do not. So the number of pictures of a class that are expected within a distance is
extrapolated from larger distances by the power law of the local intrinsic dimension; only pairs
below a small expected number are near duplicates.

Source: Levina and Bickel 2005, Maximum likelihood estimation of intrinsic dimension (NIPS 17);
Amsaleg et al. 2015, Estimating local intrinsic dimensionality (KDD).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lepton_automl.data.picture_check import THUMBNAIL
from lepton_automl.data.pictures import decode
from lepton_automl.data.pictures.picture_files import Pictures
from lepton_automl.data.pictures.pixel_scale import SIXTEEN_BIT, PixelScale
from lepton_automl.data.splits.close_pairs import connect

_SIDE = 16
"""Rows and columns of a vector."""
_CROPS = (
    (0.0, 0.0, 1.0, 1.0),
    *((x, y, x + 0.9, y + 0.9) for x in (0.0, 0.1) for y in (0.0, 0.1)),
    *((0.05, 0.05, 0.95, 0.95), (0.0, 0.05, 1.0, 0.95), (0.05, 0.0, 0.95, 1.0)),
)
"""Left, top, right and bottom of the crops that are compared, as shares of the picture."""
_MIN_CONTRAST = 2.0
"""Standard deviation, grey levels, below which a thumbnail is flat and its vector noise."""
_REFERENCES = 1000
"""Pictures of a class whose distances stand for all of the class."""
_FEW = 40
"""Pictures of a class below which those of other classes are added as references."""
_BLOCK = 2048
"""Pictures that are worked on at a time."""
_NEAR = (0.01, 0.1)
"""Shares of nearest references from which the power law is fitted."""
_STRICT = 1e-4
"""Expected unrelated pictures within a distance, below which a pair is near duplicates."""
_LOOSE = ((0.1, 1e-2), (0.02, 1e-3))
"""Share of pictures that have a near duplicate by `_STRICT`, and the number that replaces it above
that share: where near duplicates abound, missing one is likelier than taking an unrelated one."""
_MIN_FOUND = 10
"""Pictures with a near duplicate from which a share counts for that."""
MIN_SIDE = 8
"""Rows or columns of the smallest pictures that are compared; smaller ones show too little."""
MAX_PAIRS = 5_000_000_000
"""Pairs within classes, counted both ways, above which none are compared: about a minute's work."""
_MAX_SHARE = 0.25
"""Largest share of a class that one group may have; above it the group's bound is lowered."""
_ALIKE = 0.9
"""Correlation of two thumbnails, in the best of the crops, that confirms a near duplicate."""
_ABOUND = 0.1
"""Share of pictures with a near duplicate from which none is doubted: scenes, frames of videos."""
_MOST_CONFIRMED = 2048
"""Pictures at most of a group whose pairs are compared once more."""
_MIN_GROUPS = 6
"""Groups that a class must have to be grouped."""
_CUTS = 8
"""Bounds at most that are tried, each a hundredth of the one before, for components too large."""

Floats = NDArray[np.float32]
Crop = tuple[float, float, float, float]
Shares = tuple[float, float]


class _Search(NamedTuple):
    """Pairs with fewer expected unrelated pictures than a bound."""

    shares: Shares
    """Shares of nearest references from which the power law is fitted."""
    bound: float


_FAR = (_Search((0.1, 0.3), _STRICT), _Search((0.3, 0.6), 1e-6))
"""Searches beyond groups of near duplicates."""


@dataclass(frozen=True)
class NearDuplicates:
    """Groups of near duplicates."""

    groups: NDArray[np.int64]
    """(N,): index of the first sample of the group; a sample without near duplicates is alone."""
    bound: float
    """Expected unrelated pictures nearer than a pair that is taken for near duplicates."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(N,): samples in the group of each sample."""
        sizes: NDArray[np.int64] = np.bincount(self.groups, minlength=len(self.groups))[self.groups]
        return sizes


def find_near_duplicates(thumbs: NDArray[np.uint8], labels: NDArray[np.int64]) -> NearDuplicates:
    """Group the near duplicates within each class.

    Parameters
    ----------
    thumbs : ndarray
        uint8 (N, `THUMBNAIL`, `THUMBNAIL`), of `thumbnails`.
    labels : ndarray
        int64 (N,).
    """
    n = len(labels)
    has_structure = _contrast(thumbs) >= _MIN_CONTRAST
    members = [np.flatnonzero((labels == label) & has_structure) for label in np.unique(labels)]

    def grouped(
        known: NDArray[np.int64], *searches: _Search, among: NDArray[np.bool_] = has_structure
    ) -> list[NDArray[np.int64]]:
        return _grouped(thumbs, members, known, among, searches)

    known, strict = np.arange(n, dtype=np.int64), _Search(_NEAR, _STRICT)
    *far, found = grouped(known, *_FAR, strict)
    for beyond in far:
        # Groups hide their own members: their neighbourhood is that beyond them.
        if _share_grouped(beyond) >= _LOOSE[0][0] and n >= _MIN_FOUND:
            known = beyond
            (found,) = grouped(known, strict)
            break
    share = _share_grouped(found)
    # By chance about `_STRICT` of all pictures have one; a few more are not worth another split.
    if share * n < max(4, 10 * _STRICT * n):
        bound = min(_STRICT, 1e-3 / max(n, 1))
        several = np.bincount(found, minlength=n)[found] > 1
        (found,) = grouped(known, _Search(_NEAR, bound), among=several)
        return NearDuplicates(found, bound)
    for least, loose in _LOOSE:
        if share > least and share * n >= _MIN_FOUND:
            return NearDuplicates(grouped(found, _Search(_NEAR, loose))[0], loose)
    return NearDuplicates(found, _STRICT)


def find_certain(thumbs: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Group near duplicates among all pictures, whatever their class, by the strictest bound.

    Less than 0.001 pairs of unrelated pictures are expected to pass: most passing pairs are copies
    in another size or encoding.

    Parameters
    ----------
    thumbs : ndarray
        uint8 (N, `THUMBNAIL`, `THUMBNAIL`), of `thumbnails`.

    Returns
    -------
    ndarray
        (N,): index of the first picture of the group.
    """
    known = np.arange(len(thumbs), dtype=np.int64)
    has_structure = _contrast(thumbs) >= _MIN_CONTRAST
    search = _Search(_NEAR, 1e-3 / max(len(thumbs), 1))
    return _grouped(thumbs, [np.flatnonzero(has_structure)], known, has_structure, [search])[0]


def confirmed(thumbs: NDArray[np.uint8], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups of near duplicates of which every picture correlates with another one by 0.9 or more.

    The search compares 16x16 values and takes what unrelated pictures are not expected to reach,
    which flat pictures with few shapes do more often than the power law says. Here all 32x32 values
    count, in the better of the crops. Where near duplicates abound (`_ABOUND`), groups stay.

    Parameters
    ----------
    thumbs : ndarray
        uint8 (N, `THUMBNAIL`, `THUMBNAIL`), of `thumbnails`.
    groups : ndarray
        (N,): index of the first picture of the group.

    Returns
    -------
    ndarray
        (N,): likewise.
    """
    found = groups.copy()
    if _share_grouped(groups) >= _ABOUND:
        return found
    order = np.argsort(groups, kind="stable")
    _, starts = np.unique(groups[order], return_index=True)
    for own in np.split(order, starts[1:]):
        if not 2 <= len(own) <= _MOST_CONFIRMED:
            continue
        views = _views(thumbs[own], side=THUMBNAIL)
        # A squared distance of vectors of unit length is 2 minus twice their correlation.
        reach = np.full((1, len(own)), np.sqrt(2 - 2 * _ALIKE), np.float32)
        found[own] = own[_firsts(connect(views, reach)[0])]
    return found


def _share_grouped(groups: NDArray[np.int64]) -> float:
    """Share of pictures that are not alone in their group."""
    return float((np.bincount(groups)[groups] > 1).mean()) if len(groups) else 0.0


def are_too_many(labels: NDArray[np.int64]) -> bool:
    """Whether classes are too large to be searched."""
    return int((np.unique(labels, return_counts=True)[1] ** 2).sum()) > MAX_PAIRS


def thumbnails(pictures: Pictures, scale: PixelScale = SIXTEEN_BIT) -> NDArray[np.uint8]:
    """Grey thumbnails (N, `THUMBNAIL`, `THUMBNAIL`) of pictures; `scale` is that of 16-bit files.

    Raises
    ------
    DataError
        If a picture file was removed or damaged since the data were opened.
    """
    made = np.empty((len(pictures), THUMBNAIL, THUMBNAIL), np.uint8)

    def put(place: int) -> None:
        made[place] = decode.thumbnail(pictures[place], THUMBNAIL, scale)

    decode.map_in_threads(put, range(len(pictures)))
    return made


def vectors(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Vectors (N, 256) of unit length; the larger a product of two, the more alike the pictures."""
    made: Floats = _views(thumbs, _CROPS[:1])[0]
    return made


def _contrast(thumbs: NDArray[np.uint8]) -> Floats:
    contrast: Floats = thumbs.reshape(len(thumbs), -1).astype(np.float32).std(1)
    return contrast


def _views(thumbs: NDArray[np.uint8], crops: Sequence[Crop] = _CROPS, side: int = _SIDE) -> Floats:
    """Vectors (V, N, `side` ** 2) of unit length of the crops: without mean and linear gradient.

    The values of a vector are in the order of the columns.
    """
    views = np.empty((len(crops), len(thumbs), side * side), np.float32)
    for start in range(0, len(thumbs), _BLOCK):
        block = thumbs[start : start + _BLOCK]
        rows = block.reshape(-1, THUMBNAIL).astype(np.float32)
        columns = {
            span: (rows @ _averaging(*span, side).T)
            .reshape(len(block), THUMBNAIL, side)
            .transpose(0, 2, 1)
            .reshape(-1, THUMBNAIL)
            for span in {(left, right) for left, _, right, _ in crops}
        }
        for view, (left, top, right, bottom) in zip(views, crops, strict=True):
            made = view[start : start + _BLOCK]
            np.matmul(
                columns[left, right], _averaging(top, bottom, side).T, out=made.reshape(-1, side)
            )
            made -= (made @ _gradients(side)) @ _gradients(side).T
            made /= np.maximum(np.sqrt(np.einsum("nd,nd->n", made, made)), 1e-6)[:, None]
    return views


@cache
def _gradients(side: int) -> Floats:
    """Orthonormal basis (`side` ** 2, 3) of vectors that are a mean and a linear gradient."""
    across = np.broadcast_to(np.linspace(-1, 1, side), (side, side))
    plane = np.stack([np.ones((side, side)), across, across.T]).reshape(3, -1)
    basis: Floats = np.linalg.qr(plane.T)[0].astype(np.float32)
    return basis


@cache
def _averaging(start: float, end: float, side: int) -> Floats:
    """Matrix (`side`, `THUMBNAIL`) of area averages over a part of a thumbnail."""
    edges = np.linspace(start, end, side + 1) * THUMBNAIL
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(THUMBNAIL)[None]
    overlap = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    weights: Floats = (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)
    return weights


def _grouped(
    thumbs: NDArray[np.uint8],
    members: Sequence[NDArray[np.int64]],
    known: NDArray[np.int64],
    among: NDArray[np.bool_],
    searches: Sequence[_Search],
) -> list[NDArray[np.int64]]:
    """Groups (N,) that each of the searches finds within the classes, of pictures `among` (N,).

    References of the same group in `known` (N,) are left out of the fit.
    """
    everyone = np.sort(np.concatenate(members))
    groups = [np.arange(len(thumbs), dtype=np.int64) for _ in searches]
    for own in members:
        if among[own].sum() < 2:
            continue
        views = _views(thumbs[own])
        drawn = _references(own, everyone)
        fits = _fits(
            views,
            _views(thumbs[drawn]),
            known[own][:, None] == known[drawn][None],
            [search.shares for search in searches],
        )
        # Both pictures have a say: the geometric mean of their expected numbers is bounded.
        reaches = np.stack(
            [
                radius * search.bound ** (1 / dimension)
                for search, (radius, dimension) in zip(searches, fits, strict=True)
            ]
        )
        reaches *= among[own]
        for found, label, reach, (_, dimension) in zip(
            groups, connect(views, reaches), reaches, fits, strict=True
        ):
            found[own] = own[_limited(label, views, reach, 0.01 ** (1 / dimension))]
    return groups


def _limited(
    label: NDArray[np.int64], views: Floats, reach: Floats, lower: float
) -> NDArray[np.int64]:
    """First member (M,) of the component of each picture of a class.

    A component that is too large for the class is cut at reaches `lower` times as large; where the
    class would be left with few groups nothing is grouped.
    """
    count = len(label)
    most = max(2.0, _MAX_SHARE * count)
    firsts = _firsts(label)
    members = np.arange(count)
    for step in range(1, _CUTS):
        members = members[np.bincount(label)[label] > most]
        if not len(members):
            break
        label = connect(views[:, members], reach[None, members] * lower**step)[0]
        firsts[members] = members[_firsts(label)]
    return np.arange(count) if len(np.unique(firsts)) < min(_MIN_GROUPS, count) else firsts


def _firsts(label: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of the first one with the same label (M,)."""
    _, first, place = np.unique(label, return_index=True, return_inverse=True)
    return first[place]


def _references(own: NDArray[np.int64], everyone: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pictures whose distances stand for all of the class."""
    rng = np.random.default_rng(0)
    drawn = rng.permutation(own)[:_REFERENCES]
    if len(own) < _FEW:
        drawn = np.union1d(drawn, rng.permutation(everyone)[: 4 * _FEW])
    return drawn


def _fits(
    views: Floats, references: Floats, is_hidden: NDArray[np.bool_], every: Sequence[Shares]
) -> list[tuple[Floats, float]]:
    """Distances (M,) within which one unrelated picture is expected, and the dimension.

    One fit for each pair of shares. The expected number within a distance is
    (distance / radius) ** dimension. `is_hidden` (M, R): references that are left out.
    """
    count = views.shape[1]
    tails = [np.empty((3, count), np.float32) for _ in every]
    for start in range(0, count, _BLOCK):
        rows = slice(start, start + _BLOCK)
        distances = _distances(views[:, rows], references)
        distances[is_hidden[rows]] = np.inf
        distances.sort(axis=1)
        for shares, tail in zip(every, tails, strict=True):
            tail[:, rows] = _tail(distances, shares)
    return [_power_law(tail, count) for tail in tails]


def _distances(views: Floats, references: Floats) -> Floats:
    """Least distances (N, R) over the crops of either picture."""
    nearest = views[0] @ references[0].T
    for view, reference in zip(views[1:], references[1:], strict=True):
        np.maximum(nearest, view @ references[0].T, out=nearest)
        np.maximum(nearest, views[0] @ reference.T, out=nearest)
    distances: Floats = np.sqrt(np.maximum(2 - 2 * nearest, 0.0))
    return distances


def _tail(distances: Floats, shares: Shares) -> tuple[Floats, Floats, Floats]:
    """Nearest references by their sorted distances (N, R); infinite ones are left out.

    Each (N,): logarithm of the distance at the larger share, how much the mean logarithm of nearer
    ones is below it, and the share of the references within it, infinite where they are too few.
    """
    usable = np.isfinite(distances).sum(1)
    low = np.clip((shares[0] * usable).astype(int), 2, None)
    high = np.clip((shares[1] * usable).astype(int), 8, None)
    high = np.minimum(high, np.maximum(usable - 1, 0))
    low = np.minimum(low, np.maximum(high - 1, 0))
    logs = np.log(np.maximum(distances[:, : int(high.max()) + 1], 1e-4))
    logs[~np.isfinite(logs)] = 0.0
    sums = np.concatenate([np.zeros((len(logs), 1)), logs.cumsum(1, dtype=np.float64)], 1)
    row = np.arange(len(logs))
    edge = logs[row, high]
    mean = (sums[row, high] - sums[row, low]) / np.maximum(high - low, 1)
    share = np.where(usable < 8, np.inf, (high + 1) / np.maximum(usable, 1))
    return edge, np.maximum(edge - mean, 1e-3), share


def _power_law(tail: Floats, count: int) -> tuple[Floats, float]:
    """Radius (N,) and dimension of a class of `count` pictures from its `_tail` (3, N)."""
    edge, spread, share = tail
    dimension = float(np.clip(np.median(1 / spread), 1.0, 200.0))
    radius = np.exp(edge - np.log(np.maximum(share * count, 1.0)) / dimension)
    return np.where(np.isfinite(share), radius, 1e-6).astype(np.float32), dimension
