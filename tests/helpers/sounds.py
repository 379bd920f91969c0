"""WAV files as a recorder writes them, and tones as recordings."""

from __future__ import annotations

import struct

import numpy as np


def wav_bytes(samples, rate=8000, *, kind=1, bits=16, extensible=False, before=b""):
    """A WAV file of samples (n,) or (n, channels) that are stored as they are."""
    samples = np.asarray(samples)
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    if bits == 24:
        wide = np.ascontiguousarray(samples, "<i4").view(np.uint8).reshape(-1, 4)
        body = wide[:, :3].tobytes()
    else:
        body = np.ascontiguousarray(samples).tobytes()
    block = channels * bits // 8
    form = struct.pack(
        "<HHIIHH", 0xFFFE if extensible else kind, channels, rate, rate * block, block, bits
    )
    if extensible:
        guid = struct.pack("<H", kind) + bytes.fromhex("000000001000800000aa00389b71")
        form += struct.pack("<HHI", 22, bits, 0) + guid
    chunks = before + b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def tone(hertz, seconds, rate=8000, *, seed=0, level=6000.0):
    """int16 samples of a tone with some noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    wave = np.sin(2 * np.pi * hertz * time + rng.uniform(0, 6)) * level
    return (wave + rng.normal(0, 200, len(time))).astype(np.int16)


def write(path, samples, rate=8000, **more):
    """Write a WAV file and the folders to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wav_bytes(samples, rate, **more))


def tones(folder, count=12, seconds=0.3):
    """Folder of three classes of tones; every third recording is twice as long."""
    for number, (name, hertz) in enumerate((("low", 300), ("middle", 900), ("high", 2500))):
        for n in range(count):
            long = seconds * (2 if n % 3 == 0 else 1)
            write(
                folder / name / f"{name}-{n}.wav",
                tone(hertz * (1 + 0.02 * (n % 5)), long, seed=100 * number + n),
            )
    return folder
