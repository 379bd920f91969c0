"""The definition of a run, `run.toml`: what a command has to ask for to continue the run."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_automl.config import (
    LIMITS,
    BandMean,
    ChannelAxis,
    Channels,
    Flip,
    InputType,
    Judge,
    Limits,
    Refit,
    TemperatureFit,
)
from lepton_automl.core import plugins
from lepton_automl.core.field_types import check_finite, check_types
from lepton_automl.errors import ConfigError, DataError

FORMAT = 2
"""Format of a run folder, `format` in its `run.toml`. Another number is refused: a folder written
before the number existed has 1."""

_NUMBERS = ("window", "stride", "rate", "mels")
"""Options that are 0 where they are not given."""
_PART_OPTIONS = (
    *("group", "time", "parts", "columns", "root", "channel_axis", "window", "stride"),
    *("rate", "skip_corrupt"),
)
"""Fields that matter only by the samples, groups and parts that they lead to."""


@dataclass(frozen=True)
class Definition:
    """What identifies a run: data, search space, limits, seed and so on; stored as `run.toml`."""

    data: str
    test: str
    skip_corrupt: bool
    data_fingerprint: str
    space: str
    space_digest: str
    objectives: tuple[str, ...]
    seed: int
    target: str
    prefer: str
    limits: Limits
    sampler: str = "lepton"
    latency_from: str = ""
    """Digest of the latency table; empty without one."""
    warm_start: str = ""
    """Folder of the run that `--warm-start` names; empty without one."""
    warm_digest: str = ""
    """Digest of the events of that run."""
    group: str = ""
    """Text of `--group`; empty without one."""
    parts: str = ""
    """Text of `--parts`; empty without one."""
    time: str = ""
    """Column of `--time`; empty without one."""
    columns: str = ""
    """Text of `--columns`; empty without one."""
    root: str = ""
    """Absolute path of `--root`; empty without one."""
    channel_axis: ChannelAxis = "auto"
    """As in `RunConfig`."""
    window: int = 0
    stride: int = 0
    rate: int = 0
    mels: int = 0
    """As in `RunConfig`; 0 where they are not stated."""
    band_mean: BandMean = "auto"
    """As in `RunConfig`."""
    flip: Flip = "auto"
    """Random flips: `on`, `off` or `auto`."""
    refit: Refit = "auto"
    """Training on all samples at the end: `on`, `off` or `auto`."""
    temperature: TemperatureFit = "auto"
    """As in `RunConfig`."""
    judge: Judge = "auto"
    """As in `RunConfig`."""
    balanced: bool = False
    """Classes have equal weight, in training and in accuracy."""
    channels: Channels = "auto"
    """Channels of the net's input: `1`, `3` or `auto`."""
    pixel_scale: str = "auto"
    """As in `RunConfig`."""
    input_type: InputType = "auto"
    """As in `RunConfig`."""
    model: str = ""
    """sha256 of the ONNX file made elsewhere that is compressed; empty for a search."""
    preprocessing: str = ""
    """Text of the file that says how that model wants its pixels."""
    labels: str = ""
    """Order of that model's classes as the user gave it: a word, or the text of a file."""

    data_kind: str = ""
    """Name of the source that reads the data; empty in a folder made before it was recorded."""
    test_kind: str = ""
    """Name of the source that reads `test`; empty without a test part of its own."""
    run_id: str = dataclasses.field(default="", compare=False)
    """Identifies the run, also in its ledger; empty in a folder made before there was one."""

    def to_toml(self) -> str:
        """The text of `run.toml`."""
        document = dataclasses.asdict(self)
        limits = document.pop("limits")
        lines = ["# The definition of this run; a command with other values is refused."]
        lines += [f"format = {FORMAT}"]
        lines += [f"{key} = {_toml(value)}" for key, value in document.items()]
        lines += ["", "[limits]"]
        lines += [f"{key} = {_toml(value)}" for key, value in limits.items() if value is not None]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> Definition:
        """Read what `to_toml` wrote.

        Raises
        ------
        ValueError, TypeError, KeyError
            If it is no definition in this format.
        """
        document = tomllib.loads(text)
        if document.pop("format", None) != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        if "no_flip" in document:
            raise ValueError("an earlier version wrote it, which had --no-flip instead of --flip")
        document["limits"] = Limits(**document["limits"])
        document["objectives"] = tuple(document["objectives"])
        made = cls(**document)
        check_types(made)
        for name in ("seed", "window", "stride", "rate", "mels"):
            check_finite(getattr(made, name), name, int)
        return made

    def find_data(self, command: str) -> None:
        """Check that data and test part still exist.

        Parameters
        ----------
        command : str
            Command with which the user can give their new place.

        Raises
        ------
        DataError
            If they are not, or their source is not installed here.
        """
        known = plugins.names("sources")
        for place, kind in ((self.data, self.data_kind), (self.test, self.test_kind)):
            if kind and kind not in known:
                raise DataError(
                    f"the data of this run, {place}, are read by the source {kind}, which is not "
                    "installed here",
                    fix=f"install the package that has it, or give the data as files: {command}",
                )
            if Path(place).is_absolute() and not Path(place).exists():
                raise DataError(
                    f"the data of this run are no longer at {place}",
                    fix=f"put them back, or say where they are now: {command}",
                )

    def differences(self, other: Definition) -> list[str]:
        """Differences in words, one each.

        Data and the options that decide parts are compared by the fingerprint: they differ only
        where it does. That it differs between the same data with the same options is no difference
        here (`has_changed_data`).
        """
        mine, theirs = (_flat(d) for d in (self, other))
        words = []
        if self.data_fingerprint != other.data_fingerprint:
            if (self.data, self.test) != (other.data, other.test):
                places = f"data: {self._places} here, {other._places} asked for"
                words.append(f"{places}, with other samples, groups or parts")
            for name in _PART_OPTIONS:
                mine[name], theirs[name] = getattr(self, name), getattr(other, name)
        changed = [key for key in mine if mine[key] != theirs[key]]
        for known in (mine, theirs):  # An option that was not given is an empty text, or 0.
            empty = [key for key in changed if known[key] == ("" if key not in _NUMBERS else 0)]
            known.update(dict.fromkeys(empty, "not given"))
        return words + [f"{key}: {mine[key]} here, {theirs[key]} asked for" for key in changed]

    def has_changed_data(self, other: Definition) -> bool:
        """Whether the same data with the same options have other samples, groups or parts."""
        deciding = ("data", "test", "seed", *_PART_OPTIONS)
        are_same = all(getattr(self, name) == getattr(other, name) for name in deciding)
        return are_same and self.data_fingerprint != other.data_fingerprint

    def check_same(
        self, wanted: Definition, place: str, other: str, fresh: str = "--fresh"
    ) -> None:
        """Check that this run in `place` is the one that `wanted` defines.

        Parameters
        ----------
        wanted : Definition
            What a command asks for.
        place : str
            Folder or store of this run, in messages.
        other, fresh : str
            Options that begin another run.

        Raises
        ------
        ConfigError
            If it is another run; the differences are named.
        """
        # First, since other fields follow from the data, such as equal weights of classes.
        if self.has_changed_data(wanted):
            raise ConfigError(
                f"the run in {place} began with other samples, groups or parts of "
                f"{wanted._places}: the data were changed since, or another version of lepton "
                "draws the parts otherwise; the rule is that a run continues on the data and "
                "parts it began with",
                fix=f"start again with {fresh}, or with {other}; to continue the old run, undo the "
                "change of the data, or use the version of lepton that began it",
            )
        if changed := self.differences(wanted):
            raise ConfigError(
                f"{place} holds another run: {'; '.join(changed)}",
                fix=f"give {other}, or start again with {fresh}",
            )

    @property
    def _places(self) -> str:
        data, test = (
            f"{place} ({kind})" if kind else place
            for place, kind in ((self.data, self.data_kind), (self.test, self.test_kind))
        )
        return f"{data} with test data {test}" if test else data


