"""Read recordings of sound: WAV by a parser of our own, FLAC, OGG, MP3 by soundfile (an extra).

The parser reads the formats that `wave` of the standard library refuses before Python 3.12: float
samples and WAVE_FORMAT_EXTENSIBLE. It follows the sizes in the file only as far as its bytes go.
"""

from __future__ import annotations

import importlib
import io
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_files import FileKind
from lepton_automl.errors import DataError, MachineError, first_line
from lepton_automl.models.front_end import MAX_RATE

WAV_SUFFIXES = frozenset({".wav", ".wave"})
SUFFIXES = WAV_SUFFIXES | {".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff"}
"""Of files with recordings of sound."""
RECORDING = FileKind("recordings", 256 << 20)
_MOST_SAMPLES = 256 << 20
"""Samples of a compressed file, all channels counted, that are decoded, and of a resampled one."""
_MOST_TIMES = 16
"""Times its rate to which a recording is brought at most."""
_MOST_CHANNELS = 64
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_FIX = "give WAV files of PCM (8 to 32 bits) or float samples; sox IN.wav -b 16 OUT.wav converts"
_FULL_SCALE = 1 << 15

Audio = NDArray[np.int16]
"""PCM samples: (n,) of a recording, (N, window) of windows."""


def read_audio(path: Path) -> tuple[Audio, int]:
    """Samples of a recording, its channels averaged, and its sampling rate.

    Parameters
    ----------
    path : Path
        `.wav` with PCM of 8, 16, 24 or 32 bits or float of 32 or 64; else a file of libsndfile.

    Returns
    -------
    int16 array (n,)
        Samples; float ones of -1 to 1 are multiplied by 32768 and clipped.
    int
        Samples a second, hertz.

    Raises
    ------
    DataError
        If it is no such file, is damaged, or holds no sound.
    MachineError
        If soundfile is needed and not installed.
    """
    content = untrusted_files.read_bytes(path, RECORDING, fix=_FIX)
    is_wav = path.suffix.lower() in WAV_SUFFIXES
    samples, rate = (_wav if is_wav else _compressed)(path, content)
    if not 1 <= rate <= MAX_RATE:
        raise _unreadable(path, f"a sampling rate of {rate} Hz, the rule is 1 to {MAX_RATE}")
    if not len(samples):
        raise _unreadable(path, "no samples")
    return _to_int16(path, samples), rate


