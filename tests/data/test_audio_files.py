from __future__ import annotations

import contextlib
import importlib.util
import os
import struct
import tracemalloc
import wave
from pathlib import Path

import numpy as np
import pytest

from lepton_automl.data import audio_files
from lepton_automl.errors import DataError, MachineError
from tests.helpers.sounds import tone, wav_bytes, write

SAMPLES = np.array([0, 1, -1, 256, -32768, 32767, 1234], np.int16)


def read(tmp_path, content, name="a.wav"):
    (tmp_path / name).write_bytes(content)
    return audio_files.read_audio(tmp_path / name)


def test_sixteen_bits_are_as_the_standard_library_writes_them(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(11025)
        file.writeframes(SAMPLES.astype("<i2").tobytes())
    found, rate = audio_files.read_audio(tmp_path / "a.wav")
    assert (found.dtype, rate) == (np.int16, 11025)
    np.testing.assert_array_equal(found, SAMPLES)


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize(
    ("kind", "bits", "stored"),
    [
        (1, 8, ((SAMPLES.astype(int) >> 8) + 128).astype(np.uint8)),
        (1, 24, SAMPLES.astype(np.int32) * 256),
        (1, 32, SAMPLES.astype(np.int32) * 65536),
        (3, 32, SAMPLES.astype("<f4") / 32768),
        (3, 64, SAMPLES.astype("<f8") / 32768),
    ],
)
def test_every_form_has_the_same_samples(tmp_path, kind, bits, stored, extensible):
    content = wav_bytes(stored, kind=kind, bits=bits, extensible=extensible)
    found, _ = read(tmp_path, content)
    wanted = (SAMPLES >> 8) * 256 if bits == 8 else SAMPLES
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 0xFFFE])
@pytest.mark.parametrize(
    ("bits", "width", "frame"),
    [(12, 2, 2), (20, 3, 3), (24, 3, 3), (24, 4, 4), (36, 5, 5), (64, 8, 8)],
)
def test_samples_of_any_bits_stand_in_the_upper_bits_of_their_bytes(
    tmp_path, kind, order, bits, width, frame
):
    """Oracle: Python's own integers, written byte by byte."""
    big = order == ">"
    wide = [int(v) << 8 * width - 16 for v in SAMPLES]
    body = b"".join(v.to_bytes(width, "big" if big else "little", signed=True) for v in wide)
    form = struct.pack(f"{order}HHIIHH", kind, 1, 8000, 8000 * frame, frame, bits)
    if kind == 0xFFFE:
        form += struct.pack(f"{order}HHIIHH", 22, bits, 0, 1, 0, 16) + bytes(8)
    chunks = b"fmt " + struct.pack(f"{order}I", len(form)) + form
    chunks += b"data" + struct.pack(f"{order}I", len(body)) + body
    head = (b"RIFX" if big else b"RIFF") + struct.pack(f"{order}I", 4 + len(chunks))
    found, rate = read(tmp_path, head + b"WAVE" + chunks)
    assert rate == 8000
    np.testing.assert_array_equal(found, SAMPLES)


@pytest.mark.parametrize(
    ("kind", "codes", "values"),
    [  # ITU-T G.711, tables 1 and 2, in the scale of 16 bits.
        (7, [0xFF, 0x7F, 0x80, 0x00, 0xEF, 0x8F], [0, 0, 32124, -32124, 132, 16764]),
        (6, [0xD5, 0x55, 0xAA, 0x2A, 0xC5, 0x80], [8, -8, 32256, -32256, 264, 5504]),
    ],
)
def test_g711_has_the_values_of_the_standard(tmp_path, kind, codes, values):
    found, _ = read(tmp_path, wav_bytes(np.array(codes, np.uint8), kind=kind, bits=8))
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("kind", [6, 7])
def test_g711_is_what_the_standard_library_decodes(tmp_path, kind):
    audioop = pytest.importorskip("audioop")  # Until Python 3.12.
    codes = np.arange(256, dtype=np.uint8)
    found, _ = read(tmp_path, wav_bytes(codes, kind=kind, bits=8))
    decode = audioop.alaw2lin if kind == 6 else audioop.ulaw2lin
    np.testing.assert_array_equal(found, np.frombuffer(decode(codes.tobytes(), 2), "<i2"))


def test_channels_are_averaged_and_floats_beyond_one_are_clipped(tmp_path):
    both = np.stack([np.array([100, -32768], np.int16), np.array([201, -32768], np.int16)], 1)
    found, _ = read(tmp_path, wav_bytes(both))
    np.testing.assert_array_equal(found, [150, -32768])
    found, _ = read(tmp_path, wav_bytes(np.array([2.0, -3.0], "<f4"), kind=3, bits=32))
    np.testing.assert_array_equal(found, [32767, -32768])


