"""Groups of samples by their names: patients, videos, tracks, tiles of one picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.decisions import Certainty, Decision
from lepton_automl.data.samples import numbered
from lepton_automl.errors import ConfigError

_MIN_COVERED = 0.5
"""Share of pictures that must share a name key with another, so that names count something."""
_MIN_GROUPS = 3
"""Groups that every class must have: one a part."""
_MAX_SHARE = 0.5
"""Largest share of a class that one group may have."""
_CLOSER = 0.7
"""Share of pairs in which a picture of the same name key must be the closer one, to be a group."""
_CLOSER_TOLD = 0.52
"""The same where the names themselves say what they count (`_TELLING`)."""
_TELLING = re.compile(
    r"(?:^|[^a-z])(?:video|vid|clip|frame|track|tile|patch|slice|scan|patient|subject|session|seq|"
    r"sequence|scene|burst|view)s?[-_ ]?[0-9]",
    re.IGNORECASE,
)
"""Names of parts of something larger."""
_CLOSER_ACROSS = 0.6
"""The same for pictures of one key in different classes, to be one group across classes."""
_PAIRS = 2000
"""Pairs that are compared."""
_PERSON = re.compile(
    r"(?:^|[^a-z])(?:p|s|pt|pat|patient|sub|subj|subject|person|speaker|spk|user|participant|pid)"
    r"[-_ ]?[0-9]",
    re.IGNORECASE,
)
"""Names that number persons, who may be in several classes."""
_TOKEN = re.compile(r"[A-Za-z]+|[0-9]+")


@dataclass(frozen=True)
class _Rule:
    """A way to take a group's key from a path below the class folder."""

    text: str
    """What the key is, in words."""
    pattern: str
    """Regular expression for `--group` that finds it."""
    key: Callable[[str], str | None]


def find_name_groups(
    ids: Sequence[str],
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    vectors: NDArray[np.float32],
) -> tuple[NDArray[np.int64] | None, Decision | None]:
    """Groups that file names count, where pictures of a group are closer than others of the class.

    Parameters
    ----------
    ids : sequence of str
        Paths below the data folder; names without a folder count nothing.
    labels : ndarray
        int64 (N,).
    class_names : tuple of str
        Names of the class folders in the paths.
    vectors : ndarray
        (N, D), of unit length: what pictures are compared by.

    Returns
    -------
    ndarray or None
        Group of each sample, int64 (N,); None: names show no groups.
    Decision or None
        What was decided; None where names count nothing.
    """
    if not any("/" in name for name in ids):
        return None, None
    inner = [
        _below_class(name, class_names[label]) for name, label in zip(ids, labels, strict=True)
    ]
    offered: Decision | None = None
    candidates = []
    for rule in _rules(inner):
        groups = _within_class(rule, inner, labels)
        if _counts_something(groups, labels):
            candidates.append((len(np.unique(groups)), rule, groups))
    for count, rule, groups in sorted(candidates, key=lambda item: item[0]):
        closer, pairs = _share_closer(groups, labels, vectors, across=False)
        example = _example(groups, ids)
        evidence = (
            f"pictures of one group are closer to each other than to others of their class in "
            f"{closer:.0%} of {pairs} pairs (50 % by chance)"
        )
        is_told = closer >= _CLOSER_TOLD and all(_TELLING.search(name) for name in inner)
        if closer >= _CLOSER or is_told:
            certainty: Certainty = "measured" if closer >= _CLOSER else "inferred"
            merged, more = _across_classes(rule, inner, groups, labels, vectors)
            choice = f"{len(np.unique(merged))} groups by {rule.text}, such as {example}"
            return merged, Decision(
                "groups by name", choice, evidence + more, certainty, "--group none"
            )
        if offered is None and _are_numbered(rule, inner):
            choice = f"none, though {rule.text} would give {count}, such as {example}"
            option = f"--group '{rule.pattern}'"
            offered = Decision("groups by name", choice, evidence, "measured", option)
    return None, offered


def _below_class(name: str, class_name: str) -> str:
    """The path below the class folder."""
    parts = name.split("/")
    places = [place for place, part in enumerate(parts[:-1]) if part == class_name]
    return "/".join(parts[places[-1] + 1 :] if places else parts[-1:])


