"""Read recordings of sound: WAV by a parser of our own, others by soundfile (an extra).

The parser reads the formats that `wave` of the standard library refuses before Python 3.12: float
samples, WAVE_FORMAT_EXTENSIBLE, G.711, big-endian files, and PCM of any number of bits. It follows
the sizes in the file only as far as its bytes go.
"""

from __future__ import annotations

import importlib
import io
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_archives import Member
from lepton_automl.core.untrusted_files import FileKind
from lepton_automl.errors import DataError, MachineError, first_line
from lepton_automl.models.front_end import MAX_RATE

WAV_SUFFIXES = frozenset({".wav", ".wave"})
SUFFIXES = WAV_SUFFIXES | {".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"}
"""Of files with recordings of sound."""
RECORDING = FileKind("recordings", 256 << 20)
_MOST_SAMPLES = 256 << 20
"""Samples of a compressed file, all channels counted, that are decoded, and of a resampled one."""
_BLOCK = 1 << 20
"""Samples, of each channel, that are converted at once: as floats they take up to eight times the
memory of their file."""
_MOST_TIMES = 16
"""Times its rate to which a recording is brought at most."""
_MOST_CHANNELS = 64
_PCM, _FLOAT, _A_LAW, _MU_LAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_BITS = {_PCM: range(1, 65), _FLOAT: (32, 64), _A_LAW: (8,), _MU_LAW: (8,)}
"""Kind of samples -> their bits."""
_FIX = "give WAV files of PCM, float or G.711 samples; sox IN.wav -b 16 OUT.wav converts"
_FULL_SCALE = 1 << 15
_OPENED = re.compile(r"^Error opening <[^>]*>: ")
"""What soundfile says of the object that it reads, with an address that changes each time."""

AudioFile = Path | Member
"""A recording: a file, or one in an archive."""
Audio = NDArray[np.int16]
"""PCM samples: (n,) of a recording, (N, window) of windows."""