def test_other_chunks_are_skipped_and_a_size_beyond_the_file_is_what_is_there(tmp_path):
    before = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # Chunks start at even places.
    found, _ = read(tmp_path, wav_bytes(SAMPLES, before=before))
    np.testing.assert_array_equal(found, SAMPLES)
    content = bytearray(wav_bytes(SAMPLES))
    place = content.index(b"data") + 4
    content[place : place + 4] = b"\xff\xff\xff\xff"
    found, _ = read(tmp_path, bytes(content))
    np.testing.assert_array_equal(found, SAMPLES)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no WAV file"),
        (b"ID3" + bytes(60), "no WAV file"),
        (wav_bytes(SAMPLES)[:30], "format is cut off"),
        (wav_bytes(SAMPLES)[:36], "without a format and samples"),
        (wav_bytes(SAMPLES[:0]), "no samples"),
        (wav_bytes(SAMPLES, 0), "rate of 0 Hz"),
        (wav_bytes(SAMPLES, kind=2, bits=16), "format 2 with 16 bits"),
        (wav_bytes(SAMPLES, kind=3, bits=16), "format 3 with 16 bits"),
        (wav_bytes(np.zeros((2, 200), np.int16)), "200 channels"),
        (wav_bytes(np.array([np.nan], "<f4"), kind=3, bits=32), "NaN"),
    ],
)
def test_other_content_is_one_error(tmp_path, content, said):
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path, content)
    assert "a.wav" in caught.value.what


def test_every_cut_and_every_changed_byte_gives_samples_or_one_error(tmp_path):
    whole = wav_bytes(np.stack([SAMPLES, SAMPLES], 1), extensible=True)
    rng = np.random.default_rng(0)
    changed = [whole[:n] for n in range(len(whole))]
    for place in range(70):
        other = bytearray(whole)
        other[place] = int(rng.integers(256))
        changed.append(bytes(other))
    read_well = 0
    for content in changed:
        with contextlib.suppress(DataError):
            read_well += len(read(tmp_path, content)[0]) > 0
    assert read_well > 20


def test_a_tone_keeps_its_frequency_when_it_is_resampled():
    made = audio_files.to_rate(Path("a.wav"), tone(1000, 0.5, 44100), 44100, 16000)
    assert len(made) == 8000
    spectrum = np.abs(np.fft.rfft(made.astype(float)))
    assert abs(int(spectrum.argmax()) * 2 - 1000) <= 2
    assert audio_files.to_rate(Path("a.wav"), SAMPLES, 8000, 8000) is SAMPLES


def test_windows_cover_every_sample_and_end_with_zeros():
    samples = np.arange(1, 11, dtype=np.int16)
    np.testing.assert_array_equal(audio_files.cut_windows(samples, 12, 5), [[*range(1, 11), 0, 0]])
    np.testing.assert_array_equal(audio_files.cut_windows(samples, 10, 5), [range(1, 11)])
    np.testing.assert_array_equal(
        audio_files.cut_windows(samples, 4, 3), [[1, 2, 3, 4], [4, 5, 6, 7], [7, 8, 9, 10]]
    )
    np.testing.assert_array_equal(
        audio_files.cut_windows(samples, 6, 3),
        [[*range(1, 7)], [*range(4, 10)], [7, 8, 9, 10, 0, 0]],
    )


def test_a_compressed_file_needs_soundfile_or_is_read_by_it(tmp_path):
    if importlib.util.find_spec("soundfile") is None:
        with pytest.raises(MachineError, match="soundfile") as caught:
            read(tmp_path, b"fLaC", "a.flac")
        assert "lepton-automl[audio]" in caught.value.fix
        return
    soundfile = importlib.import_module("soundfile")
    soundfile.write(tmp_path / "a.flac", np.stack([SAMPLES, SAMPLES], 1), 8000)
    found, rate = audio_files.read_audio(tmp_path / "a.flac")
    assert rate == 8000
    np.testing.assert_array_equal(found, SAMPLES)
    with pytest.raises(DataError, match="no sound: ") as caught:
        read(tmp_path, b"fLaC nothing", "b.flac")
    assert "BytesIO" not in caught.value.what


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(DataError, match="named pipe"):
        audio_files.read_audio(tmp_path / "a.wav")
    write(tmp_path / "b.wav", SAMPLES)
    assert len(audio_files.read_audio(tmp_path / "b.wav")[0]) == len(SAMPLES)


def read_with_peak(path):
    """Samples and rate of a recording, and the most memory that reading it takes, in bytes."""
    tracemalloc.start()
    try:
        return *audio_files.read_audio(path), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("stored", [np.uint8, np.int32])
def test_sound_is_converted_in_blocks_of_bounded_memory(tmp_path, stored):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 255, (1 << 21) + 7).astype(stored)
    if stored is np.int32:
        values <<= 16
    bits = 8 * values.itemsize
    (tmp_path / "a.wav").write_bytes(wav_bytes(values, kind=1, bits=bits))
    found, _, peak = read_with_peak(tmp_path / "a.wav")
    wanted = (values.astype(int) - 128) * 256 if bits == 8 else values.astype(int) >> 16
    np.testing.assert_array_equal(found, wanted)
    assert peak < values.nbytes * 2 + found.nbytes + (32 << 20)


def test_compressed_sound_of_many_samples_takes_the_memory_of_its_samples(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    values = np.zeros((4 << 20) + 7, np.int16)
    values[::999] = -(1 << 15)
    soundfile.write(tmp_path / "a.flac", values, 16000)
    found, rate, peak = read_with_peak(tmp_path / "a.flac")
    assert rate == 16000
    np.testing.assert_array_equal(found, values)
    assert peak < 3 * values.nbytes + (32 << 20)
