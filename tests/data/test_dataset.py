from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lepton_automl.data.opening import open_dataset
from lepton_automl.data.pictures import decode
from lepton_automl.data.tensors import load_labelled
from lepton_automl.errors import ConfigError, DataError
from tests.helpers.pictures import random_pictures, tree, write_folder, write_npz


@pytest.fixture(scope="module")
def digits():
    return open_dataset("digits", seed=0)


def test_the_test_part_of_digits_is_scikit_learns_own(digits):
    images, labels = load_digits().images, load_digits().target
    _, test_images, _, test_labels = train_test_split(
        images, labels, test_size=0.2, random_state=42
    )
    expected = {(i.tobytes(), y) for i, y in zip(test_images * 255 / 16, test_labels, strict=True)}
    pixels = digits.pixels("test", (8, 8))[..., 0]
    levels = np.rint(pixels / 255 * 16) * 255 / 16
    labels = digits.test.labels
    assert {(i.tobytes(), y) for i, y in zip(levels, labels, strict=True)} == expected
    assert len(digits.test) == 360
    assert len(digits.train) + len(digits.validation) == 1437


def test_parts_share_no_sample(digits):
    ids = [name for part in digits.parts for name in part.ids]
    assert len(set(ids)) == len(ids) == 1797


def test_opening_again_gives_the_same_and_another_seed_another_split(digits):
    again, other = open_dataset("digits", seed=0), open_dataset("digits", seed=1)
    assert again.fingerprint == digits.fingerprint
    assert again.train.ids == digits.train.ids
    assert other.fingerprint != digits.fingerprint
    assert other.part_fingerprint("test") == digits.part_fingerprint("test")


def test_a_folder_and_an_array_of_the_same_pictures_are_the_same_numbers(tmp_path):
    folder = write_folder(tmp_path / "f", {"a": 8, "b": 8}, (9, 7, 3))
    arrays = np.concatenate([random_pictures(8, (9, 7, 3), seed) for seed in (0, 1)])
    path = write_npz(tmp_path / "a.npz", x=arrays, y=np.repeat(["a", "b"], 8))
    one, two = open_dataset(folder, seed=3), open_dataset(path, seed=3)
    assert one.class_names == two.class_names == ("a", "b")
    assert one.size == two.size == (9, 7)
    for size in ((9, 7), (4, 6)):
        for part in ("train", "validation", "test"):
            np.testing.assert_array_equal(one.pixels(part, size), two.pixels(part, size))
    assert [p.labels.tolist() for p in one.parts] == [p.labels.tolist() for p in two.parts]


def test_arrays_of_the_right_size_are_not_touched_one_by_one(digits, monkeypatch):
    monkeypatch.setattr(decode, "decode", None)
    assert digits.pixels("train", (8, 8)).shape == (1221, 8, 8, 1)


def test_pictures_of_varying_sizes_have_no_size_but_decode_to_any(tmp_path):
    write_folder(tmp_path, {"a": 5}, (9, 7, 3))
    write_folder(tmp_path, {"b": 5}, (5, 12, 3))
    dataset = open_dataset(tmp_path)
    assert dataset.size is None
    assert dataset.pixels("train", (6, 6)).shape[1:] == (6, 6, 3)


def test_grey_files_give_one_channel_and_one_coloured_training_file_three(tmp_path):
    write_folder(tmp_path, {"train/a": 5, "train/b": 5}, (6, 6, 1))
    assert open_dataset(tmp_path).channels == 1
    write_folder(tmp_path, {"test/a": 2, "test/b": 2}, (6, 6, 3))
    dataset = open_dataset(tmp_path)
    assert dataset.channels == 1, "the test part decides nothing"
    assert dataset.pixels("test", (6, 6)).shape == (4, 6, 6, 1)
    write_folder(tmp_path, {"train/a": 1}, (6, 6, 3))
    assert open_dataset(tmp_path).channels == 3


def test_stated_channels_overrule_those_of_the_pictures(tmp_path):
    x, y = random_pictures(20, (6, 6, 3)), np.arange(20) % 2
    colour = open_dataset(write_npz(tmp_path / "c.npz", x=x, y=y), channels="1")
    assert colour.channels == 1
    grey = open_dataset(write_npz(tmp_path / "g.npz", x=x[..., :1], y=y), channels="3")
    for part in ("train", "validation", "test"):
        rgb = np.stack(colour.part(part).pictures).astype(int)
        luma = (rgb * [299, 587, 114]).sum(3) / 1000
        assert np.abs(colour.pixels(part, (6, 6))[..., 0] - luma).max() <= 1
        three = grey.pixels(part, (6, 6))
        assert three.shape[3] == 3
        assert (three == np.stack(grey.part(part).pictures)).all()
    assert colour.fingerprint == open_dataset(tmp_path / "c.npz").fingerprint