def _rules(inner: Sequence[str]) -> list[_Rule]:
    """Ways in which names may count groups."""
    token, gap = "(?:[A-Za-z]+|[0-9]+)", "[^A-Za-z0-9/]*"
    rules = []
    if any("/" in name for name in inner):
        rules.append(
            _Rule(
                "the folder inside the class folder",
                "([^/]+)/[^/]+$",
                lambda name: name.rpartition("/")[0] or None,
            )
        )
    for count in (1, 2, 3, 4):
        words = "part" if count == 1 else f"{count} parts"
        rules.append(
            _Rule(
                f"the first {words} of the file name",
                f"((?:{gap}{token.replace('+', '++')}){{{count}}})[^/]*$",
                lambda name, count=count: _joined(name, slice(0, count), count + 1),  # type: ignore[misc]
            )
        )
    for count in (1, 2):
        words = "last part" if count == 1 else f"last {count} parts"
        rules.append(
            _Rule(
                f"the file name without its {words}",
                f"([^/]*?)(?:{gap}{token}){{{count}}}[.][^/]*$",
                lambda name, count=count: _joined(name, slice(0, -count), count + 1),  # type: ignore[misc]
            )
        )
    rules.append(
        _Rule(
            "the last part of the file name",
            f"({token})[.][^/.]*$",
            lambda name: _joined(name, slice(-1, None), 2),
        )
    )
    return rules


def _joined(name: str, chosen: slice, least: int) -> str | None:
    """Tokens of a file name up to the last chosen one; None if it has fewer than `least`."""
    stem = name.rpartition("/")[2].partition(".")[0]
    found = [match.span() for match in _TOKEN.finditer(stem)]
    if len(found) < least:
        return None
    spans = found[chosen]
    return stem[spans[0][0] : spans[-1][1]]


def _are_numbered(rule: _Rule, inner: Sequence[str]) -> bool:
    """Whether most keys have a number, as those that count something do."""
    keys = [key for name in inner if (key := rule.key(name)) is not None]
    return sum(any(letter.isdigit() for letter in key) for key in keys) > 0.8 * len(keys)


