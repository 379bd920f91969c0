"""Recipe: how a net is trained, sampled together with its architecture."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Self

from lepton_automl.errors import SpaceError


@dataclass(frozen=True)
class Recipe:
    """Optimiser, schedule, augmentation and regularisation of one training.

    Every field is reachable from the `[train]` table of a search space.
    """

    optimizer: str = "sgd"
    """`sgd` (Nesterov momentum 0.9), `adamw`, or `muon` (matrices along their orthogonalised
    momentum, everything else as `adamw`)."""
    lr: float = 0.05
    """Peak learning rate for batch 64."""
    schedule: str = "onecycle"
    """`onecycle` (linear up, cosine down), `cosine` or `trapezoid`."""
    weight_decay: float = 5e-4
    """Not on norms and biases; decoupled with `adamw` and `muon`."""
    batch_size: int = 64
    average: str = "none"
    """What the weights end on: themselves (`none`), an `ema` of the last ones, or `lookahead`."""
    label_smoothing: float = 0.0
    augment: float = 0.5
    """Strength of the pictures' random changes, 0 (none) to 1 (all)."""
    augment_kind: str = "affine"
    """`affine` (turned, zoomed, sheared, shifted, lit) or `crop` (shifted by whole pixels)."""
    cutout: float = 0.0
    """Side of a square made grey in each picture, as a share of the picture's; 0 makes none."""
    colour: float = 0.0
    """Strength of random changes of hue, saturation and each channel's light, 0 to 1; nothing on
    grey pictures."""
    mixup: float = 0.0
    """Share of the pictures that are blended with another one, and their labels with its."""
    cutmix: float = 0.0
    """Share of the pictures in which a rectangle is another picture's, and so are the labels; at
    most those that are not blended."""
    plain_finish: float = 0.25
    """Last share of the batches, whose pictures are only mirrored, so that the net ends on
    pictures as they are (He et al. 2019, arXiv:1909.09148, "Data Augmentation Revisited")."""
    flip: bool = False
    """Mirror half of the pictures left to right, the other half in the next pass; only where
    orientation carries no label."""
    epochs: int = 27
    """Passes over the training part at the last rung."""

    def __post_init__(self) -> None:
        rules = {
            "optimizer": (self.optimizer in {"sgd", "adamw", "muon"}, "sgd, adamw or muon"),
            "schedule": (
                self.schedule in {"onecycle", "cosine", "trapezoid"},
                "onecycle, cosine or trapezoid",
            ),
            "lr": (0 < self.lr <= 10, "above 0, at most 10"),
            "weight_decay": (0 <= self.weight_decay <= 1, "0 to 1"),
            "batch_size": (1 <= self.batch_size <= 4096, "1 to 4096"),
            "average": (self.average in {"none", "ema", "lookahead"}, "none, ema or lookahead"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "0 to below 1"),
            "augment": (0 <= self.augment <= 1, "0 to 1"),
            "augment_kind": (self.augment_kind in {"affine", "crop"}, "affine or crop"),
            "cutout": (0 <= self.cutout <= 1, "0 to 1"),
            "colour": (0 <= self.colour <= 1, "0 to 1"),
            "mixup": (0 <= self.mixup <= 1, "0 to 1"),
            "cutmix": (0 <= self.cutmix <= 1, "0 to 1"),
            "plain_finish": (0 <= self.plain_finish <= 1, "0 to 1"),
            "epochs": (1 <= self.epochs <= 10_000, "1 to 10000"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise SpaceError(
                    f"recipe: {name} = {getattr(self, name)!r}, the rule is {rule}",
                    fix=f"set {name} in [train] to a legal value",
                )

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))
