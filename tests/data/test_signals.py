from __future__ import annotations

import numpy as np
import pytest

from lepton_automl.data.opening import open_dataset
from lepton_automl.data.signals import constant_channels, layout_of, quantization_of, to_signals
from lepton_automl.errors import ConfigError, DataError
from tests.helpers.pictures import write_npz


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((9, 6, 128), "channels first"),
        ((9, 128, 6), "channels last"),
        ((9, 16, 32), "channels first"),
        ((9, 16, 31), None),
        ((9, 8, 8), None),
        ((9, 28, 28), None),
        ((9, 17, 64), None),
        ((9, 64), None),
        ((9, 6, 128, 1), None),
    ],
)
def test_the_channels_are_the_short_axis_where_there_is_one(shape, layout):
    assert layout_of(shape) == layout


def test_both_layouts_give_the_same_signals():
    values = np.random.default_rng(0).normal(size=(3, 40, 2))
    turned = np.moveaxis(values, 2, 1)
    assert np.array_equal(
        to_signals("x", values, "channels last"), to_signals("x", turned, "channels first")
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39, -2e18])
def test_a_value_that_is_too_large_or_none_is_named(value):
    values = np.zeros((5, 40, 2))
    values[3, 7, 1] = value
    with np.errstate(over="ignore"), pytest.raises(DataError, match=r"x\[3\]"):
        to_signals("x", values, "channels last")


def test_samples_hold_what_most_values_are_to_half_a_step():
    """Of channels whose means and ranges differ by orders of magnitude."""
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(200, 64, 3)) * [1e-3, 1, 50] + [0, 9.81, -300]).astype(np.float32)
    quantization, _ = quantization_of(values)
    read = quantization.dequantize(quantization.quantize(values))
    is_inside = np.abs(read - values) <= 0.5001 * np.float32(quantization.scales)
    assert (is_inside.mean((0, 1)) >= 0.9985).all()
    # The 255 steps are used: the largest of 12,800 normal values lies at about four deviations.
    steps = np.array(quantization.scales) / [1e-3, 1, 50]
    assert ((steps > 3 / 127) & (steps < 4 / 127)).all()


def test_quantizing_what_was_dequantized_changes_nothing():
    values = np.random.default_rng(1).normal(3, 2, (50, 32, 4)).astype(np.float32)
    quantization, _ = quantization_of(values)
    steps = np.arange(256, dtype=np.uint8)[:, None].repeat(4, 1)
    assert np.array_equal(quantization.quantize(quantization.dequantize(steps)), steps)


def test_a_constant_channel_is_found_and_divides_by_nothing():
    values = np.random.default_rng(0).normal(size=(20, 40, 3)).astype(np.float32)
    values[:, :, 1] = 7
    assert constant_channels(values) == [1]
    quantization, _ = quantization_of(values)
    assert (quantization.quantize(values)[:, :, 1] == 128).all()


def written(folder, x, name="x", **more):
    path = folder / "windows.npz"
    np.savez(path, **{name: x, "y": np.arange(len(x)) % 2}, **more)
    return str(path)


def windows(n=40):
    return np.random.default_rng(0).normal(0, 3, (n, 48, 3)).astype(np.float32)


def test_the_range_of_samples_is_that_of_the_training_part_only(tmp_path):
    """Oracle: other values in test must not change the samples of training."""
    x, y = windows(60), np.arange(60) % 2
    for name, factor in (("plain", 1), ("loud", 1000)):
        test = x[40:] * factor
        np.savez(
            tmp_path / f"{name}.npz", x_train=x[:40], y_train=y[:40], x_test=test, y_test=y[40:]
        )
    plain, loud = (open_dataset(tmp_path / f"{name}.npz") for name in ("plain", "loud"))
    assert plain.input_quantization == loud.input_quantization is not None
    assert np.array_equal(plain.pixels("train", (1, 48)), loud.pixels("train", (1, 48)))
    assert np.array_equal(loud.test.signals, x[40:] * np.float32(1000))


def test_validation_does_not_change_the_range_either(tmp_path):
    x, y = windows(60), np.arange(60) % 2
    found = []
    for factor in (1, 1000):
        more = {"x_val": x[20:40] * factor, "y_val": y[20:40], "x_test": x[40:], "y_test": y[40:]}
        np.savez(tmp_path / "a.npz", x_train=x[:20], y_train=y[:20], **more)
        found.append(open_dataset(tmp_path / "a.npz").input_quantization)
    assert found[0] == found[1]


def test_floats_of_a_long_and_a_short_axis_are_signals_and_say_so(tmp_path):
    dataset = open_dataset(written(tmp_path, np.moveaxis(windows(), 2, 1)))
    assert dataset.is_signal
    assert (dataset.size, dataset.channels) == ((1, 48), 3)
    made = next(each for each in dataset.decisions if each.name == "kind of data")
    assert "3 channels (channels first)" in made.choice
    assert "--pixel-scale" in made.option


def test_a_stated_pixel_scale_says_that_they_are_pictures(tmp_path):
    data = written(tmp_path, windows().clip(-3, 3))
    dataset = open_dataset(data, pixel_scale="-3:3")
    assert not dataset.is_signal
    assert dataset.size == (48, 3)