def check_format(folder: Path, document: dict[str, Any]) -> None:
    """Refuse a definition of another format; one without a number is of format 1."""
    found = document.get("format", 1 if "data_fingerprint" in document else None)
    if found not in (None, FORMAT):
        raise ConfigError(
            f"{folder} is a run folder of format {found}, made by another version of lepton; this "
            f"version reads format {FORMAT}",
            fix="start again with --fresh, which moves the old folder aside, or with another "
            "--out; continue the old run with the lepton that made it; the ONNX files in its "
            "artifact/ can be used as they are",
        )


def _flat(definition: Definition) -> dict[str, object]:
    document = dataclasses.asdict(definition)
    for ignored in (
        "data",
        "data_fingerprint",
        "data_kind",
        "test_kind",
        "test",
        *_PART_OPTIONS,
        "space",
        "warm_start",
        "run_id",
    ):
        document.pop(ignored)
    document["warm start"] = document.pop("warm_digest") or "none"
    document["content of the search space"] = document.pop("space_digest")
    for name, value in document.pop("limits").items():
        spec = LIMITS[name]  # Exact: limits that differ by one byte are another definition.
        stated = "none" if value is None else str(value / spec.scale).removesuffix(".0")
        document[spec.option] = stated
    return document


def _toml(value: object) -> str:
    text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")  # JSON allows the character, TOML does not.
