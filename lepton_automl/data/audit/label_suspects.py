"""Confident learning: labels that contradict out-of-fold predictions of a quick classifier.

The classifier is a ridge regression on fixed features: of pictures roots of the responses of
whitened random patches, pooled over ninths (Coates, Ng and Lee 2011); of signals moments, spectra
and shares of positive responses of random dilated kernels (ROCKET, Dempster, Petitjean and Webb
2020). Folds keep groups, equal samples and near duplicates together, so that no prediction rests
on a copy of its sample.

Source: Northcutt, Jiang and Chuang 2021, Confident Learning: Estimating Uncertainty in Dataset
Labels (JAIR 70, arXiv:1911.00068), section 3: thresholds are the mean self-confidence of each
class, samples are ranked by self-confidence as a share of it ("Ranking of doubtful labels" in
docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch.nn import functional

from lepton_automl.data.audit.checks import SampleKey
from lepton_automl.data.audit.full_audit import Thumbnails
from lepton_automl.data.dataset import Dataset
from lepton_automl.metrics.intervals import is_near_chance

MAX_NAMED = 0.04
"""Share of the samples that are named at most."""
FOLDS = 5
_PATCHES = 200
"""Random patches whose responses, of either sign, are features."""
_PATCH_SIDE = 6
_DRAWN = 20_000
"""Patches by which they are whitened."""
_CONTRAST = 10.0
"""Variance, squared grey levels, that is added to that of a patch."""
_WHITENING = 0.1
_THRESHOLD = 0.25
"""Responses below this count as 0."""
_POOLS = 3
"""Rows and columns of fields over which responses are pooled."""
_STRIDE_SIDE = 20
"""Rows or columns from which on every second patch of a picture is used."""
_DAMPING = 2000.0
"""Regularisation of the features of pictures, whose variance is 1 a sample: what is added to the
diagonal of their products."""
_RIDGE = 0.05
"""The same of other features, a sample."""
_SURE = 0.9
"""Largest threshold of a class: where the classifier is nearly always right, its prediction for a
sample with a wrong label need not be surer than those for others."""
_TEMPERATURES = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
_BINS = 32
"""Bins of a spectrum."""
_KERNELS, _FEWEST_KERNELS, _MOST_RESPONSES = 256, 64, 1_200_000
"""Random kernels for signals, and kernels times windows from which there are fewer."""
_TAPS = 9
_LONGEST = 256
"""Values of a window up to which kernels see it whole; longer ones are averaged."""
_BIASES = (0.25, 0.5, 0.75, 0.9)
"""Quantiles of the responses above which they count."""
_BLOCK = 128
"""Pictures that are worked on at a time."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Suspect:
    """A sample whose label is doubtful."""

    key: SampleKey
    suggested: int
    """Class that the classifier predicts."""
    margin: float
    """Probability of the label minus that of the most probable other class, -1 to 1."""


@dataclass(frozen=True)
class LabelSuspects:
    """Doubtful labels, the most doubtful first."""

    suspects: tuple[Suspect, ...]
    estimated: int
    """Samples off the diagonal of the confident joint: right labels of hard samples are among them,
    the more, the less accurate the classifier is."""
    judged: int
    """Samples of classes of at least as many groups as folds; others are not judged."""
    accuracy: float
    """Of the out-of-fold predictions against the labels, 0 to 1."""
    is_near_chance: bool = False
    """Whether the classifier hardly knows more than chance, so that it can name no label."""


def find_label_suspects(dataset: Dataset, thumbs: Thumbnails, seed: int = 0) -> LabelSuspects:
    """Name the samples whose label is the least probable by predictions from other samples.

    Of all samples at most `MAX_NAMED` are named, and not more than the confident joint holds off
    its diagonal; none where the classifier hardly knows more than chance.

    Parameters
    ----------
    dataset : Dataset
        Its groups, digests and near duplicates.
    thumbs : Thumbnails
        The samples that are judged.
    seed : int
        Of the folds and patches.
    """
    groups = _groups(dataset, thumbs.keys)
    judged = _judgeable(thumbs.labels, groups)
    classes, labels = np.unique(thumbs.labels[judged], return_inverse=True)
    if len(classes) < 2:
        return LabelSuspects((), 0, 0, 0.0)
    folds = stratified_folds(labels, groups[judged], seed)
    features = _features(dataset, thumbs, judged, seed)
    are_patches = features.dtype == np.float16  # Those of signals and tiny pictures are not.
    damping = _DAMPING if are_patches else _RIDGE * len(features)
    probabilities = _probabilities(out_of_fold(features, labels, folds, damping), labels)
    accuracy = float((probabilities.argmax(1) == labels).mean())
    if is_near_chance(accuracy, len(classes)):
        return LabelSuspects((), 0, len(judged), accuracy, is_near_chance=True)
    order, margins, estimated = rank(probabilities, labels)
    named = order[: min(estimated, int(MAX_NAMED * len(judged)))]
    suspects = tuple(
        # Where the margin is below 0 the most probable class is another one than the label.
        Suspect(
            thumbs.keys[int(judged[n])],
            int(classes[int(probabilities[n].argmax())]),
            float(margins[n]),
        )
        for n in named
        if margins[n] < 0
    )
    return LabelSuspects(suspects, estimated, len(judged), accuracy)