def read_audio(path: AudioFile) -> tuple[Audio, int]:
    """Samples of a recording, its channels averaged, and its sampling rate.

    Parameters
    ----------
    path : Path or Member
        `.wav` with PCM of 1 to 64 bits, float of 32 or 64, A-law or mu-law; else a file of
        libsndfile.

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
    if isinstance(path, Member):
        content = path.read(max_bytes=RECORDING.max_bytes, fix=_FIX)
    else:
        content = untrusted_files.read_bytes(path, RECORDING, fix=_FIX)
    is_wav = path.suffix.lower() in WAV_SUFFIXES
    samples, rate = (_wav if is_wav else _compressed)(path, content)
    if not 1 <= rate <= MAX_RATE:
        raise _unreadable(path, f"a sampling rate of {rate} Hz, the rule is 1 to {MAX_RATE}")
    if not len(samples):
        raise _unreadable(path, "no samples")
    return _to_int16(path, samples), rate


def to_rate(path: AudioFile, samples: Audio, rate: int, wanted: int) -> Audio:
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
    np.clip(np.rint(found, out=found), -_FULL_SCALE, _FULL_SCALE - 1, out=found)
    return np.asarray(found, np.int16)


def cut_windows(samples: Audio, window: int, stride: int) -> Audio:
    """Windows (n, window) of a recording, one every `stride` samples, as many as cover it.

    The last one, and that of a shorter recording, ends with zeros.
    """
    blocks = cut_in_blocks(samples, window, stride, window_count(samples, window, stride))
    return next(blocks)


def window_count(samples: Audio, window: int, stride: int) -> int:
    """Windows that `cut_windows` gives."""
    return 1 + max(0, math.ceil((len(samples) - window) / stride))


def cut_in_blocks(samples: Audio, window: int, stride: int, most: int) -> Iterator[Audio]:
    """The windows that `cut_windows` gives, at most `most` at once."""
    count = window_count(samples, window, stride)
    padded = np.zeros((count - 1) * stride + window, np.int16)
    padded[: len(samples)] = samples[: len(padded)]
    for first in range(0, count, most):
        starts = np.arange(first, min(first + most, count)) * stride
        yield padded[starts[:, None] + np.arange(window)]


@dataclass(frozen=True)
class _Format:
    """How the samples of a WAV file are stored."""

    kind: int
    channels: int
    rate: int
    width: int
    """Bytes of a sample."""
    order: str
    """Of the bytes: `<` or `>`."""


def _wav(path: AudioFile, content: bytes) -> tuple[NDArray[Any], int]:
    """Samples (n, channels) as stored, other whole numbers as 32 bits, and the rate."""
    if content[:4] not in (b"RIFF", b"RF64", b"RIFX") or content[8:12] != b"WAVE":
        raise _unreadable(path, "no WAV file (RIFF)")
    order = ">" if content[:4] == b"RIFX" else "<"
    form: _Format | None = None
    for name, body in _chunks(content, order):
        if name == b"fmt " and form is None:
            form = _format(path, body, order)
        elif name == b"data":
            if form is None:
                break
            frame = form.width * form.channels
            samples = _decoded(body[: len(body) // frame * frame], form)
            return samples.reshape(-1, form.channels), form.rate
    raise _unreadable(path, "a WAV file without a format and samples")


def _chunks(content: bytes, order: str) -> Iterator[tuple[bytes, memoryview]]:
    """Names and contents of the chunks; of one that ends beyond the file what is there."""
    view, place = memoryview(content), 12
    while place + 8 <= len(view):
        (size,) = struct.unpack_from(f"{order}I", view, place + 4)
        yield bytes(view[place : place + 4]), view[place + 8 : place + 8 + size]
        place += 8 + size + size % 2


def _format(path: AudioFile, body: memoryview, order: str) -> _Format:
    if len(body) < 16:
        raise _unreadable(path, "a WAV file whose format is cut off")
    kind, channels, rate, speed, frame, bits = struct.unpack_from(f"{order}HHIIHH", body)
    if kind == _EXTENSIBLE and len(body) >= 28:
        (kind,) = struct.unpack_from(f"{order}I", body, 24)
    if bits not in _BITS.get(kind, ()):
        raise _unreadable(path, f"WAV samples of format {kind} with {bits} bits")
    if not 1 <= channels <= _MOST_CHANNELS:
        raise _unreadable(path, f"{channels} channels, the rule is 1 to {_MOST_CHANNELS}")
    width = -(-bits // 8)
    # Some files hold 24 bits in four bytes; the size of a frame counts where the speed confirms it.
    if kind == _PCM and speed == rate * frame and not frame % channels:
        width = max(width, min(8, frame // channels))
    return _Format(kind, channels, rate, width, order)


def _decoded(body: memoryview, form: _Format) -> NDArray[Any]:
    if form.kind == _FLOAT:
        return np.frombuffer(body, f"{form.order}f{form.width}")
    stored = np.frombuffer(body, np.uint8)
    if form.kind in (_A_LAW, _MU_LAW):
        return (_a_law() if form.kind == _A_LAW else _mu_law())[stored]
    if form.width == 1:
        return stored
    if form.width == 2:
        return np.frombuffer(body, f"{form.order}i2").astype(np.int16, copy=False)
    places = stored.reshape(-1, form.width)[:, :: 1 if form.order == "<" else -1]
    kept = places[:, -4:]  # The lowest bytes of more than 32 bits are below one step of 16.
    wide = np.zeros((len(kept), 4), np.uint8)
    wide[:, 4 - kept.shape[1] :] = kept
    return wide.view("<i4")


def _mu_law() -> NDArray[np.int16]:
    """Value of each byte of mu-law (ITU-T G.711)."""
    code = ~np.arange(256) & 0xFF
    size = ((((code & 15) << 3) + 132) << (code >> 4 & 7)) - 132
    return np.where(code & 0x80, -size, size).astype(np.int16)


def _a_law() -> NDArray[np.int16]:
    """Value of each byte of A-law (ITU-T G.711)."""
    code = np.arange(256) ^ 0x55
    exponent, rest = code >> 4 & 7, ((code & 15) << 4) + 8
    size = np.where(exponent == 0, rest, (rest + 256) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, size, -size).astype(np.int16)


def _compressed(path: AudioFile, content: bytes) -> tuple[NDArray[Any], int]:
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
            found = [np.empty(0, np.int16)]
            while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                found.append(_to_int16(path, block))
            return np.concatenate(found)[:, None], int(file.samplerate)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = _OPENED.sub("", first_line(error))
        raise _unreadable(path, f"no sound: {reason}") from error


def _to_int16(path: AudioFile, samples: NDArray[Any]) -> Audio:
    """Samples (n, channels) of any type as int16 (n,), averaged over channels."""
    if samples.dtype == np.int16 and samples.shape[1] == 1:
        return np.ascontiguousarray(samples[:, 0], np.int16)
    found: Audio = np.empty(len(samples), np.int16)
    for start in range(0, len(samples), _BLOCK):
        found[start : start + _BLOCK] = _averaged(path, samples[start : start + _BLOCK])
    return found


def _averaged(path: AudioFile, samples: NDArray[Any]) -> Audio:
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
    averaged: Audio = np.clip(mean, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
    return averaged


def _unreadable(path: AudioFile, what: str) -> DataError:
    return DataError(f"{path} holds {what}", fix=_FIX)
