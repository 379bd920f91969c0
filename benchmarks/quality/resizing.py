"""Pixels of the format any_size in other versions of ONNX Runtime, beside Pillow's and exact ones.

    python benchmarks/bench.py resizing --versions 1.16.3 1.20.1 1.24.* today --pictures 200

Pictures of noise, of random heights and widths, are resized by the file's own operators. Levels are
of 255; the exact value is an antialiased bilinear resize in float64 that is not rounded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import RUNS, parser, print_table
from benchmarks.quality.runtimes import TODAY, environment
from lepton_automl.models.arch import chain
from lepton_automl.models.formats.any_size import resizing_of, with_resizing
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.random_weights import random_net

SIZES = ((32, 32), (96, 64))
"""Heights and widths of the nets."""
LONGEST = 300
EXTREMES = ((1, 1), (4000, 10), (10, 4000), (1500, 2000))
PROGRAM = """
import os, sys
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.log_severity_level = 3
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
with np.load(sys.argv[2]) as given:
    found = {k: session.run(None, {"pixels": given[k][None]})[0][0] for k in given.files}
np.savez(sys.argv[3], **found)
print(ort.__version__)
"""


def main(arguments: list[str]) -> None:
    """Print a line a version and size."""
    options = parser(__doc__, "resizing")
    options.add_argument("--versions", nargs="+", default=["1.16.3", "1.20.1", "1.24.*", TODAY])
    options.add_argument("--pictures", type=int, default=200)
    options.add_argument("--environments", type=Path, default=RUNS / "runtimes")
    given = options.parse_args(arguments)
    generator = np.random.default_rng(0)
    drawn = generator.integers(1, LONGEST, (given.pictures, 2)).tolist()
    pictures = [generator.integers(0, 256, (*size, 3), np.uint8) for size in (*drawn, *EXTREMES)]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for size in SIZES:
            expected = [np.asarray(image(each).resize(size[::-1], 2)) for each in pictures]
            exact = [resized(each, size) for each in pictures]
            for version in given.versions:
                at = None if version == TODAY else environment(version, given.environments)
                name, found = answers(size, pictures, at, Path(scratch))
                rows.append((f"{size[0]}x{size[1]}", name, *cells(found, expected, exact)))
    head = ["net", "version", "pixels", "equal to Pillow", "most levels", "from the exact value"]
    print_table(head, rows)


def image(pixels: np.ndarray) -> Image.Image:
    """Pixels (H, W, 3) as an image."""
    return Image.fromarray(pixels)


def answers(
    size: tuple[int, int], pictures: Sequence[np.ndarray], libraries: Path | None, scratch: Path
) -> tuple[str, list[np.ndarray]]:
    """Version of ONNX Runtime, and the pictures as it resizes them."""
    net = random_net(chain((*size, 3), [Stem(8), Head()], 2), 8, 0)
    model, given, made = (scratch / name for name in ("model.onnx", "given.npz", "made.npz"))
    model.write_bytes(resizing_of(with_resizing(int8_onnx(net, ["a", "b"], {}))))
    np.savez(given, *pictures)
    variables = os.environ | ({} if libraries is None else {"PYTHONPATH": str(libraries)})
    command = [sys.executable, "-P", "-c", PROGRAM, *map(str, (model, given, made))]
    done = subprocess.run(command, check=True, env=variables, capture_output=True, text=True)
    with np.load(made) as found:
        return done.stdout.strip(), [found[f"arr_{n}"] for n in range(len(pictures))]


def weights(source: int, target: int) -> np.ndarray:
    """Of a bilinear resize of one side, antialiased: (target, source), float64."""
    scale = source / target
    centres, places = (np.arange(target) + 0.5) * scale, np.arange(source) + 0.5
    found = np.maximum(0, 1 - np.abs(places - centres[:, None]) / max(1.0, scale))
    return found / found.sum(axis=1, keepdims=True)


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (H, W, C) of another size, not rounded."""
    rows, columns = (weights(a, b) for a, b in zip(picture.shape, size, strict=False))
    return np.einsum("hy,yxc,wx->hwc", rows, picture.astype(float), columns, optimize=True)


def cells(
    found: Sequence[np.ndarray], expected: Sequence[np.ndarray], exact: Sequence[np.ndarray]
) -> tuple[str, ...]:
    """Cells of the table."""
    apart = np.concatenate(
        [np.abs(a.astype(int) - b).ravel() for a, b in zip(found, expected, strict=True)]
    )
    rest = max(float(np.abs(a - b).max()) for a, b in zip(found, exact, strict=True))
    return str(apart.size), f"{(apart == 0).mean():.2%}", str(apart.max()), f"{rest:.3f}"