def rank(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Order samples by self-confidence, and count those off the diagonal of the confident joint.

    Self-confidence is the probability of the label, here over its mean in the class: hard samples
    of two classes that are alike have low margins, but a label that is wrong is improbable too.

    Parameters
    ----------
    probabilities : ndarray
        (N, classes), out of fold.
    labels : ndarray
        (N,), each class at least once.

    Returns
    -------
    order : ndarray
        (N,), the most doubtful label first.
    margins : ndarray
        (N,), -1 to 1.
    count : int
        Samples that confidently belong to another class than their label.
    """
    index = np.arange(len(labels))
    own = probabilities[index, labels]
    thresholds = np.bincount(labels, weights=own) / np.bincount(labels)
    is_sure = probabilities >= np.minimum(thresholds, _SURE)
    confident = np.where(is_sure, probabilities, -1.0)
    likely = confident.argmax(1)
    count = int(((confident.max(1) >= 0) & (likely != labels)).sum())
    others = confident  # Of many classes a copy takes much memory.
    others[:] = probabilities
    others[index, labels] = -1.0
    margins = own - others.max(1)
    doubt = own / np.maximum(thresholds[labels], 1e-12)
    return np.argsort(doubt, kind="stable"), margins, count


def stratified_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """Fold (N,) of each sample: groups whole, those of a class spread over all folds."""
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(first))
    order = shuffled[np.argsort(labels[first][shuffled], kind="stable")]
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % FOLDS
    return fold[member]


def out_of_fold(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    folds: NDArray[np.int64],
    damping: float,
) -> NDArray[np.float64]:
    """Scores (N, classes) of a ridge regression that was fitted without the fold of each sample.

    `features` (N, F) are normalised in place: with many samples they take most of the memory. Of
    fewer samples than features the equal regression in the space of samples is solved. `damping`
    is added to the diagonal of the products.
    """
    for start in range(0, features.shape[1], _BLOCK):
        columns = features[:, start : start + _BLOCK].astype(np.float32)
        columns -= columns.mean(0)
        columns /= columns.std(0) + 1e-4
        features[:, start : start + _BLOCK] = columns
    count, classes = len(features), int(labels.max()) + 1
    targets = np.eye(classes, dtype=np.float32)
    is_dual = count <= features.shape[1]
    solve = _in_space_of_samples if is_dual else _in_space_of_features
    rows = [np.flatnonzero(folds == n) for n in range(FOLDS)]
    return solve(features, targets[labels], rows, damping)


def _with_bias(features: NDArray[np.floating], rows: NDArray[np.int64]) -> Floats:
    """Rows (n, F + 1), the last column 1."""
    made = np.ones((len(rows), features.shape[1] + 1), np.float32)
    made[:, :-1] = features[rows]
    return made


def _in_space_of_samples(
    features: NDArray[np.floating],
    targets: Floats,
    folds: list[NDArray[np.int64]],
    damping: float,
) -> NDArray[np.float64]:
    whole = _with_bias(features, np.arange(len(features)))
    products = (whole @ whole.T).astype(np.float64)
    scores = np.zeros(targets.shape)
    for own in folds:
        rest = np.setdiff1d(np.arange(len(features)), own)
        matrix = products[np.ix_(rest, rest)]
        matrix[np.diag_indices_from(matrix)] += damping
        weights = linalg.solve(matrix, targets[rest], assume_a="pos", overwrite_a=True)
        scores[own] = products[np.ix_(own, rest)] @ weights
    return scores


def _in_space_of_features(
    features: NDArray[np.floating],
    targets: Floats,
    folds: list[NDArray[np.int64]],
    damping: float,
) -> NDArray[np.float64]:
    width = features.shape[1] + 1
    product, moments = np.zeros((width, width), np.float32, order="F"), list[Floats]()

    def add(values: Floats, sign: float, to: Floats) -> Floats:
        # One triangle of values.T @ values, in place: half the time, and no second matrix.
        made: Floats = linalg.blas.ssyrk(sign, values.T, 1.0, to, lower=1, overwrite_c=1)
        return made

    for own in folds:
        values = _with_bias(features, own)
        product = add(values, 1.0, product)
        moments.append(values.T @ targets[own])
    moment, scores = np.sum(moments, axis=0), np.zeros(targets.shape)
    for own, without in zip(folds, moments, strict=True):
        values = _with_bias(features, own)
        matrix = add(values, -1.0, product.copy(order="F"))
        matrix[np.diag_indices_from(matrix)] += damping
        # Ridge regression is well conditioned: 32 bits do, in half the memory.
        factor = linalg.cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
        scores[own] = values @ linalg.cho_solve(factor, moment - without, check_finite=False)
    return scores


def _probabilities(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Softmax of scores, at the temperature of the largest likelihood."""
    best, made = -np.inf, scores
    for temperature in _TEMPERATURES:
        shares = scores - scores.max(1, keepdims=True)
        shares *= temperature
        np.exp(shares, out=shares)
        shares /= shares.sum(1, keepdims=True)
        likelihood = np.log(np.maximum(shares[np.arange(len(labels)), labels], 1e-12)).mean()
        if likelihood > best:
            best, made = likelihood, shares
    return made


def _judgeable(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Samples of classes with a group for each fold, so that others of the class can vouch."""
    pairs = np.unique(np.stack([labels, groups], 1), axis=0)
    counts = np.bincount(pairs[:, 0], minlength=int(labels.max()) + 1)
    return np.flatnonzero(counts[labels] >= FOLDS)


def _groups(dataset: Dataset, keys: Sequence[SampleKey]) -> NDArray[np.int64]:
    """Number (N,) of what a sample belongs to: a group, equal samples, near duplicates."""
    count = len(keys)
    edges: list[tuple[int, int]] = []
    first: dict[tuple[str, object], int] = {}
    for n, (name, place) in enumerate(keys):
        part = dataset.part(name)
        shared: list[tuple[str, object]] = [("digest", part.digests[place])]
        if part.groups is not None:
            shared.append(("group", int(part.groups[place])))
        if part.near_duplicates is not None:
            shared.append(("near", int(part.near_duplicates[place])))
        edges += [(n, first.setdefault(each, n)) for each in shared]
    start, end = np.array(edges).T
    graph = coo_matrix((np.ones(len(edges)), (start, end)), (count, count))
    found: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return found


def _features(
    dataset: Dataset, thumbs: Thumbnails, judged: NDArray[np.int64], seed: int
) -> NDArray[np.floating]:
    if dataset.is_signal:
        values = thumbs.pixels[judged, 0].astype(np.float32)
        return np.concatenate([_signal_features(values), _kernel_features(values, seed)], 1)
    pixels = thumbs.pixels if len(judged) == len(thumbs.pixels) else thumbs.pixels[judged]
    if min(pixels.shape[1:3]) < _PATCH_SIDE + 1:
        return pixels.reshape(len(pixels), -1).astype(np.float32)
    return _patch_features(pixels, seed)


def _signal_features(values: Floats) -> Floats:
    """Means, deviations, segments and spectra of signals (N, length, C)."""
    spectrum = np.log1p(np.abs(np.fft.rfft(values, axis=1))[:, 1 : _BINS + 1])
    segments = np.array_split(values, min(_BINS, values.shape[1]), axis=1)
    made = [values.mean(1), values.std(1), *(each.mean(1) for each in segments)]
    flat = [*made, spectrum.reshape(len(values), -1)]
    return np.concatenate(flat, 1).astype(np.float32)


def _kernel_features(values: Floats, seed: int) -> Floats:
    """Shares of the responses of random kernels above biases, (N, kernels * biases).

    Kernels have a random dilation, weights of mean 0 and, of several channels, a random few. Biases
    are quantiles of the responses to some of the signals (N, length, C).
    """
    count, length, channels = values.shape
    scaled = (values - values.mean((0, 1))) / (values.std((0, 1)) + 1e-4)
    signals = torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 2, 1)))
    if length > _LONGEST:
        signals = functional.adaptive_avg_pool1d(signals, _LONGEST)
        length = _LONGEST
    rng = np.random.default_rng(seed)
    kernels = int(np.clip(_MOST_RESPONSES // count, _FEWEST_KERNELS, _KERNELS))
    most = max(0.0, np.log2(max(1, (length - 1) / (_TAPS - 1))))
    dilations = np.floor(2 ** rng.uniform(0, most, kernels)).astype(np.int64)
    sample = torch.from_numpy(rng.permutation(count)[:_BLOCK])
    made = []
    for dilation in np.unique(dilations).tolist():
        number = int((dilations == dilation).sum())
        weights = rng.normal(size=(number, channels, _TAPS))
        weights -= weights.mean(2, keepdims=True)
        order = rng.permuted(np.tile(np.arange(channels), (number, 1)), axis=1)
        used = np.floor(2 ** rng.uniform(0, np.log2(channels + 1), number))
        weights *= (order < used[:, None])[..., None]
        kernel = torch.from_numpy(weights.astype(np.float32))
        known = _responses(signals[sample], kernel, dilation).transpose(0, 1).flatten(1)
        biases = torch.from_numpy(np.quantile(known.numpy(), _BIASES, axis=1).astype(np.float32))
        for_all = [
            torch.cat([(found > bias[:, None]).float().mean(2) for bias in biases], 1)
            for start in range(0, count, _BLOCK)
            for found in [_responses(signals[start : start + _BLOCK], kernel, dilation)]
        ]
        made.append(torch.cat(for_all).numpy())
    return np.concatenate(made, 1)


def _responses(signals: torch.Tensor, kernels: torch.Tensor, dilation: int) -> torch.Tensor:
    """Responses (n, kernels, length) of signals (n, C, length) to kernels (kernels, C, taps)."""
    padding = dilation * (_TAPS // 2)
    return functional.conv1d(signals, kernels, padding=padding, dilation=dilation)


def _patch_features(pixels: NDArray[np.uint8], seed: int) -> NDArray[np.floating]:
    """Roots of pooled responses (N, 18 * patches) of pictures (N, H, W, C) to random patches.

    They are whitened. Half precision suffices, and takes half the memory.
    """
    count, height, width, channels = pixels.shape
    rng = np.random.default_rng(seed)
    places = (
        rng.integers(0, count, _DRAWN),
        rng.integers(0, height - _PATCH_SIDE + 1, _DRAWN),
        rng.integers(0, width - _PATCH_SIDE + 1, _DRAWN),
    )
    windows = np.lib.stride_tricks.sliding_window_view(
        pixels, (_PATCH_SIDE, _PATCH_SIDE), axis=(1, 2)
    )
    drawn = windows[places].reshape(_DRAWN, -1).astype(np.float32)
    drawn -= drawn.mean(1, keepdims=True)
    drawn /= np.sqrt(drawn.var(1, keepdims=True) + _CONTRAST)
    mean = drawn.mean(0)
    values, vectors = np.linalg.eigh(np.cov(drawn - mean, rowvar=False))
    whitening = (vectors / np.sqrt(np.maximum(values, 0) + _WHITENING)) @ vectors.T
    has_contrast = drawn.std(1) > _THRESHOLD
    if not has_contrast.any():  # Flat pictures differ in brightness at most.
        levels: Floats = pixels.mean((1, 2), dtype=np.float32)
        return levels
    chosen = (drawn[has_contrast][:_PATCHES] - mean) @ whitening
    chosen /= np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-6)
    weights = (whitening @ chosen.T).astype(np.float32)
    # Of a patch p the response is weights . (p - its mean) / its deviation - weights . mean.
    kernels = torch.from_numpy(
        np.ascontiguousarray((weights - weights.mean(0)).T).reshape(
            -1, channels, _PATCH_SIDE, _PATCH_SIDE
        )
    )
    offset = torch.from_numpy((mean @ weights).astype(np.float32))[:, None, None]
    average = torch.full((1, *kernels.shape[1:]), 1 / len(weights))
    stride = 2 if min(height, width) >= _STRIDE_SIDE else 1
    made = np.empty((count, 2 * _POOLS**2 * len(kernels)), np.float16)
    for start in range(0, count, _BLOCK):
        block = np.ascontiguousarray(pixels[start : start + _BLOCK].transpose(0, 3, 1, 2))
        planes = torch.from_numpy(block).float()
        level = functional.conv2d(planes, average, stride=stride)
        variance = functional.conv2d(planes * planes, average, stride=stride) - level * level
        response = functional.conv2d(planes, kernels, stride=stride)
        response = response / (variance.clamp_min(0) + _CONTRAST).sqrt() - offset
        pooled = [
            functional.adaptive_avg_pool2d((sign * response - _THRESHOLD).clamp_min(0), _POOLS)
            for sign in (1, -1)
        ]
        made[start : start + _BLOCK] = torch.cat(pooled, 1).flatten(1).sqrt().numpy()
    return made
