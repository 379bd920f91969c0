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

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from lepton_automl.data import decode
from lepton_automl.data.pixel_scale import SIXTEEN_BIT, PixelScale
from lepton_automl.data.sources import Picture, Pictures

THUMBNAIL = 32
"""Rows and columns of a thumbnail."""
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
_ALL_PAIRS = 2500
"""Pictures of a class up to which all pairs are compared in every crop."""
_CANDIDATES = 48
"""Nearest pictures without crops that are compared in every crop, where there are more."""
_CHUNK = 20_000
"""Pictures of a class that are compared with each other, where there are more: neighbours in their
first principal component, in chunks that overlap by half."""
_NEAR = (0.01, 0.1)
"""Shares of nearest references from which the power law is fitted."""
_STRICT = 1e-4
"""Expected unrelated pictures within a distance, below which a pair is near duplicates."""
_LOOSE = ((0.1, 1e-2), (0.02, 1e-3))
"""Share of pictures that have a near duplicate by `_STRICT`, and the number that replaces it above
that share: where near duplicates abound, missing one is likelier than taking an unrelated one."""
_FAR = (((0.1, 0.3), _STRICT), ((0.3, 0.6), 1e-6))
"""Shares from which it is fitted beyond groups of near duplicates, and expected numbers."""
_MIN_FOUND = 10
"""Pictures with a near duplicate from which a share counts for that."""
MIN_SIDE = 8
"""Rows or columns of the smallest pictures that are compared; smaller ones show too little."""
_MAX_SHARE = 0.25
"""Largest share of a class that one group may have; above it the group's bound is lowered."""
_MIN_GROUPS = 6
"""Groups that a class must have to be grouped."""

Floats = NDArray[np.float32]


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
    crops = [_vectors(thumbs, crop) for crop in _CROPS]
    has_structure = _contrast(thumbs) >= _MIN_CONTRAST
    members = [np.flatnonzero((labels == label) & has_structure) for label in np.unique(labels)]
    everyone = np.flatnonzero(has_structure)
    alone = np.arange(n, dtype=np.int64)
    # Groups hide their own members: a first pass looks beyond them.
    hidden = alone
    for shares, strict in _FAR:
        beyond = _linked(crops, members, everyone, alone, shares, strict, n)
        if _share_grouped(beyond) >= _LOOSE[0][0] and n >= _MIN_FOUND:
            hidden = beyond
            break
    bound, found = _STRICT, _linked(crops, members, everyone, hidden, _NEAR, _STRICT, n)
    share = _share_grouped(found)
    # By chance about `_STRICT` of all pictures have one; a few more are not worth another split.
    if share * n < max(4, 10 * _STRICT * n):
        bound, found = (
            1e-3 / max(n, 1),
            _linked(crops, members, everyone, hidden, _NEAR, 1e-3 / max(n, 1), n),
        )
    for least, loose in _LOOSE:
        if share > least and share * n >= _MIN_FOUND:
            bound, found = loose, _linked(crops, members, everyone, found, _NEAR, loose, n)
            break
    return NearDuplicates(found, bound)


def _share_grouped(groups: NDArray[np.int64]) -> float:
    """Share of pictures that are not alone in their group."""
    return float((np.bincount(groups)[groups] > 1).mean()) if len(groups) else 0.0


def thumbnails(pictures: Pictures, scale: PixelScale = SIXTEEN_BIT) -> NDArray[np.uint8]:
    """Grey thumbnails (N, `THUMBNAIL`, `THUMBNAIL`) of pictures; `scale` is that of 16-bit files.

    Raises
    ------
    DataError
        If a picture file was removed or damaged since the data were opened.
    """
    made = np.empty((len(pictures), THUMBNAIL, THUMBNAIL), np.uint8)

    def put(place: int) -> None:
        made[place] = _thumbnail(pictures[place], scale)

    decode.map_in_threads(put, range(len(pictures)))
    return made


