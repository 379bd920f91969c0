"""The log-mel front end in C against float64 arithmetic, ONNX Runtime and numpy, bit for bit."""

from __future__ import annotations

import ctypes
import dataclasses
import shutil
import subprocess

import numpy as np
import pytest

from benchmarks import cortex_m
from lepton_automl.artifact.front_end_reference import reference_features
from lepton_automl.models.arch import chain
from lepton_automl.models.c_export import log_mel
from lepton_automl.models.c_export.log_mel import c_features, tables
from lepton_automl.models.c_export.project import project_files
from lepton_automl.models.c_export.source import net_source
from lepton_automl.models.formats.c import C, CSession, c_logits
from lepton_automl.models.front_end import LogMel
from lepton_automl.models.front_end_onnx import compute_features
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.memory_plan import plan_memory
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.onnx_file import onnx_probabilities
from lepton_automl.models.random_weights import random_net
from tests.helpers.c_compilers import STRICT

FRONT_ENDS = {
    "8 kHz": LogMel(8000, 2000, 2000, 256, 160, 40, 60.0, 4000.0, 1e4, 0.07),
    "means": LogMel(16000, 3000, 3000, 512, 320, 32, 20.0, 7600.0, 3e3, 0.08, is_centred=True),
    "odd": LogMel(11025, 1001, 700, 64, 37, 9, 0.0, 5000.0, 50.0, 0.11),
    "smallest": LogMel(8000, 50, 50, 16, 16, 2, 0.0, 4000.0, 1.0, 0.2, is_centred=True),
    "one frame": LogMel(8000, 128, 128, 128, 1, 30, 0.0, 4000.0, 9.0, 0.1),
}
NAMES = tuple("abcde")
GCC = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
OPTIONS = {
    "portable": ("-O1", "-DNET_PORTABLE"),
    "fused": ("-O3", "-march=native", "-std=gnu99", "-ffp-contract=fast"),
    "sanitized": ("-O1", *STRICT, "-fsanitize=undefined", "-fno-sanitize-recover=all"),
}


def sound(window, count=24):
    """Noise of many loudnesses, silence, and the largest values."""
    rng = np.random.default_rng(0)
    level = 10 ** rng.uniform(0, 4, (count, 1))
    made = np.clip(rng.normal(0, 1, (count, window)) * level, -32768, 32767).astype(np.int16)
    made[1], made[2], made[3, ::2] = 0, 32767, -32768
    return made


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


def net_for(front_end):
    arch = chain(front_end.feature_shape, [Stem(8, stride=2), Head()], 5)
    return random_net(dataclasses.replace(arch, front_end=front_end), 64)


def written(folder, net, samples=None):
    source = net_source(net, NAMES)
    files = {"net.h": source.header, "net.c": source.source}
    if samples is not None:
        files |= project_files(samples, c_logits(net, samples))
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_features_are_those_of_float64_arithmetic_within_a_step(name):
    front_end = FRONT_ENDS[name]
    audio = sound(front_end.window)
    found = c_features(front_end, audio)
    assert found.shape == (len(audio), *front_end.feature_shape)
    usual = [0, 1, *range(4, len(audio))]  # Not those of which float32 rounds off what is quiet.
    exact = reference_features(front_end, audio)[usual].astype(int)
    assert np.abs(found[usual, ..., 0] - exact).max() <= 1
    assert (found[usual, ..., 0] != exact).mean() < 1e-3
    apart = found[usual].astype(int) - compute_features(front_end, audio)[usual]
    assert np.abs(apart).max() <= 1
    assert (apart != 0).mean() < 1e-3
    assert (found[1] == front_end.zero_point).all()


def test_logarithms_are_exact_to_the_seventh_digit_behind_the_point():
    x = np.float32([1, 1.0000001, 1.5, 1.9999999, 2, 3, 1e4, 3e38])
    x = np.concatenate([x, np.exp(np.random.default_rng(0).uniform(0, 88, 20_000))])
    x = x.astype(np.float32)
    assert np.abs(log_mel._ln(x) / 2**24 - np.log(x.astype(np.float64))).max() < 7e-8


def test_spans_hold_all_that_is_under_a_triangle():
    for front_end in FRONT_ENDS.values():
        made = tables(front_end)
        n = np.arange(front_end.bins)
        for (low, high), start, end in zip(
            made.spans, front_end.corners, front_end.corners[2:], strict=False
        ):
            inside = n[(n > start + 1e-3) & (n < end - 1e-3)]
            assert set(inside) <= set(range(low, high))
            assert high - low <= len(inside) + 2


