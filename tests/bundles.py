"""A small bundle with random weights and a test part that its float net half knows, for tests."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from lepton_automl.arch import chain
from lepton_automl.bundle import write_bundle
from lepton_automl.compress.calibrate import calibrate
from lepton_automl.compress.fold import fold
from lepton_automl.compress.integers import quantize
from lepton_automl.config import Limits
from lepton_automl.dataset import LabelledFiles
from lepton_automl.evaluate import predict_logits
from lepton_automl.layers.conv import Conv
from lepton_automl.layers.head import Head
from lepton_automl.layers.stem import Stem
from lepton_automl.targets import load
from lepton_automl.verify import Request
from tests.nets import random_model, random_pixels

CLASSES = ("cat", "dog", "läufer | 3")
SAMPLES = 120


@dataclass(frozen=True)
class Made:
    """A written bundle that is not sealed yet, and how to verify it."""

    folder: Path
    digests: dict[str, str]
    request: Request


def make_bundle(
    root: Path, *, limits: Limits | None = None, prefer: str = "size", balanced: bool = False
) -> Made:
    """Write `root/artifact`; three of four test labels are what the float net says."""
    arch = chain((8, 8, 3), [Stem(8), Conv(16, stride=2), Head()], len(CLASSES))
    model = random_model(arch, 3)
    twin = fold(model)
    int8 = quantize(twin, calibrate(twin, random_pixels(arch, 64, 1)), 64)
    validation = _part(root, "validation", model, 40)
    test = _part(root, "test", model, SAMPLES)
    digests = write_bundle(
        root / "artifact",
        int8=int8,
        float_twin=twin,
        reference=model,
        dataset=SimpleNamespace(name="pets", class_names=CLASSES, fingerprint="0123456789abcdef"),
        validation=dataclasses.replace(validation, is_balanced=balanced),
        limits=limits or Limits(),
        target=load(),
        prefer=prefer,
    )
    request = Request(root / "artifact", test.pixels, test.labels, "feedfacefeedface")
    return Made(root / "artifact", digests, request)


def _part(root: Path, name: str, model, count: int) -> LabelledFiles:
    pixels = random_pixels(model.arch, count, len(name))
    labels = predict_logits(model, pixels).argmax(1).numpy()
    wrong = np.arange(count) % 4 == 0
    labels = np.where(wrong, (labels + 1) % len(CLASSES), labels).astype(np.int64)
    files = LabelledFiles(root / f"{name}.pixels.npy", root / f"{name}.labels.npy")
    np.save(files.pixels, pixels.numpy())
    np.save(files.labels, torch.from_numpy(labels).numpy())
    return files
