"""Groups of samples by their names: patients, videos, tracks, tiles of one picture."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lepton_automl.errors import ConfigError


def groups_by_pattern(pattern: re.Pattern[str], ids: Sequence[str]) -> NDArray[np.int64]:
    """Group of each sample by what `pattern` finds in its name; samples without a match are alone.

    Parameters
    ----------
    pattern : re.Pattern
        Its first capture group counts, or the whole match where it has none.
    ids : sequence of str
        Names of the samples: paths below the data folder.

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
    # Keys of matches are texts, those of lone samples numbers.
    texts = [f"={key}" if key is not None else f"#{n}" for n, key in enumerate(keys)]
    return np.unique(texts, return_inverse=True)[1].astype(np.int64)