@GCC
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", FRONT_ENDS)
def test_logits_are_bit_for_bit_those_of_exact_arithmetic(name, options, tmp_path):
    net, audio = net_for(FRONT_ENDS[name]), sound(FRONT_ENDS[name].window)
    session = CSession(written(tmp_path, net), options, "gcc")
    before = audio.copy()
    assert session.logits(audio).tobytes() == c_logits(net, audio).tobytes()
    assert np.array_equal(audio, before)
    graph = net.arch.graph
    assert session.arena_bytes == plan_memory(graph, net.arch.front_end.scratch_bytes).size
    expected = onnx_probabilities(int8_onnx(net, NAMES, {}), audio)
    usual = [0, 1, *range(4, len(audio))]
    assert C().beyond_promise(session.predict(audio)[usual], expected[usual], net) == ()


@GCC
@pytest.mark.parametrize("name", FRONT_ENDS)
def test_frames_in_a_ring_give_the_answers_of_their_window(name, tmp_path):
    front_end = FRONT_ENDS[name]
    net, window = net_for(front_end), sound(front_end.window, 6)
    session = CSession(written(tmp_path, net), OPTIONS["sanitized"], "gcc")
    expected, probabilities = session.logits(window), session.predict(window)
    library, frames = session._library, front_end.frames
    arena = np.zeros(session.arena_bytes, np.uint8)
    kind = np.int32 if front_end.is_centred else np.uint8
    ring = np.full((frames, front_end.mels), 77, kind)
    for n, samples in enumerate(window):
        oldest = n * 3 % frames  # Where the window begins in the ring.
        for k in range(frames):
            start = k * front_end.hop
            frame = np.ascontiguousarray(samples[start : start + front_end.frame])
            row = ring[(oldest + k) % frames]
            library.net_frame(pointer(frame), pointer(arena), pointer(row))
        before, found = ring.copy(), np.zeros((2, 5), np.float32)
        for call, answer in zip(("logits", "probabilities"), found, strict=True):
            getattr(library, f"net_frames_{call}")(
                pointer(ring), oldest, pointer(arena), pointer(answer)
            )
        assert found[0].tobytes() == expected[n].tobytes()
        assert found[1].tobytes() == probabilities[n].tobytes()
        assert np.array_equal(ring, before)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_sanitizers_find_nothing_and_the_test_says_pass(compiler, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    sanitized = {
        "gcc": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        "clang": ("-fsanitize=undefined", "-fsanitize-trap=undefined"),
    }
    front_end = FRONT_ENDS["means"]
    net, audio = net_for(front_end), sound(front_end.window, 8)
    written(tmp_path, net, audio)
    command = [compiler, *STRICT, *sanitized[compiler], "-O0", "net.c", "test.c", "-o", "program"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]
    done = subprocess.run([tmp_path / "program"], capture_output=True, text=True)
    assert (done.returncode, done.stdout[:4], done.stderr) == (0, "PASS", "")


@pytest.mark.skipif(bool(cortex_m.missing()), reason=cortex_m.missing() or "-")
@pytest.mark.parametrize(("core", "name"), [("m4", "means"), ("m3", "odd")])
def test_cortex_cores_give_the_same_bytes_with_and_without_a_floating_point_unit(
    core, name, tmp_path
):
    net, audio = net_for(FRONT_ENDS[name]), sound(FRONT_ENDS[name].window, 8)
    found = cortex_m.emulate(written(tmp_path, net), core, audio, ["-Os"])
    assert found.logits.tobytes() == c_logits(net, audio).tobytes()


def test_what_is_promised_of_sound_is_counted():
    net = net_for(FRONT_ENDS["8 kHz"])  # 440 features: 4.4 % of samples may differ.
    expected = np.tile(np.float32([0.7, 0.1, 0.1, 0.05, 0.05]), (100, 1))
    found = expected.copy()
    found[:5] += np.float32([0.01, -0.01, 0, 0, 0])
    assert C().beyond_promise(found, expected, net) == ()
    found[5] = found[4]
    (problem,) = C().beyond_promise(found, expected, net)
    assert "6 of 100 samples differ from the ONNX file, the rule is at most 5" in problem
    found[:6] = expected[:6]
    found[0] += np.float32([-0.1, 0.1, 0, 0, 0])
    (problem,) = C().beyond_promise(found, expected, net)
    assert "by 0.1, the rule is at most 0.05" in problem
    assert C().differences(net)
