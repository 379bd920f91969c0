"""Parse the texts of options: durations, sizes, folds, groups, parts, columns, addresses."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lepton_automl.core.untrusted_files import whole_number
from lepton_automl.errors import ConfigError

AUTO, NONE = "auto", "none"
"""Values of `--group` and `--parts` beside a rule of the user's own."""
MAX_FOLDS = 10
"""Folds of a cross-validation at most: more would be too small to be compared one by one."""


def check_cluster(address: str) -> None:
    """Check the address of `--cluster`: `dask://HOST:PORT` on this machine, or `tls://HOST:PORT`.

    Raises
    ------
    ConfigError
        If it is not written that way, or a connection to another machine would not be encrypted.
    """
    match = re.fullmatch(r"(dask|tcp|tls)://(\[[0-9a-fA-F:]+\]|[\w.-]+):(\d{1,5})", address)
    if match is None or not 1 <= int(match[3]) <= 65535:
        raise ConfigError(
            f"--cluster {address!r}, the rule is dask://HOST:PORT or tls://HOST:PORT",
            fix="give the address that the scheduler or `lepton cluster start` prints",
        )
    is_here = re.fullmatch(r"localhost|127(\.\d{1,3}){3}|\[::1\]", match[2])
    if match[1] != "tls" and not is_here:
        raise ConfigError(
            f"--cluster {address} is not encrypted and leads to another machine: anybody on the "
            "network between them could run programs as you on both; the rule is tls://",
            fix="start the scheduler with TLS and give tls://HOST:PORT (docs/distributed.md), or "
            "reach it through a tunnel of ssh: ssh -L 8786:localhost:8786 HOST, then "
            "--cluster dask://localhost:8786",
        )


def object_name(dataset: object) -> str:
    """The text that stands for a data set object where data are named, such as in `run.toml`."""
    return f"<{type(dataset).__name__} object>"


def seconds(text: str) -> float:
    """Seconds in a duration such as `90`, `45s`, `10m`, `2h` or `1h30m`.

    Raises
    ------
    ConfigError
        If the text is not a duration above zero.
    """
    match = re.fullmatch(
        r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?",
        text.strip(),
    )
    parts = [float(part or 0) for part in match.groups()] if match else [0.0]
    total = sum(part * unit for part, unit in zip(parts, (86400, 3600, 60, 1), strict=False))
    if total <= 0:
        raise ConfigError(
            f"--budget {text!r} is not a duration above zero",
            fix="write it like 45s, 10m, 2h or 1h30m",
        )
    return total


def memory_bytes(text: str | int) -> int:
    """Bytes in a size such as `1G`, `800M` or `1.5 GiB`; K, M, G and T are powers of 1024.

    Raises
    ------
    ConfigError
        If the text is not a size above zero.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?) ?([KMGT]?)(?:i?B)?", str(text).strip(), re.I)
    size = 0
    if match:
        size = round(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))
    if size <= 0:
        raise ConfigError(
            f"--max-memory {str(text)!r} is not a size above zero",
            fix="write it like 800M, 1G or 1.5G",
        )
    return size


def fold_count(text: str) -> int | None:
    """Number of folds of `--folds`; 1 for `off`, None for `auto`.

    Raises
    ------
    ConfigError
        If it is neither of these nor a number in its range.
    """
    if text == AUTO:
        return None
    if text == "off":
        return 1
    number = whole_number(text)
    if number is None or not 2 <= number <= MAX_FOLDS:
        raise ConfigError(
            f"--folds {text:.60}, the rule is auto, off or 2 to {MAX_FOLDS}",
            fix="leave it out: then the size of the data and the time decide",
        )
    return number


def group_pattern(text: str | None) -> re.Pattern[str] | None:
    """The regular expression of `--group`; None for `none`, `auto` or no option.

    Raises
    ------
    ConfigError
        If it is not a regular expression.
    """
    if text is None or text in (NONE, AUTO):
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise ConfigError(
            f"--group {text!r} is not a regular expression: {error}",
            fix="write it as for Python's re module, such as --group '(P[0-9]+)-[0-9]+', or give "
            "--group none",
        ) from error


def part_folders(text: str | None) -> Mapping[str, str] | None:
    """Part -> folder of `--parts`; empty for `none`; None for `auto` or no option.

    Raises
    ------
    ConfigError
        If it is not written that way, or has no train part.
    """
    if text is None or text == AUTO:
        return None
    if text == NONE:
        return {}
    pairs = [pair.partition("=") for pair in text.split(",")]
    found = {part.strip(): name.strip().strip("/") for part, _, name in pairs}
    legal = {"train", "validation", "test"}
    if len(found) < len(pairs) or not found.keys() <= legal or not all(found.values()):
        raise ConfigError(
            f"--parts {text!r}, the rule is PART=FOLDER with commas, each of "
            f"{', '.join(sorted(legal))} at most once; or none, or auto",
            fix="give for instance --parts train=tr,test=holdout",
        )
    if "train" not in found:
        raise ConfigError(f"--parts {text!r} names no train folder", fix="add train=FOLDER")
    return found


def column_names(text: str | None) -> Mapping[str, str] | None:
    """What a column holds -> its name in the data, of `--columns`; `none` for no column.

    Raises
    ------
    ConfigError
        If it is not written that way.
    """
    if text is None or text == AUTO:
        return None
    pairs = [pair.partition("=") for pair in text.split(",")]
    found = {what.strip().lower(): name.strip() for what, _, name in pairs}
    if len(found) < len(pairs) or not all((*found, *found.values())):
        raise ConfigError(
            f"--columns {text!r}, the rule is WHAT=COLUMN with commas, each WHAT at most once",
            fix="give for instance --columns path=file,label=species; split=none leaves a column "
            "out",
        )
    return found
