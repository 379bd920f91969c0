from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest

from lepton_automl.artifact.front_end_reference import reference_features
from lepton_automl.models.arch import Arch, chain
from lepton_automl.models.front_end import LogMel, default_frame
from lepton_automl.models.front_end_onnx import (
    compute_features,
    compute_power,
    front_end_of,
)
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.onnx_file import onnx_probabilities, open_session
from lepton_automl.models.random_weights import random_int8_onnx

FRONT_ENDS = {
    "8 kHz": LogMel(8000, 4000, 2000, 256, 160, 40, 60.0, 4000.0, 1e4, 0.07),
    "16 kHz": LogMel(16000, 8000, 8000, 512, 320, 32, 20.0, 7600.0, 3e3, 0.08, is_centred=True),
    "odd": LogMel(11025, 3001, 700, 256, 97, 20, 0.0, 5000.0, 50.0, 0.11),
}


def sound(window, count=9):
    """Noise of many loudnesses, silence, and the largest values."""
    rng = np.random.default_rng(0)
    level = 10 ** rng.uniform(0, 4, (count, 1))
    made = np.clip(rng.normal(0, 1, (count, window)) * level, -32768, 32767).astype(np.int16)
    made[1], made[2], made[3, ::2] = 0, 32767, -32768
    return made


def oracle(front_end, audio):
    """Powers of the filters by a Fourier sum and by the definition of a triangle, in float64."""
    n = np.arange(front_end.frame)
    window = np.sin(np.pi * n / front_end.frame) ** 2
    bins = np.arange(front_end.frame // 2 + 1)
    turns = np.exp(-2j * np.pi * np.outer(n, bins) / front_end.frame)

    def mel(hertz):
        return 1127.01048 * np.log(1 + hertz / 700)

    ends = np.linspace(mel(front_end.low_hz), mel(front_end.high_hz), front_end.mels + 2)
    corners = 700 * (np.exp(ends / 1127.01048) - 1)
    hertz = bins * front_end.rate / front_end.frame
    filters = np.zeros((len(bins), front_end.mels))
    for k in range(front_end.mels):
        low, top, high = corners[k : k + 3]
        rising, falling = (hertz > low) & (hertz <= top), (hertz > top) & (hertz < high)
        filters[rising, k] = (hertz[rising] - low) / (top - low)
        filters[falling, k] = (high - hertz[falling]) / (high - top)
    starts = range(0, front_end.window - front_end.frame + 1, front_end.hop)
    frames = np.stack([audio[:, s : s + front_end.frame] * window for s in starts], 1)
    return np.abs(frames @ turns) ** 2 @ filters


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_features_are_those_of_float64_arithmetic_within_a_step(name):
    front_end = FRONT_ENDS[name]
    audio = sound(front_end.window)
    found = compute_features(front_end, audio)
    assert found.shape == (len(audio), *front_end.feature_shape)
    exact = np.log1p(oracle(front_end, audio) / front_end.floor)
    if front_end.is_centred:
        exact -= exact.mean(1, keepdims=True)
    silence = 128 if front_end.is_centred else 0
    wanted = np.clip(np.rint(exact / front_end.step) + silence, 0, 255)
    assert np.abs(found[..., 0] - wanted).max() <= 1
    usual = [0, *range(4, len(audio))]  # Not those of which float32 rounds off what is quiet.
    assert (found[usual, ..., 0] != wanted[usual]).mean() < 1e-3
    assert (reference_features(front_end, audio) != wanted)[usual].mean() < 1e-3
    assert (found[1] == silence).all()


def test_features_do_not_depend_on_the_batch():
    front_end = FRONT_ENDS["8 kHz"]
    audio = sound(front_end.window, 130)
    together = compute_features(front_end, audio)
    alone = np.concatenate([compute_features(front_end, audio[n : n + 1]) for n in range(130)])
    np.testing.assert_array_equal(together, alone)


def test_a_gain_hardly_changes_features_without_means_above_the_floor():
    front_end = dataclasses.replace(FRONT_ENDS["8 kHz"], floor=1e-3, is_centred=True)
    rng = np.random.default_rng(0)
    quiet = rng.normal(0, 300, (3, front_end.window)).astype(np.int16)
    apart = compute_features(front_end, quiet).astype(int) - compute_features(front_end, quiet * 16)
    assert np.abs(apart).max() <= 1
    assert np.ptp(compute_features(front_end, quiet)) > 50


def test_powers_are_in_units_of_the_floor():
    front_end = FRONT_ENDS["16 kHz"]
    audio = sound(front_end.window)
    exact = oracle(front_end, audio)
    found = compute_power(front_end, audio) * front_end.floor
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-6 * exact.max())


def test_a_file_with_a_front_end_equals_the_net_on_its_features():
    front_end = FRONT_ENDS["8 kHz"]
    net = chain(front_end.feature_shape, [Stem(8, stride=2), Head()], 5)
    whole = random_int8_onnx(dataclasses.replace(net, front_end=front_end), 64)
    onnx.checker.check_model(onnx.ModelProto.FromString(whole), full_check=True)
    audio = sound(front_end.window)
    features = compute_features(front_end, audio)
    behind = random_int8_onnx(net, 64)
    np.testing.assert_array_equal(
        onnx_probabilities(whole, audio), onnx_probabilities(behind, features)
    )
    assert len(whole) - len(behind) < 1700  # The filters alone are 20 kB as a matrix.
    own = front_end_of(whole)
    (found,) = open_session(own).run(None, {"audio": audio})
    np.testing.assert_array_equal(found.reshape(features.shape), features)
    assert front_end_of(behind) is None


def test_an_architecture_keeps_its_front_end_in_json():
    front_end = FRONT_ENDS["odd"]
    plain = chain(front_end.feature_shape, [Stem(8, stride=2), Head()], 5)
    net = dataclasses.replace(plain, front_end=front_end)
    assert Arch.from_json(net.to_json()) == net
    assert (net.file_input, plain.file_input) == ((3001,), front_end.feature_shape)
    assert net.hash != plain.hash
    assert "front_end" not in plain.to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"frame": 250},
        {"frame": 8192},
        {"hop": 0},
        {"hop": 257},
        {"mels": 0},
        {"high_hz": 4001.0},
        {"low_hz": float("nan")},
        {"floor": 0.0},
        {"step": -1.0},
        {"rate": 10**9},
        {"window": 2**40},
        {"mels": True},
        {"is_centred": 1},
        {"more": 1},
    ],
)
def test_a_front_end_from_outside_is_checked(change):
    fields = FRONT_ENDS["8 kHz"].to_fields()
    assert LogMel.from_fields(fields) == FRONT_ENDS["8 kHz"]
    with pytest.raises((ValueError, TypeError)):
        LogMel.from_fields(fields | change)


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 16000, 22050, 44100, 48000])
def test_frames_are_powers_of_two_near_32_ms(rate):
    frame, hop = default_frame(rate)
    assert frame & (frame - 1) == 0
    assert 0.022 < frame / rate < 0.046
    assert hop <= frame
    assert abs(hop / rate - 0.02) < 1e-3


def test_filters_between_two_bins_are_counted():
    wide = FRONT_ENDS["8 kHz"]
    assert wide.empty_filters == 0
    narrow = dataclasses.replace(wide, mels=120)
    exact = oracle(narrow, sound(narrow.window))
    assert narrow.empty_filters == int((exact[0] == 0).all(0).sum()) > 0
