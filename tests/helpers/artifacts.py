"""A small bundle with random weights and a test part that its float net half knows, for tests."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from lepton_automl.artifact.manifest import canonical
from lepton_automl.artifact.model_card import card
from lepton_automl.artifact.provenance import read_provenance
from lepton_automl.artifact.verdict import (
    FileMetrics,
    JudgedLimit,
    PairedDrop,
    Parity,
    TargetLatency,
    Verdict,
)
from lepton_automl.artifact.verify import Request, reference_predictions, verify
from lepton_automl.artifact.writer import seal, write_artifact
from lepton_automl.compress.quantization.calibration import calibrate
from lepton_automl.compress.quantization.equalization import fold_batchnorm
from lepton_automl.compress.quantization.rounding import quantize
from lepton_automl.config import Limits
from lepton_automl.core.machine import Machine
from lepton_automl.cost.targets import load
from lepton_automl.data.dataset import LabelledFiles
from lepton_automl.data.pictures.pixel_scale import PixelScale
from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.training.evaluate import predict_logits
from tests.helpers.nets import random_model, random_pixels

CLASSES = ("cat", "dog", "läufer | 3")
SAMPLES = 120


@dataclass(frozen=True)
class Made:
    """A written bundle that is not sealed yet, and how to verify it."""

    folder: Path
    digests: dict[str, str]
    request: Request


def make_bundle(
    root: Path,
    *,
    limits: Limits | None = None,
    prefer: str = "size",
    balanced: bool = False,
    pixel_scale: PixelScale | None = None,
    window_stride: int = 0,
    formats: tuple[str, ...] = (),
    ship: str = "onnx",
    reject: float = 0.0,
    refit: bool = False,
) -> Made:
    """Write `root/artifact`; three of four test labels are what the float net says."""
    arch = chain((8, 8, 3), [Stem(8), Conv(16, stride=2), Head()], len(CLASSES))
    model = random_model(arch, 3)
    twin = fold_batchnorm(model)
    int8 = quantize(twin, calibrate(twin, random_pixels(arch, 64, 1)), 64)
    validation = _part(root, "validation", model, 40)
    test = _part(root, "test", model, SAMPLES)
    digests = write_artifact(
        root / "artifact",
        int8=int8,
        float_twin=twin,
        reference=model,
        dataset=SimpleNamespace(name="pets", class_names=CLASSES, fingerprint="0123456789abcdef"),
        validation=dataclasses.replace(validation, is_balanced=balanced),
        limits=limits or Limits(),
        target=load(),
        prefer=prefer,
        pixel_scale=pixel_scale,
        window_stride=window_stride,
        formats=formats,
        ship=ship,
        reject=reject,
        refit=refit,
    )
    request = Request(root / "artifact", test.pixels, test.labels, "feedfacefeedface")
    return Made(root / "artifact", digests, request)


def seal_bundle(made: Made, found: Verdict | None = None, **claimed) -> None:
    """Judge a bundle and seal it, as a run does; with fields of the verdict that are claimed."""
    found = found or verify(dataclasses.replace(made.request, digests=made.digests))
    found = dataclasses.replace(found, **claimed)
    predictions = reference_predictions(made.folder, np.load(made.request.pixels))
    text = card(found, read_provenance(made.folder))
    seal(made.folder, made.digests, verdict=found, card=text, predictions=predictions)


def seal_again(folder: Path) -> None:
    """Compute the manifest again after files of a sealed artifact were changed."""
    path = folder / "manifest.json"
    body = json.loads(path.read_text())
    body["files"] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name in body["files"]
        if (folder / name).exists()
        for content in [(folder / name).read_bytes()]
    }
    path.write_text(canonical(body))


def _part(root: Path, name: str, model, count: int) -> LabelledFiles:
    pixels = random_pixels(model.arch, count, len(name))
    labels = predict_logits(model, pixels).argmax(1).numpy()
    wrong = np.arange(count) % 4 == 0
    labels = np.where(wrong, (labels + 1) % len(CLASSES), labels).astype(np.int64)
    files = LabelledFiles(root / f"{name}.pixels.npy", root / f"{name}.labels.npy")
    np.save(files.pixels, pixels.numpy())
    np.save(files.labels, torch.from_numpy(labels).numpy())
    return files


def figures(file: str = "model.int8.onnx", **changes) -> FileMetrics:
    """Figures of a file of 12 kB."""
    base = FileMetrics(
        file=file,
        sha256=("a" if "int8" in file else "b") * 64,
        accuracy=0.9861,
        accuracy_interval=(0.9681, 0.9940),
        n_samples=360,
        size_bytes=12_000,
        weight_bytes=8_000,
        parameter_bytes=9_000,
        macs=200_000,
        peak_ram_bytes=1_500,
        latency_ms=0.013,
        latency_interval=(0.012, 0.014),
        float_nodes=(),
    )
    return dataclasses.replace(base, **changes)


def verdict(**changes) -> Verdict:
    """A verdict that holds; its one limit is an exact one."""
    base = Verdict(
        status="holds",
        primary="int8",
        prefer="size",
        limits=(JudgedLimit("max_size_bytes", 20_000, 12_000, None, "holds"),),
        problems=(),
        parity=Parity(100, 0, 98, 98, 0.0, holds=True),
        int8=figures(),
        float32=figures("model.fp32.onnx", size_bytes=40_000, float_nodes=("a (Conv)",)),
        reference=figures("reference/model.fp32.onnx", size_bytes=50_000),
        drops={"int8": PairedDrop(0.28, -0.5, 1.1, 0.9, 360)},
        test_fingerprint="feedfacefeedface",
        test_set_uses=1,
        grouped=False,
        machine=Machine("Some CPU", ("avx2",), 2, "1.32.0", "Linux x86_64"),
    )
    return dataclasses.replace(base, **changes)


def target_latency(basis: str = "estimated", **changes) -> TargetLatency:
    """Two milliseconds on another device, give or take one."""
    return dataclasses.replace(TargetLatency(2.0, (1.0, 3.0), basis, "cortex-m: a core"), **changes)
