from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from lepton_automl.data.audit.checks import audit
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.splits import near_duplicates
from lepton_automl.data.splits.near_duplicates import find_near_duplicates, thumbnails
from tests.helpers.pictures import write_npz


def scenes(count, seed=0, side=40, detail=3.0):
    """Smooth random pictures, none like another, uint8 (count, side, side)."""
    noise = np.random.default_rng(seed).normal(size=(count, side, side))
    smooth = np.stack([ndimage.gaussian_filter(each, detail) for each in noise])
    spread = smooth.std((1, 2), keepdims=True)
    return np.clip(127 + 45 * smooth / spread, 0, 255).astype(np.uint8)


def retaken(scene, rng, noise=6, shift=0.06):
    """The scene once more: shifted by up to `shift`, under other light, with noise."""
    side = len(scene)
    left, top = rng.uniform(0, shift * side, 2)
    box = (left, top, left + (1 - shift) * side, top + (1 - shift) * side)
    image = Image.fromarray(scene).resize((side, side), Image.Resampling.BILINEAR, box=box)
    across = np.linspace(-0.5, 0.5, side)
    light = rng.uniform(0.7, 1.2) * (1 + rng.uniform(-0.4, 0.4) * across[:, None])
    pixels = np.asarray(image) * light + rng.uniform(-10, 10) + rng.normal(0, noise, scene.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def retaken_set(bases=60, times=3, seed=0):
    rng = np.random.default_rng(seed)
    x = np.stack([retaken(each, rng) for each in scenes(bases, seed) for _ in range(times)])
    base = np.repeat(np.arange(bases), times)
    return x, base, base % 2


def test_pictures_of_one_scene_are_together_and_no_others():
    x, base, labels = retaken_set()
    groups = find_near_duplicates(thumbnails(x[..., None]), labels).groups
    together = groups[:, None] == groups[None]
    same = base[:, None] == base[None]
    assert together[same].mean() > 0.95
    assert together[~same].mean() < 0.002


def test_a_shifted_view_is_found_by_its_crop():
    rng, scene = np.random.default_rng(0), scenes(80, detail=1.5)
    x = np.concatenate([scene, np.stack([retaken(each, rng, 3, 0.2) for each in scene])])
    base = np.tile(np.arange(80), 2)
    groups = find_near_duplicates(thumbnails(x[..., None]), base % 2).groups
    assert (groups[80:] == groups[:80]).mean() > 0.9


def test_groups_larger_than_the_rest_of_their_neighbourhood_are_found():
    x, base, labels = retaken_set(bases=48, times=12)
    groups = find_near_duplicates(thumbnails(x[..., None]), labels).groups
    together, same = (column[:, None] == column[None] for column in (groups, base))
    assert together[same].mean() > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_unrelated_pictures_stay_alone(seed):
    rng = np.random.default_rng(seed)
    pictures = {
        "scenes": scenes(300, seed),
        "noise": rng.integers(0, 256, (300, 12, 12), dtype=np.uint8),
        "flat": np.full((300, 8, 8), 99, np.uint8) + rng.integers(0, 2, (300, 8, 8), np.uint8),
    }
    for name, x in pictures.items():
        sizes = find_near_duplicates(thumbnails(x[..., None]), np.arange(300) % 3).sizes
        assert (sizes > 1).sum() == 0, name


def test_handwritten_digits_that_look_alike_are_not_chained():
    digits = open_dataset("digits")
    labels = np.concatenate([part.labels for part in digits.parts])
    x = np.concatenate([digits.pixels(part.name, (8, 8)) for part in digits.parts])
    assert find_near_duplicates(thumbnails(x), labels).sizes.max() == 1


def test_drawn_parts_keep_scenes_together_and_say_so(tmp_path):
    x, base, labels = retaken_set()
    data = write_npz(tmp_path / "a.npz", x=x, y=labels)
    scene_of = dict(zip((f"x[{n}]" for n in range(len(x))), base.tolist(), strict=True))
    dataset = open_dataset(data)
    train, test = ({scene_of[name] for name in part.ids} for part in (dataset.train, dataset.test))
    assert len(train & test) <= 1
    assert dataset.test.groups is not None  # Pictures of one scene are no independent samples.
    (decision,) = [each for each in dataset.decisions if each.name == "near duplicates"]
    assert decision.option == "--group none"
    assert "of 180 pictures" in decision.choice
    apart = open_dataset(data, group="none")
    train, test = ({scene_of[name] for name in part.ids} for part in (apart.train, apart.test))
    assert len(train & test) > 5


def test_classes_that_are_too_large_are_not_searched_and_listed_so(tmp_path, monkeypatch):
    x, _, labels = retaken_set()
    data = write_npz(tmp_path / "a.npz", x=x, y=labels)
    pairs = 2 * 90**2  # Two classes of 90 pictures.
    monkeypatch.setattr(near_duplicates, "MAX_PAIRS", pairs)
    (searched,) = [e for e in open_dataset(data).decisions if e.name == "near duplicates"]
    assert "not searched" not in searched.choice
    monkeypatch.setattr(near_duplicates, "MAX_PAIRS", pairs - 1)
    dataset = open_dataset(data)
    (decision,) = [each for each in dataset.decisions if each.name == "near duplicates"]
    assert "not searched among 180 pictures" in decision.choice
    assert decision.option == "--group REGEX"
    assert dataset.test.groups is None


def copies(scene, rng):
    """A picture in another encoding and in another size."""
    file = io.BytesIO()
    Image.fromarray(scene).save(file, "JPEG", quality=80)
    larger = [3 * side // 2 for side in scene.shape[::-1]]
    return [np.asarray(Image.open(file)), np.asarray(Image.fromarray(scene).resize(larger))]


def test_copies_are_confirmed_and_pictures_that_differ_in_detail_are_not():
    """What is equal in 16x16 values may differ in 32x32: here by a pattern of single values."""
    rng, scene = np.random.default_rng(0), scenes(100, side=32, detail=2.0)
    pattern = 40 * (np.indices((32, 32)).sum(0) % 2 * 2 - 1)
    other = np.clip(scene[0].astype(int) + pattern, 0, 255).astype(np.uint8)
    kinds = [each[..., None] for each in (*copies(scene[0], rng), other)]
    thumbs = np.concatenate([thumbnails(scene[..., None]), *(thumbnails(k[None]) for k in kinds)])
    close = near_duplicates.vectors(thumbs)
    assert close[0] @ close[-1] > 0.97
    groups = np.arange(len(thumbs))
    groups[-3:] = 0
    found = near_duplicates.confirmed(thumbs, groups)
    assert found.tolist() == [*range(100), 0, 0, 102]
    everywhere = np.repeat(np.arange(0, 100, 2), 2)
    abound = np.append(everywhere, [0, 0, 0])
    assert near_duplicates.confirmed(thumbs, abound).tolist() == abound.tolist()


def test_a_confirmed_group_holds_together_by_its_nearest_pictures():
    """A view that lies between two others connects them, as in the search."""
    side = 32
    wide = scenes(1, side=3 * side, detail=8.0)[0]
    views = [wide[n : n + 2 * side, n : n + 2 * side] for n in (0, 4, 8)]
    rest = scenes(60, seed=1, side=2 * side)
    thumbs = thumbnails(np.stack([*views, *rest])[..., None])
    groups = np.array([0, 0, 0, *range(3, 63)])
    assert near_duplicates.confirmed(thumbs, groups).tolist() == groups.tolist()
    apart = np.array([0, 1, 0, *range(3, 63)])
    assert near_duplicates.confirmed(thumbs, apart)[2] == 2


def test_near_duplicates_across_given_parts_are_found_with_examples(tmp_path):
    x, _, labels = retaken_set()
    is_test = np.arange(180) % 3 == 0
    arrays = {"x_train": x[~is_test], "y_train": labels[~is_test]}
    arrays |= {"x_test": x[is_test], "y_test": labels[is_test]}
    dataset = open_dataset(write_npz(tmp_path / "a.npz", **arrays))
    found = [
        f for f in audit(dataset) if f.kind == "near duplicates" and "test pictures" in f.message
    ]
    assert sum(f.count for f in found) >= 57
    assert "x_test[0] and x_train[" in " ".join(f.message for f in found)
