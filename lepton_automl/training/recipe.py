"""Training hyperparameters of a net, sampled together with its architecture."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Self

from lepton_automl.core import untrusted_files
from lepton_automl.errors import SpaceError

_REMAKE = "remove it from recipe.json, or use the version of lepton that wrote the file"


@dataclass(frozen=True)
class Recipe:
    """Optimizer, schedule, augmentation and regularisation of one training.

    Every field can be set in the `[train]` table of a search space.
    """

    optimizer: str = "sgd"
    """`sgd` (Nesterov momentum 0.9), `adamw`, or `muon` (for matrices; `adamw` for the rest)."""
    lr: float = 0.05
    """Peak learning rate at batch size 64."""
    schedule: str = "onecycle"
    """`onecycle` (linear up, cosine down), `cosine` or `trapezoid`."""
    weight_decay: float = 5e-4
    """Not applied to norms and biases; decoupled with `adamw` and `muon`."""
    batch_size: int = 64
    label_smoothing: float = 0.0
    augment: float = 0.5
    """Strength of the random affine transforms or crops, 0 (none) to 1."""
    augment_kind: str = "affine"
    """`affine` (rotation, zoom, shear, shift, contrast, brightness), `crop` (shift by whole
    pixels), or `signal` (shift in time, gain, offset, noise), or
    `audio` (speed, start, pitch, noise, masks of log-mel features)."""
    cutout: float = 0.0
    """Side of a square set to grey in each picture, as a share of the picture's; 0 sets none."""
    colour: float = 0.0
    """Strength of colour jitter (hue, saturation, brightness of each channel), 0 to 1; no effect on
    grey pictures."""
    mixup: float = 0.0
    """Share of the samples that are blended with another one, labels included."""
    cutmix: float = 0.0
    """Share of the samples that get a rectangle of another one, with mixed labels; at most those
    that are not blended."""
    plain_finish: float = 0.25
    """Share of the steps, at the end, without augmentation but flips (He et al. 2019,
    arXiv:1909.09148, "Data Augmentation Revisited")."""
    flip: bool = False
    """Mirror half of the pictures left to right in each pass, the other half in the next one; only
    where the label does not depend on orientation."""
    epochs: int = 27
    """Passes over the training samples at the last rung."""

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
            "label_smoothing": (0 <= self.label_smoothing < 1, "0 to below 1"),
            "augment": (0 <= self.augment <= 1, "0 to 1"),
            "augment_kind": (
                self.augment_kind in {"affine", "crop", "signal", "audio"},
                "affine, crop, signal or audio",
            ),
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
        """Read what `to_json` wrote.

        Raises
        ------
        SpaceError
            If it holds a setting that this version does not have.
        """
        body = untrusted_files.parse_json(text, "recipe", fix=_REMAKE, top=dict, error=SpaceError)
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [name for name in body if name not in known]
        if unknown:
            raise SpaceError(
                f"recipe: unknown setting {', '.join(unknown)}, "
                f"the settings are {', '.join(known)}",
                fix=_REMAKE,
            )
        return cls(**body)