def to_rate(path: Path, samples: Audio, rate: int, wanted: int) -> Audio:
    """Resample a recording with a polyphase filter (`scipy.signal.resample_poly`).

    Raises
    ------
    DataError
        If the rate would grow more than 16 times, which a damaged header asks for.
    """
    if rate == wanted:
        return samples
    if wanted > _MOST_TIMES * rate or len(samples) * wanted > _MOST_SAMPLES * rate:
        raise DataError(
            f"{path} has {len(samples)} samples at {rate} Hz, the others or --rate {wanted} Hz; a "
            f"recording is brought to at most {_MOST_TIMES} times its rate and {_MOST_SAMPLES} "
            "samples",
            fix="leave the recording out, or give another --rate",
        )
    from scipy.signal import resample_poly  # slow to import

    common = math.gcd(rate, wanted)
    found = resample_poly(samples.astype(np.float32), wanted // common, rate // common)
    return np.asarray(np.clip(np.rint(found), -_FULL_SCALE, _FULL_SCALE - 1), np.int16)


def cut(samples: Audio, window: int, stride: int) -> Audio:
    """Windows (n, window) of a recording, one every `stride` samples, as many as cover it.

    The last one, and that of a shorter recording, ends with zeros.
    """
    count = 1 + max(0, math.ceil((len(samples) - window) / stride))
    padded = np.zeros((count - 1) * stride + window, np.int16)
    padded[: len(samples)] = samples[: len(padded)]
    starts = np.arange(count) * stride
    found: Audio = padded[starts[:, None] + np.arange(window)]
    return found


def _wav(path: Path, content: bytes) -> tuple[NDArray[Any], int]:
    """Samples (n, channels) as stored, 24 bits in the upper three bytes of 32, and the rate."""
    if content[:4] not in (b"RIFF", b"RF64") or content[8:12] != b"WAVE":
        raise _unreadable(path, "no WAV file (RIFF)")
    form: tuple[int, int, int, int] | None = None
    for name, body in _chunks(content):
        if name == b"fmt " and form is None:
            form = _format(path, body)
        elif name == b"data":
            if form is None:
                break
            kind, channels, rate, bits = form
            width = bits // 8 * channels
            return _decoded(body[: len(body) // width * width], kind, channels, bits), rate
    raise _unreadable(path, "a WAV file without a format and samples")


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Names and contents of the chunks; of one that ends beyond the file what is there."""
    view, place = memoryview(content), 12
    while place + 8 <= len(view):
        (size,) = struct.unpack_from("<I", view, place + 4)
        yield bytes(view[place : place + 4]), view[place + 8 : place + 8 + size]
        place += 8 + size + size % 2


def _format(path: Path, body: memoryview) -> tuple[int, int, int, int]:
    """Kind, channels, rate and bits."""
    if len(body) < 16:
        raise _unreadable(path, "a WAV file whose format is cut off")
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
    if kind == _EXTENSIBLE and len(body) >= 26:
        (kind,) = struct.unpack_from("<H", body, 24)
    legal = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}.get(kind, ())
    if bits not in legal:
        raise _unreadable(path, f"WAV samples of format {kind} with {bits} bits")
    if not 1 <= channels <= _MOST_CHANNELS:
        raise _unreadable(path, f"{channels} channels, the rule is 1 to {_MOST_CHANNELS}")
    return kind, channels, rate, bits


def _decoded(body: memoryview, kind: int, channels: int, bits: int) -> NDArray[Any]:
    if kind == _FLOAT:
        return np.frombuffer(body, f"<f{bits // 8}").reshape(-1, channels)
    if bits == 24:
        wide = np.zeros((len(body) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(body, np.uint8).reshape(-1, 3)
        return wide.view("<i4").reshape(-1, channels)
    kinds = {8: "u1", 16: "<i2", 32: "<i4"}
    return np.frombuffer(body, kinds[bits]).reshape(-1, channels)


def _compressed(path: Path, content: bytes) -> tuple[NDArray[Any], int]:
    try:
        soundfile = importlib.import_module("soundfile")  # An extra.
    except ImportError as error:
        raise MachineError(
            f"{path} is read by soundfile, which is not installed",
            fix="pip install 'lepton-automl[audio]', or convert the files to WAV",
        ) from error
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            if file.frames * file.channels > _MOST_SAMPLES:
                raise _unreadable(path, f"{file.frames} samples in {file.channels} channels")
            return file.read(dtype="float32", always_2d=True), int(file.samplerate)
    except (RuntimeError, ValueError, TypeError) as error:
        raise _unreadable(path, f"no sound: {first_line(error)}") from error


def _to_int16(path: Path, samples: NDArray[Any]) -> Audio:
    """Samples (n, channels) of any type as int16 (n,), averaged over channels."""
    if samples.dtype == np.int16 and samples.shape[1] == 1:
        return np.ascontiguousarray(samples[:, 0], np.int16)
    values = samples.astype(np.float64)
    if samples.dtype.kind == "u":
        values = (values - 128) * 256
    elif samples.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise _unreadable(path, "samples that are NaN or infinite")
        values *= _FULL_SCALE
    elif samples.dtype.itemsize == 4:
        values /= 1 << 16
    mean = np.rint(values.mean(1))
    found: Audio = np.clip(mean, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
    return found


def _unreadable(path: Path, what: str) -> DataError:
    return DataError(f"{path} holds {what}", fix=_FIX)