def test_preprocessing_is_mean_and_deviation_of_the_training_pixels(digits):
    pixels = digits.pixels("train", (8, 8)).astype(float)
    preprocessing = digits.preprocessing((8, 8))
    assert preprocessing.zero_point == round(pixels.mean())
    assert preprocessing.scale == pytest.approx(1 / pixels.std(), rel=1e-6)
    assert preprocessing.scale == float(np.float32(preprocessing.scale))


def test_pictures_of_one_grey_have_a_finite_scale(tmp_path):
    x = np.full((20, 4, 4), 7, np.uint8)
    x[:, 0, 0] += np.arange(20, dtype=np.uint8) % 6
    dataset = open_dataset(write_npz(tmp_path / "a.npz", x=x, y=np.arange(20) % 2))
    assert dataset.preprocessing((4, 4)).scale == 1


def test_files_are_written_once_and_mapped(digits, tmp_path):
    files = digits.decoded_files("validation", (8, 8), tmp_path)
    before = tree(tmp_path)
    assert digits.decoded_files("validation", (8, 8), tmp_path) == files
    assert tree(tmp_path) == before
    data = load_labelled(files)
    assert data.pixels.dtype == torch.uint8
    assert data.labels.dtype == torch.int64
    np.testing.assert_array_equal(data.pixels, digits.pixels("validation", (8, 8)))
    np.testing.assert_array_equal(data.labels, digits.validation.labels)


def test_writing_to_mapped_tensors_leaves_the_files_alone(digits, tmp_path):
    files = digits.decoded_files("validation", (8, 8), tmp_path)
    before = tree(tmp_path)
    load_labelled(files).pixels.zero_()
    assert tree(tmp_path) == before