def vectors(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Vectors (N, 256) of unit length; the larger a product of two, the more alike the pictures."""
    return _vectors(thumbs, _CROPS[0])


def _thumbnail(picture: Picture, scale: PixelScale) -> NDArray[np.uint8]:
    if isinstance(picture, Path) and picture.suffix.lower() in {".jpg", ".jpeg"}:
        try:
            with Image.open(picture) as image:
                image.draft("L", (2 * THUMBNAIL, 2 * THUMBNAIL))  # Decodes at a part of the size.
                grey = image.convert("L")
        except OSError:
            grey = None
        if grey is not None:
            return _resized(grey)
    return _resized(Image.fromarray(decode.decode(picture, 1, scale=scale)[..., 0]))


def _resized(image: Image.Image) -> NDArray[np.uint8]:
    is_small = min(image.size) < THUMBNAIL
    way = Image.Resampling.BILINEAR if is_small else Image.Resampling.BOX
    return np.asarray(image.resize((THUMBNAIL, THUMBNAIL), way))


def _contrast(thumbs: NDArray[np.uint8]) -> Floats:
    contrast: Floats = thumbs.reshape(len(thumbs), -1).astype(np.float32).std(1)
    return contrast


def _vectors(thumbs: NDArray[np.uint8], crop: tuple[float, float, float, float]) -> Floats:
    """Vectors (N, 256) of unit length of a crop: without mean and linear gradient."""
    left, top, right, bottom = crop
    rows, columns = _averaging(top, bottom), _averaging(left, right)
    vectors = np.empty((len(thumbs), _SIDE * _SIDE), np.float32)
    across = np.broadcast_to(np.linspace(-1, 1, _SIDE), (_SIDE, _SIDE))
    plane = np.stack([np.ones((_SIDE, _SIDE)), across, across.T]).reshape(3, -1)
    basis = np.linalg.qr(plane.T)[0].astype(np.float32)
    for start in range(0, len(thumbs), 4096):
        block = thumbs[start : start + 4096].astype(np.float32)
        made = (rows @ block @ columns.T).reshape(len(block), -1)
        made -= (made @ basis) @ basis.T
        length = np.linalg.norm(made, axis=1, keepdims=True)
        vectors[start : start + 4096] = made / np.maximum(length, 1e-6)
    return vectors


def _averaging(start: float, end: float) -> Floats:
    """Matrix (`_SIDE`, `THUMBNAIL`) of area averages over a part of a thumbnail."""
    edges = np.linspace(start, end, _SIDE + 1) * THUMBNAIL
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(THUMBNAIL)[None]
    overlap = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    weights: Floats = (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)
    return weights


def _linked(
    crops: list[Floats],
    members: list[NDArray[np.int64]],
    everyone: NDArray[np.int64],
    known: NDArray[np.int64],
    shares: tuple[float, float],
    bound: float,
    n: int,
) -> NDArray[np.int64]:
    """Group (N,) of each sample: connected pairs with fewer expected unrelated ones than `bound`.

    References of the same group in `known` are left out of the fit.
    """
    groups = np.arange(n, dtype=np.int64)
    for own in members:
        if len(own) < 2:
            continue
        radius, dimension = _fit(crops, own, everyone, known, shares)
        first, second, distance = _pairs(crops, own, radius * bound ** (1 / dimension))
        # Both pictures have a say: geometric mean of the expected numbers.
        expected = (
            (distance / radius[first]) ** dimension * (distance / radius[second]) ** dimension
        ) ** 0.5
        groups[own] = own[_components(len(own), first, second, expected, bound)]
    return groups


def _fit(
    crops: list[Floats],
    own: NDArray[np.int64],
    everyone: NDArray[np.int64],
    known: NDArray[np.int64],
    shares: tuple[float, float],
) -> tuple[Floats, float]:
    """Distance within which one unrelated picture of the class is expected, and the dimension.

    The expected number within distance r is (r / distance) ** dimension.
    """
    rng = np.random.default_rng(0)
    drawn = rng.permutation(own)[:_REFERENCES]
    if len(own) < _FEW:
        drawn = np.union1d(drawn, rng.permutation(everyone)[: 4 * _FEW])
    distances = _distances(crops, own, drawn)
    distances[known[own][:, None] == known[drawn][None]] = np.inf  # Itself among them.
    distances.sort(axis=1)
    usable = np.isfinite(distances).sum(1)
    low = np.clip((shares[0] * usable).astype(int), 2, None)
    high = np.clip((shares[1] * usable).astype(int), 8, None)
    high = np.minimum(high, np.maximum(usable - 1, 0))
    low = np.minimum(low, np.maximum(high - 1, 0))
    logs = np.log(np.maximum(distances, 1e-4))
    logs[~np.isfinite(logs)] = 0.0
    sums = np.concatenate([np.zeros((len(own), 1)), logs.cumsum(1)], 1)
    row = np.arange(len(own))
    edge = logs[row, high]
    mean = (sums[row, high] - sums[row, low]) / np.maximum(high - low, 1)
    spread = np.maximum(edge - mean, 1e-3)
    dimension = float(np.clip(np.median(1 / spread), 1.0, 200.0))
    # At `edge` there are (high + 1) / usable of the class.
    count = np.maximum((high + 1) * len(own) / np.maximum(usable, 1), 1.0)
    radius = np.exp(edge - np.log(count) / dimension)
    return np.where(usable < 8, 1e-6, radius).astype(np.float32), dimension


def _distances(crops: list[Floats], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Floats:
    """Least distances (rows, columns) over the crops of either picture."""
    plain = crops[0]
    nearest = plain[rows] @ plain[columns].T
    for crop in crops[1:]:
        np.maximum(nearest, crop[rows] @ plain[columns].T, out=nearest)
        np.maximum(nearest, plain[rows] @ crop[columns].T, out=nearest)
    return _as_distance(nearest)


def _as_distance(cosine: Floats) -> Floats:
    distance: Floats = np.sqrt(np.maximum(2 - 2 * cosine, 0.0))
    return distance


def _pairs(
    crops: list[Floats], own: NDArray[np.int64], reach: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Pairs (indices into `own`, first below second) within the reach of either, with distances."""
    if len(own) <= _ALL_PAIRS:
        distances = _distances(crops, own, own)
        first, second = np.nonzero(np.triu(distances < np.maximum.outer(reach, reach), 1))
        return first, second, distances[first, second]
    order = np.arange(len(own))
    if len(own) > _CHUNK:
        sample = crops[0][own[:: max(1, len(own) // 5000)]]
        axis = np.linalg.svd(sample - sample.mean(0), full_matrices=False)[2][0]
        order = np.argsort(crops[0][own] @ axis, kind="stable")
    keys: list[NDArray[np.int64]] = []
    for start in range(0, max(1, len(own) - _CHUNK // 2), _CHUNK // 2):
        chunk = order[start : start + _CHUNK]
        plain = crops[0][own[chunk]]
        for begin in range(0, len(chunk), 1024):
            cosine = plain[begin : begin + 1024] @ plain.T
            near = np.argpartition(-cosine, _CANDIDATES, axis=1)[:, :_CANDIDATES]
            rows = np.repeat(chunk[begin : begin + 1024], _CANDIDATES)
            columns = chunk[near.reshape(-1)]
            pairs = np.stack([np.minimum(rows, columns), np.maximum(rows, columns)])
            keys.append(pairs[0] * len(own) + pairs[1])
    unique = np.unique(np.concatenate(keys))
    first, second = unique // len(own), unique % len(own)
    distances = np.empty(len(unique), np.float32)
    for start in range(0, len(unique), 16384):
        a, b = own[first[start : start + 16384]], own[second[start : start + 16384]]
        cosine = np.einsum("nd,nd->n", crops[0][a], crops[0][b])
        for crop in crops[1:]:
            np.maximum(cosine, np.einsum("nd,nd->n", crop[a], crops[0][b]), out=cosine)
            np.maximum(cosine, np.einsum("nd,nd->n", crops[0][a], crop[b]), out=cosine)
        distances[start : start + 16384] = _as_distance(cosine)
    kept = (distances < np.maximum(reach[first], reach[second])) & (first != second)
    return first[kept], second[kept], distances[kept]


def _components(
    count: int,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    expected: NDArray[np.floating],
    bound: float,
) -> NDArray[np.int64]:
    """First member of the component of each of `count` pictures.

    A component that is too large for the class is cut at lower bounds; where the class would be
    left with few groups nothing is grouped.
    """
    most = max(2.0, _MAX_SHARE * count)
    label = np.arange(count)
    kept = expected < bound
    for _ in range(8):
        edges = (np.ones(int(kept.sum())), (first[kept], second[kept]))
        _, label = connected_components(coo_matrix(edges, (count, count)), directed=False)
        sizes = np.bincount(label)
        if sizes.max() <= most:
            break
        bound /= 100
        kept &= (sizes[label[first]] <= most) | (expected < bound)
    if label.max() + 1 < min(_MIN_GROUPS, count):
        return np.arange(count)
    firsts = np.full(int(label.max()) + 1, count)
    np.minimum.at(firsts, label, np.arange(count))
    return firsts[label]