def _within_class(
    rule: _Rule, inner: Sequence[str], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    keys = [rule.key(name) for name in inner]
    texts = [
        f"{label}/{key}" if key is not None else f"#{place}"
        for place, (label, key) in enumerate(zip(labels.tolist(), keys, strict=True))
    ]
    return numbered(texts)[1]


def _counts_something(groups: NDArray[np.int64], labels: NDArray[np.int64]) -> bool:
    """Whether most pictures share a group, and every class has enough groups to be split."""
    sizes = np.bincount(groups)
    if (sizes[groups] > 1).mean() < _MIN_COVERED:
        return False
    for label in np.unique(labels):
        own = sizes[np.unique(groups[labels == label])]
        if len(own) < min(_MIN_GROUPS, own.sum()) or own.max() > max(2, _MAX_SHARE * own.sum()):
            return False
    return True


def _share_closer(
    groups: NDArray[np.int64],
    labels: NDArray[np.int64],
    vectors: NDArray[np.float32],
    *,
    across: bool,
) -> tuple[float, int]:
    """How often a picture of the same group is closer than one of another, and the number of pairs.

    With `across` both are of another class than the picture they are compared with.
    """
    rng = np.random.default_rng(0)
    order = np.argsort(groups, kind="stable")
    start = np.searchsorted(groups[order], np.arange(groups.max() + 2))
    wins = pairs = 0.0
    for place in rng.permutation(len(groups))[: 2 * _PAIRS]:
        mates = order[start[groups[place]] : start[groups[place] + 1]]
        mates = mates[(mates != place) & ((labels[mates] != labels[place]) == across)]
        if not len(mates) or pairs >= _PAIRS:
            continue
        mate = rng.choice(mates)
        others = rng.integers(0, len(groups), 200)
        fits = (groups[others] != groups[place]) & (labels[others] == labels[mate])
        if not fits.any():
            continue
        other = others[fits][0]
        same, different = vectors[place] @ vectors[mate], vectors[place] @ vectors[other]
        wins += 1.0 if same > different else 0.5 if same == different else 0.0
        pairs += 1
    return (wins / pairs if pairs else 0.5), int(pairs)


def _across_classes(
    rule: _Rule,
    inner: Sequence[str],
    groups: NDArray[np.int64],
    labels: NDArray[np.int64],
    vectors: NDArray[np.float32],
) -> tuple[NDArray[np.int64], str]:
    """Groups of one key in several classes are joined where that key means the same in all."""
    keys = [rule.key(name) for name in inner]
    texts = [f"={key}" if key is not None else f"#{n}" for n, key in enumerate(keys)]
    joined = numbered(texts)[1]
    if len(np.unique(joined)) == len(np.unique(groups)):
        return groups, ""
    if len(np.unique(joined)) < _MIN_GROUPS:
        return groups, ""
    is_person = all(_PERSON.search(f"/{key}") for key in keys if key is not None)
    closer, pairs = _share_closer(joined, labels, vectors, across=True)
    if is_person:
        return joined, "; the same number in several classes is taken for the same person"
    if pairs >= 50 and closer >= _CLOSER_ACROSS:
        return joined, f"; across classes in {closer:.0%}, so a group may be in several classes"
    return groups, ""


def _example(groups: NDArray[np.int64], ids: Sequence[str]) -> str:
    sizes = np.bincount(groups)
    largest = int(np.argmax(sizes[groups]))
    members = np.flatnonzero(groups == groups[largest])
    return f"{ids[int(members[0])]} with {ids[int(members[-1])]} ({len(members)} pictures)"


def groups_by_attribute(name: str, column: Sequence[str]) -> NDArray[np.int64]:
    """Group of each sample, int64 (N,), by an attribute; samples without a value are alone.

    Raises
    ------
    ConfigError
        If all samples have one value, or no two samples share one.
    """
    values = set(column)
    if values in ({""}, {column[0]}):
        raise ConfigError(
            f"--group {name}: the column holds {column[0]!r} in every row: one group cannot be "
            "split",
            fix="name a column whose values differ between groups",
        )
    if len(values) == len(column):
        raise ConfigError(
            f"--group {name}: every row has a value of its own, such as {column[0]!r}, so it has "
            "no effect",
            fix="name a column with values that several pictures share, or leave --group out",
        )
    return _numbered([text or None for text in column])


def _numbered(keys: Sequence[str | None]) -> NDArray[np.int64]:
    """Numbers of equal keys; None is a group of its own."""
    texts = [f"={key}" if key is not None else f"#{n}" for n, key in enumerate(keys)]
    return numbered(texts)[1]


def groups_by_pattern(
    pattern: re.Pattern[str], ids: Sequence[str], columns: Sequence[str] = ()
) -> NDArray[np.int64]:
    """Group of each sample by what `pattern` finds in its name; samples without a match are alone.

    Parameters
    ----------
    pattern : re.Pattern
        Its first capture group counts, or the whole match where it has none.
    ids : sequence of str
        Names of the samples: paths below the data folder.
    columns : sequence of str
        Names of the columns that could have been meant, for messages.

    Returns
    -------
    ndarray
        int64 (N,).

    Raises
    ------
    ConfigError
        If nothing matches, or everything matches alike.
    """
    matches = [pattern.search(name) for name in ids]
    keys = [None if match is None else match.group(1 if pattern.groups else 0) for match in matches]
    option = f"--group {pattern.pattern!r}"
    if all(key is None for key in keys):
        if columns:
            raise ConfigError(
                f"{option} is not a column of the data, and as a regular expression it matches "
                f"none of the {len(ids)} paths, such as {ids[0]!r}",
                fix=f"name a column, one of: {', '.join(columns[:20])}; or write an expression for "
                "paths like that one",
            )
        raise ConfigError(
            f"{option} matches none of the {len(ids)} names, such as {ids[0]!r}",
            fix="write it for names like that one; samples of an .npz file have no names: put an "
            "array `group` (or group_train, ...) into the file",
        )
    if len(set(keys)) == 1:
        raise ConfigError(
            f"{option} finds {keys[0]!r} in every name, such as {ids[0]!r}: one group cannot be "
            "split",
            fix="match what differs between the groups, such as --group '(P[0-9]+)-'",
        )
    return _numbered(keys)
