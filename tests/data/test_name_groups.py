from __future__ import annotations

import re

import numpy as np
import pytest

from lepton_automl.data.opening import open_dataset
from lepton_automl.data.splits.name_groups import find_name_groups, groups_by_pattern

COUNT, TIMES = 40, 6
BASE = np.repeat(np.arange(COUNT), TIMES)
LABELS = BASE % 2
CLASSES = ("ant", "bee")


def vectors(closeness, groups=BASE, seed=0):
    """Unit vectors (N, 64); of one group as close as `closeness` says, 0 for not at all."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(groups.max() + 1, 64))[groups]
    made = closeness * centre + rng.normal(size=centre.shape)
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def ids(form, labels=LABELS):
    """Paths of all samples; the form may use the group g, the number n in it, and the letter a."""
    return tuple(
        f"{CLASSES[labels[i]]}/{form.format(g=BASE[i], n=i % TIMES, a='abcdef'[i % TIMES])}"
        for i in range(len(BASE))
    )


def same_partition(first, second):
    return (
        len(np.unique(first)) == len(np.unique(second)) == len(set(zip(first, second, strict=True)))
    )


@pytest.mark.parametrize(
    "form",
    [
        *("{g:05}_{n:05}.ppm", "img_{g:04}_{a}.png", "P{g:02}-{n}.jpg", "video{g}_frame{n:04}.png"),
        *("{a}_{g:03}.png", "session {g}/{n}.png", "scan{g}x{n}.tif"),
    ],
)
def test_names_that_count_groups_are_recognised_where_pictures_agree(form):
    groups, decision = find_name_groups(ids(form), LABELS, CLASSES, vectors(2.0))
    assert same_partition(groups, BASE)
    assert decision.certainty == "measured"
    assert decision.option == "--group none"
    assert "40 groups" in decision.choice


def test_names_are_offered_and_not_used_where_pictures_disagree():
    names = ids("img_{g:04}_{a}.png")
    groups, decision = find_name_groups(names, LABELS, CLASSES, vectors(0.0))
    assert groups is None
    assert decision.choice.startswith("none")
    pattern = re.fullmatch(r"--group '(.*)'", decision.option).group(1)
    assert same_partition(groups_by_pattern(re.compile(pattern), names), BASE)


def test_names_that_say_what_they_count_need_less_evidence():
    hardly = vectors(0.2)
    for form, is_used in (("video{g}_frame{n:04}.png", True), ("img_{g:04}_{a}.png", False)):
        groups, decision = find_name_groups(ids(form), LABELS, CLASSES, hardly)
        assert (groups is not None) == is_used
        assert decision.certainty == ("inferred" if is_used else "measured")


@pytest.mark.parametrize("form", ["{g}{n}.png", "img_{g}{n}.png", "{a}.png"])
def test_names_that_number_pictures_or_name_views_only_are_no_groups(form):
    assert find_name_groups(ids(form), LABELS, CLASSES, vectors(2.0)) == (None, None)


def test_samples_without_paths_have_no_groups_by_name():
    names = tuple(f"x[{n}]" for n in range(len(BASE)))
    assert find_name_groups(names, LABELS, CLASSES, vectors(2.0)) == (None, None)


@pytest.mark.parametrize(("form", "is_one"), [("P{g:02}-{n}.png", True), ("im{g}_{n}.png", False)])
def test_a_person_is_one_group_in_all_classes(form, is_one):
    labels = np.arange(len(BASE)) % 2
    own = vectors(2.0, BASE * 2 + labels)  # Pictures agree within a class only.
    groups, _ = find_name_groups(ids(form, labels), labels, CLASSES, own)
    assert same_partition(groups, BASE if is_one else BASE * 2 + labels)


def test_a_number_that_means_the_same_in_all_classes_joins_them():
    labels = np.arange(len(BASE)) % 2
    groups, decision = find_name_groups(ids("im{g}_{n}.png", labels), labels, CLASSES, vectors(2.0))
    assert same_partition(groups, BASE)
    assert "across classes" in decision.evidence


def test_parts_are_drawn_by_names(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    scene = rng.normal(size=(COUNT, 12, 12))
    for name, base in zip(ids("t{g:02}_{n}.png"), BASE, strict=True):
        pixels = np.clip(127 + 25 * (scene[base] + 0.7 * rng.normal(size=(12, 12))), 0, 255)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name)
    dataset = open_dataset(tmp_path)
    tracks = [{name[4:7] for name in part.ids} for part in dataset.parts]
    assert sum(map(len, tracks)) == COUNT
    assert "groups by name" in [each.name for each in dataset.decisions]
