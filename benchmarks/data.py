"""Write the data sets of the benchmarks as .npz files, from the files that their authors publish.

    python benchmarks/data.py idx FOLDER fashion_mnist.npz       Fashion-MNIST's four idx .gz files
    python benchmarks/data.py cifar10 FOLDER cifar10.npz         CIFAR-10, binary version
    python benchmarks/data.py speech FOLDER fsdd_speaker.npz     Free Spoken Digit Dataset
    python benchmarks/data.py subset cifar10.npz cifar10_10k.npz --train 10000 --test 2000

idx and cifar10 keep the official parts. speech: log-mel pictures (40 bands, 64 frames) of all wav
files; the speakers theo and yweweler are the test part, the speaker is the group of a sample.
subset: equally many pictures of each class, drawn from both parts with numpy's seed.
"""

from __future__ import annotations

import argparse
import gzip
import wave
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HELD_OUT = ("theo", "yweweler")
RATE, WINDOW, HOP, BANDS, FRAMES = 8000, 256, 128, 40, 64
LOWEST_HZ, RANGE_DB = 60.0, 60.0

Arrays = Mapping[str, NDArray[np.generic]]


def idx(folder: Path) -> Arrays:
    """Parts in the idx format of MNIST: a header of 8 or 16 bytes, then uint8."""
    found: dict[str, NDArray[np.generic]] = {}
    for part, name in (("train", "train"), ("test", "t10k")):
        pixels = gzip.decompress((folder / f"{name}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((folder / f"{name}-labels-idx1-ubyte.gz").read_bytes())
        shape = np.frombuffer(pixels, ">u4", 3, offset=4)
        found[f"x_{part}"] = np.frombuffer(pixels, np.uint8, offset=16).reshape(shape)
        found[f"y_{part}"] = np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)
    return found


def cifar10(folder: Path) -> Arrays:
    """Rows of a label byte and 3,072 pixel bytes, channels first; classes in `batches.meta.txt`."""
    found: dict[str, NDArray[np.generic]] = {}
    files = {"train": [f"data_batch_{n}.bin" for n in range(1, 6)], "test": ["test_batch.bin"]}
    for part, names in files.items():
        parts = [np.frombuffer((folder / name).read_bytes(), np.uint8) for name in names]
        rows = np.concatenate(parts).reshape(-1, 1 + 3072)
        found[f"x_{part}"] = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        found[f"y_{part}"] = rows[:, 0].astype(np.int64)
    names = (folder / "batches.meta.txt").read_text().split()
    return found | {"class_names": np.array(names)}


def subset(source: Path, counts: Mapping[str, int], seed: int) -> Arrays:
    """As many samples of each class, drawn from each part with the seed; the rest is left out."""
    with np.load(source) as file:
        found = {"class_names": file["class_names"]} if "class_names" in file else {}
        for part, count in counts.items():
            labels = file[f"y_{part}"]
            classes, draws = np.unique(labels), np.random.default_rng(seed)
            own = [draws.permutation(np.flatnonzero(labels == c)) for c in classes]
            kept = draws.permutation(np.concatenate([o[: count // len(classes)] for o in own]))
            found |= {f"{key}_{part}": file[f"{key}_{part}"][kept] for key in ("x", "y")}
    return found


def mel_filters() -> NDArray[np.float64]:
    """(BANDS, WINDOW // 2 + 1): triangles, evenly spaced on the mel scale, highest band first."""
    mel = 2595 * np.log10(1 + np.array([LOWEST_HZ, RATE / 2]) / 700)
    edges = 700 * (10 ** (np.linspace(*mel, BANDS + 2) / 2595) - 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    at = np.fft.rfftfreq(WINDOW, 1 / RATE)
    rising, falling = (at - low) / (middle - low), (high - at) / (high - middle)
    return np.maximum(0, np.minimum(rising, falling))[::-1]


def log_mel(samples: NDArray[np.int16]) -> NDArray[np.uint8]:
    """(BANDS, FRAMES): 0 to 255 for -60 to 0 dB below the recording's peak, silence appended."""
    longest = WINDOW + (FRAMES - 1) * HOP
    padded = np.pad(samples.astype(float), (0, max(0, longest - len(samples))))[:longest]
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW + 1)[:-1])) ** 2 @ mel_filters().T
    level = 10 * np.log10(np.maximum(power, 1e-10))
    scaled = np.clip(1 + (level - level.max()) / RANGE_DB, 0, 1)
    return np.round(255 * scaled.T).astype(np.uint8)


def speech(folder: Path) -> Arrays:
    """Recordings named DIGIT_SPEAKER_TAKE.wav, 16 bits, one channel."""
    paths = sorted(folder.rglob("*.wav"))
    labels, speakers = zip(*(path.stem.split("_")[:2] for path in paths), strict=True)
    pictures = []
    for path in paths:
        with wave.open(str(path)) as file:
            pictures.append(log_mel(np.frombuffer(file.readframes(file.getnframes()), "<i2")))
    x, y, group = np.stack(pictures), np.array(labels, np.int64), np.array(speakers)
    is_test = np.isin(group, HELD_OUT)
    return {
        f"{key}_{part}": values[chosen]
        for part, chosen in (("train", ~is_test), ("test", is_test))
        for key, values in (("x", x), ("y", y), ("group", group))
    }


def main() -> None:
    """Write one file."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("kind", choices=("idx", "cifar10", "speech", "subset"))
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=10_000, help="of `subset`")
    parser.add_argument("--test", type=int, default=2_000, help="of `subset`")
    parser.add_argument("--seed", type=int, default=42, help="of `subset`")
    given = parser.parse_args()
    if given.kind == "subset":
        counts = {"train": given.train, "test": given.test}
        arrays = subset(given.source, counts, given.seed)
    else:
        arrays = {"idx": idx, "cifar10": cifar10, "speech": speech}[given.kind](given.source)
    np.savez(given.out, **arrays)
    for name, values in arrays.items():
        print(name, values.dtype, values.shape)


if __name__ == "__main__":
    main()