def test_an_array_with_the_name_of_signals_is_no_picture_whatever_its_type(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    assert not open_dataset(written(tmp_path, x)).is_signal
    named = open_dataset(written(tmp_path, x, name="signals"))
    assert named.is_signal
    assert np.array_equal(
        np.sort(np.concatenate([part.signals for part in (named.train, named.validation)]), 0)[0],
        np.sort(
            np.concatenate([named.train.signals, named.validation.signals]).astype(np.uint8), 0
        )[0],
    )
    assert not [each for each in named.decisions if each.name == "kind of data"]


def test_named_signals_whose_channels_cannot_be_told_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"signals \(40, 12, 12\)"):
        open_dataset(written(tmp_path, np.zeros((40, 12, 12), np.float32), name="signals"))


@pytest.mark.parametrize("options", [{"channels": "1"}, {"pixel_scale": "0:1"}])
def test_options_of_pictures_have_no_effect_on_signals(tmp_path, options):
    with pytest.raises(ConfigError, match="signals, not pictures"):
        open_dataset(written(tmp_path, windows(), name="signals"), **options)


def test_a_test_part_of_another_length_is_refused(tmp_path):
    data = written(tmp_path, windows(), name="signals")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(DataError, match="holds other samples than"):
        open_dataset(
            data, test=other / "windows.npz" if written(other, windows()[:, :40]) else None
        )


def test_windows_without_groups_are_said_to_be_taken_as_independent(tmp_path):
    groups = np.arange(40) // 4
    for group, names in ((None, ["groups"]), (groups, [])):
        more = {} if group is None else {"group": group}
        dataset = open_dataset(written(tmp_path, windows(), **more))
        assert [each.name for each in dataset.decisions if each.name == "groups"] == names
    assert not set(dataset.train.groups) & set(dataset.test.groups)


@pytest.mark.parametrize(("axis", "size"), [("first", 12), ("last", 10)])
def test_a_stated_axis_answers_which_one_is_that_of_the_channels(tmp_path, axis, size):
    data = written(tmp_path, np.random.default_rng(0).normal(size=(40, 10, 12)))
    dataset = open_dataset(data, channel_axis=axis)
    assert dataset.is_signal
    assert (dataset.size, dataset.channels) == ((1, size), 22 - size)


def test_a_stated_axis_with_too_many_channels_is_refused(tmp_path):
    data = written(tmp_path, np.random.default_rng(0).normal(size=(40, 28, 28)))
    with pytest.raises(ConfigError, match="more than 16 channels"):
        open_dataset(data, channel_axis="first")


def test_a_constant_channel_is_told(tmp_path):
    x = windows()
    x[:, :, 1] = 7
    told = []
    open_dataset(written(tmp_path, x), emit=lambda event: told.append(event.message))
    assert any("channel 1 (of 0 to 2) has the same value" in text for text in told)


@pytest.mark.parametrize("size", [1e-44, 1e-30, 1.0, 1e18])
def test_values_of_any_size_have_a_range(size):
    values = (np.random.default_rng(0).choice([-1, 0, 1], (30, 40, 1)) * size).astype(np.float32)
    quantization, _ = quantization_of(values)
    steps = quantization.quantize(values).astype(int) - 128
    assert np.abs(steps[values == 0]).max() < 20
    if size > 1e-40:  # Below, float32 holds no step that small, and all is near 128.
        assert np.abs(steps[values != 0] - 127 * np.sign(values[values != 0])).max() < 20


def test_the_type_of_the_file_is_that_of_the_data(tmp_path):
    x = np.random.default_rng(0).integers(-900, 900, (40, 30, 2)).astype(np.int16)
    whole = write_npz(tmp_path / "int.npz", x=x, y=np.arange(40) % 2)
    real = write_npz(tmp_path / "real.npz", x=x.astype(np.float32), y=np.arange(40) % 2)
    broken = write_npz(tmp_path / "broken.npz", x=x + np.float32(0.25), y=np.arange(40) % 2)
    stored, floats = open_dataset(whole), open_dataset(real)
    assert (stored.input_type, floats.input_type) == ("int16", "float32")
    files = stored.file_input_files("test", (1, 30), tmp_path / "cache")
    assert np.load(files.pixels).dtype == np.int16
    assert any(decision.name == "input type" for decision in stored.decisions)
    # The samples and the data are the same; only what the file reads differs.
    assert stored.fingerprint == floats.fingerprint
    np.testing.assert_array_equal(stored.train.pictures, floats.train.pictures)
    assert open_dataset(whole, input_type="float32").input_type == "float32"
    assert open_dataset(real, input_type="int16").input_type == "int16"
    with pytest.raises(ConfigError, match="not whole numbers from -32768"):
        open_dataset(broken, input_type="int16")
    with pytest.raises(ConfigError, match="the data are signals"):
        open_dataset(whole, input_type="uint8")


def test_a_value_beyond_float32_is_refused_without_a_warning(recwarn):
    with pytest.raises(DataError, match="beyond 1e"):
        to_signals("x", np.full((1, 8, 2), 1e300), "channels last")
    assert not recwarn.list
