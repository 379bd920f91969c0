"""Small labelled pictures for tests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image


def random_pictures(count, shape=(8, 8, 1), seed=0):
    """uint8 (count, *shape), no two alike."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_folder(root: Path, counts: dict[str, int], shape=(9, 7, 3), seed=0) -> Path:
    """`root/CLASS/n.png` with `counts` random pictures; CLASS may be `train/cat`."""
    for n, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for place, pixels in enumerate(random_pictures(count, shape, seed + n)):
            Image.fromarray(pixels.squeeze()).save(root / name / f"{place:03}.png")
    return root


def write_npz(path: Path, **arrays) -> str:
    """A `.npz` file of `arrays`; its path as a user types it."""
    np.savez(path, **arrays)
    return str(path)


def tree(folder):
    """Every file below `folder` with its content's hash and time."""
    return {
        path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }
