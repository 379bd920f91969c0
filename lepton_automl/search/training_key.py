"""Key of a training: the same text names its task, its ledger event and its checkpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class Stage(StrEnum):
    """What a trial is trained for."""

    RUNG = "rung"
    """A rung of the search."""
    FINAL = "final"
    """A final training of one of the finalists."""
    PICK = "pick"
    """The training of `lepton pick`."""
    PROBE = "probe"
    """A short training that measures the speed of this machine."""


@dataclass(frozen=True)
class TrainingKey:
    """Trial, stage and variant of one training.

    As text `7-2` is rung 2 of trial 7, `7-final-0` its final training in round 0,
    `7-final-0-1-augment-0.5` another one with seed 1 and stronger augmentation, `7-final-0-flip`
    one with random flips, `7-final-0-fold-2` one that is evaluated on fold 2.

    Raises
    ------
    ValueError
        If a value has no place in the text of that stage.
    """

    trial: int
    stage: Stage = Stage.RUNG
    round: int = 0
    """Number of the rung, or of the round of final trainings; a longer search adds a round."""
    seed: int = 0
    """Of several final trainings of one trial: 0, 1, 2."""
    augment: float | None = None
    """Strength of the augmentation in a final training; None: that of the recipe."""
    flip: bool = False
    """Whether a final training mirrors pictures where the recipe does not."""
    fold: int = 0
    """Fold that a final training leaves out and is evaluated on; 0: the validation part."""

    def __post_init__(self) -> None:
        is_final = self.stage is Stage.FINAL
        is_marked = self.seed or self.fold or self.augment is not None or self.flip
        has_round = is_final or self.stage is Stage.RUNG
        if (is_marked and not is_final) or (self.round and not has_round):
            raise ValueError(f"a training of stage {self.stage} has no {vars(self)}")

    def __str__(self) -> str:
        return f"{self.trial}-{self.label}"

    @property
    def label(self) -> str:
        """The text without the trial's number, such as `2` or `final-0`."""
        if self.stage is Stage.RUNG:
            return str(self.round)
        if self.stage is not Stage.FINAL:
            return str(self.stage)
        ending = f"-{self.seed}" if self.seed else ""
        ending += f"-fold-{self.fold}" if self.fold else ""
        augment = "" if self.augment is None else f"-augment-{_shortest(self.augment)}"
        return f"{self.stage}-{self.round}{ending}{augment}{'-flip' if self.flip else ''}"

    @property
    def description(self) -> str:
        """The training in words, such as `trial 7, rung 2`."""
        words = {
            Stage.RUNG: f"rung {self.round}",
            Stage.FINAL: "final training" + (f" without fold {self.fold}" if self.fold else ""),
            Stage.PICK: "training for a pick",
            Stage.PROBE: "speed measurement",
        }
        return f"trial {self.trial}, {words[self.stage]}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` wrote.

        Raises
        ------
        ValueError
            If the text names no training of a trial.
        """
        found = _KEY.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} names no training of a trial")
        trial = int(found["trial"])
        if found["rung"]:
            return cls(trial, Stage.RUNG, int(found["rung"]))
        if found["other"]:
            return cls(trial, Stage(found["other"]))
        return cls(
            trial,
            Stage.FINAL,
            int(found["round"]),
            int(found["seed"] or 0),
            float(found["augment"]) if found["augment"] else None,
            found["flip"] is not None,
            int(found["fold"] or 0),
        )


_KEY = re.compile(
    r"(?P<trial>\d+)-(?:(?P<rung>\d+)|(?P<other>pick|probe)"
    r"|final-(?P<round>\d+)(?:-(?P<seed>\d+))?(?:-fold-(?P<fold>\d+))?"
    r"(?:-augment-(?P<augment>.+?))?(?P<flip>-flip)?)"
)


def _shortest(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def task_text(key: str) -> str:
    """The key of a task in words: `trial 7, rung 2`, or the key where it names no trial."""
    try:
        return TrainingKey.parse(key).description
    except ValueError:
        return key