def test_a_damaged_cache_file_is_written_again(digits, tmp_path):
    files = digits.decoded_files("validation", (8, 8), tmp_path)
    whole = files.pixels.read_bytes()
    other = digits.decoded_files("test", (8, 8), tmp_path).pixels.read_bytes()
    for damage in (b"", whole[:60], whole[: len(whole) // 2], other):
        files.pixels.write_bytes(damage)
        digits.decoded_files("validation", (8, 8), tmp_path)
        assert files.pixels.read_bytes() == whole


def test_pixels_that_were_zeroed_are_never_read(digits, tmp_path):
    files = digits.decoded_files("test", (8, 8), tmp_path)
    blank = np.load(files.pixels)
    blank[:] = 0
    np.save(files.pixels, blank)
    with pytest.raises(DataError, match="has changed"):
        load_labelled(files)
    again = load_labelled(digits.decoded_files("test", (8, 8), tmp_path))
    np.testing.assert_array_equal(again.pixels, digits.pixels("test", (8, 8)))


def test_parts_sizes_and_splits_do_not_share_cache_files(digits, tmp_path):
    other = open_dataset("digits", seed=1)
    made = [
        digits.decoded_files("validation", (8, 8), tmp_path),
        digits.decoded_files("train", (8, 8), tmp_path),
        digits.decoded_files("validation", (4, 4), tmp_path),
        other.decoded_files("validation", (8, 8), tmp_path),
    ]
    assert len({files.pixels for files in made}) == 4


@pytest.mark.parametrize("change", ["pixel", "label", "group", "name", "order"])
def test_the_fingerprint_sees_every_change(tmp_path, change):
    arrays = {
        "x": random_pictures(40, (4, 4, 1)),
        "y": np.arange(40) % 2,
        "group": np.arange(40) // 4,
        "class_names": np.array(["a", "b"]),
    }
    before = open_dataset(write_npz(tmp_path / "a.npz", **arrays)).fingerprint
    order = np.arange(40)
    if change == "pixel":
        arrays["x"][3, 0, 0] ^= 1
    elif change == "label":
        arrays["y"][3] ^= 1
    elif change == "group":
        arrays["group"][3] = 7
    elif change == "name":
        arrays["class_names"] = np.array(["a", "c"])
    else:
        order[[0, 2]] = 2, 0
        arrays = {k: v[order] if len(v) == 40 else v for k, v in arrays.items()}
    assert open_dataset(write_npz(tmp_path / "b.npz", **arrays)).fingerprint != before


def test_the_fingerprint_of_a_part_does_not_depend_on_order_or_place(tmp_path):
    x, y = random_pictures(30, (4, 4, 1)), np.arange(30) % 2
    order = np.random.default_rng(0).permutation(30)
    found = set()
    for name, places in (("a", np.arange(30)), ("b", order)):
        (tmp_path / name).mkdir()
        path = write_npz(
            tmp_path / name / "d.npz", x_train=x, y_train=y, x_test=x[places], y_test=y[places]
        )
        found.add(open_dataset(path).part_fingerprint("test"))
    assert len(found) == 1


def test_groups_are_kept_together_and_given_to_the_parts(tmp_path):
    groups = np.repeat([f"person {n}" for n in range(20)], 3)
    x = random_pictures(60, (4, 4, 1))
    dataset = open_dataset(write_npz(tmp_path / "a.npz", x=x, y=np.arange(60) % 2, group=groups))
    parts = [set(part.groups.tolist()) for part in dataset.parts]
    assert sum(map(len, parts)) == 20


def test_a_picture_that_goes_bad_after_opening_is_named(tmp_path):
    dataset = open_dataset(write_folder(tmp_path, {"a": 9, "b": 9}))
    (tmp_path / dataset.train.ids[0]).unlink()
    with pytest.raises(DataError, match=dataset.train.ids[0]):
        dataset.pixels("train", (9, 7))


def test_a_picture_of_every_mode_is_taken(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
            depth = np.uint16 if mode == "I;16" else np.uint8
            pixels = rng.integers(0, 256, (6, 5), dtype=depth)
            image = Image.fromarray(pixels)
            image = image if mode == "I;16" else image.convert(mode)
            image.save(tmp_path / name / f"{mode.replace(';', '')}.png")
        Image.new("CMYK", (5, 6), (9, 8, 7, 6)).save(tmp_path / name / "c.jpg")
        Image.new("P", (5, 6), 3).save(tmp_path / name / f"{name}.gif")
    dataset = open_dataset(tmp_path)
    assert sum(len(part) for part in dataset.parts) == 18
    assert dataset.pixels("train", (6, 5)).shape[1:] == (6, 5, 3)


@pytest.fixture
def uneven(tmp_path):
    labels = np.repeat([0, 1], [60, 10])
    return open_dataset(write_npz(tmp_path / "u.npz", x=random_pictures(70, (4, 4, 1)), y=labels))


def test_accuracy_is_balanced_if_a_class_is_rare_or_balance_is_on(uneven, digits, tmp_path):
    assert not uneven.train.is_balanced
    assert uneven.test.strata is None
    for asked, data, expected in [
        ("auto", uneven, True),
        ("on", uneven, True),
        ("off", uneven, False),
        ("auto", digits, False),
        ("on", digits, True),
    ]:
        counted = data.with_balance(asked)
        assert [part.is_balanced for part in counted.parts] == [expected] * 3
        assert counted.fingerprint == data.fingerprint
    counted = uneven.with_balance("auto")
    assert counted.test.strata is counted.test.labels
    data = load_labelled(counted.decoded_files("train", (4, 4), tmp_path))
    assert data.strata.tolist() == counted.train.labels.tolist()
    assert data.first(3).strata.tolist() == counted.train.labels[:3].tolist()
    assert load_labelled(uneven.decoded_files("train", (4, 4), tmp_path)).strata is None


def test_balance_on_is_refused_where_classes_are_equal(tmp_path):
    arrays = {"x": random_pictures(40, (4, 4, 1)), "y": np.arange(40) % 2}
    even = open_dataset(write_npz(tmp_path / "e.npz", **arrays))
    with pytest.raises(ConfigError, match="--balance on has no effect") as caught:
        even.with_balance("on")
    assert caught.value.fix == "leave it out"
    assert even.with_balance("auto") is even.with_balance("off") is even


def write_rgba(folder):
    rng = np.random.default_rng(0)
    for n in range(12):
        pixels = rng.integers(0, 256, (9, 8, 4), np.uint8)
        pixels[..., 3] = 0
        pixels[: 2 + n % 5, :, 3] = 255
        path = folder / "ab"[n % 2] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels, "RGBA").save(path)
    return folder


def test_opacity_is_data_where_the_user_says_so(tmp_path):
    one = open_dataset(write_rgba(tmp_path / "one"), channels="4", group="none")
    assert one.channels == 4
    assert not any(decision.name == "transparency" for decision in one.decisions)
    stored = one.pixels("train", (9, 8))
    assert set(np.unique(stored[..., 3]).tolist()) == {0, 255}
    # Colours under full transparency are data too.
    assert one.fingerprint != open_dataset(tmp_path / "one", group="none").fingerprint
    with pytest.raises(ConfigError, match="no picture has transparency"):
        open_dataset(write_folder(tmp_path / "rgb", {"a": 4, "b": 4}), channels="4")


def test_channels_of_other_levels_have_a_range_of_their_own(tmp_path):
    """The samples of each channel use the whole range; the file is given the stored values."""
    rng = np.random.default_rng(0)
    x = rng.normal([128, 12, 200, 60, 100], [40, 2, 5, 20, 30], (60, 9, 12, 5))
    x = np.rint(x).clip(0, 255).astype(np.uint8)
    data = open_dataset(
        write_npz(tmp_path / "x.npz", x=x, y=np.arange(60) % 2), channel_axis="last", group="none"
    )
    files = data.decoded_files("train", (9, 12), tmp_path / "cache")
    samples = np.load(files.pixels)
    assert samples.std((0, 1, 2)).min() > 25, "each channel is spread over 8 bits"
    raw = np.load(data.file_input_files("train", (9, 12), tmp_path / "cache").pixels)
    np.testing.assert_array_equal(raw, data.pixels("train", (9, 12)))
    np.testing.assert_array_equal(
        data.preprocessing((9, 12)).input_quantization.quantize(raw), samples
    )
    with pytest.raises(ConfigError, match="no colours that could be converted"):
        open_dataset(tmp_path / "x.npz", channel_axis="last", channels="3")
