from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from lepton_automl.data.audit.checks import audit, emit_findings
from lepton_automl.data.opening import open_dataset
from tests.helpers.pictures import random_pictures, write_npz

X = random_pictures(200, (4, 4, 1))


@pytest.fixture
def dataset(tmp_path):
    def make(**changes):
        arrays = {f"x_{part}": X[start : start + 40] for start, part in ((0, "train"), (40, "val"))}
        arrays["x_test"] = X[80:120]
        arrays |= {f"y_{part}": np.arange(40) % 2 for part in ("train", "val", "test")}
        return open_dataset(write_npz(tmp_path / "a.npz", **(arrays | changes)))

    return make


def kinds(dataset):
    return [(finding.kind, finding.count) for finding in audit(dataset)]


def test_clean_data_have_no_findings(dataset):
    assert audit(dataset()) == ()


def test_pictures_in_two_parts_are_found_with_their_names(dataset):
    test = X[80:120].copy()
    test[[4, 6]] = X[[2, 8]]
    (finding,) = audit(dataset(x_test=test))
    assert (finding.kind, finding.count) == ("duplicates", 2)
    assert "x_test[4] is x_train[2]" in finding.message
    assert "2 of 40 test samples are also in train" in finding.message


def test_twins_of_different_classes_are_found(dataset):
    train = X[:40].copy()
    train[3] = train[2]
    (finding,) = audit(dataset(x_train=train))
    assert (finding.kind, finding.count) == ("contradictions", 1)
    assert "1 sample is equal to one of another class: " in finding.message
    train[3], train[4] = X[3], train[2]
    assert kinds(dataset(x_train=train)) == [], "twins of one class in one part are no harm"


def test_groups_in_two_parts_are_found(dataset):
    groups = {"group_train": np.arange(40) // 2, "group_test": 100 + np.arange(40) // 2}
    assert kinds(dataset(**groups)) == []
    groups["group_test"][:3] = 7
    (finding,) = audit(dataset(**groups))
    assert (finding.kind, finding.count) == ("leaking groups", 3)


def test_a_leak_of_groups_is_found_where_the_test_part_has_each_only_once(dataset):
    groups = {"group_train": np.arange(40) // 2, "group_test": np.arange(40)}
    assert kinds(dataset(**groups)) == [("leaking groups", 20)]


def test_classes_without_a_test_picture_are_found(dataset):
    names = np.array(["a", "b", "c"])
    y = np.arange(40) % 3
    found = audit(dataset(y_train=y, y_val=y, y_test=np.arange(40) % 2, class_names=names))
    assert [(f.kind, f.count) for f in found] == [("absent classes", 1)]
    assert "no test pictures: c" in found[0].message


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (["Cat", "cat "], 2),
        (["big cat", "Big-Cat"], 2),
        (["\xe9", "e\u0301"], 2),  # One character, and two that look like it.
        (["cat", "cats"], 0),
        (["-", "_"], 0),
    ],
)
def test_classes_whose_names_differ_in_case_or_dashes_only_are_named(dataset, names, count):
    found = audit(dataset(class_names=np.array(names)))
    assert [(f.kind, f.count) for f in found] == ([("names alike", count)] if count else [])
    if names[0] == "\xe9":
        assert r"'\xe9', 'e\u0301'" in found[0].message


def test_classes_with_few_test_pictures_are_found(dataset):
    assert kinds(dataset(y_test=(np.arange(40) < 9).astype(int))) == [("few samples", 1)]
    assert kinds(dataset(y_test=(np.arange(40) < 10).astype(int))) == []


def test_findings_are_emitted_with_their_fix(dataset):
    events = []
    findings = emit_findings(dataset(y_test=(np.arange(40) < 9).astype(int)), events.append)
    assert len(findings) == len(events) == 1
    assert findings[0].message in events[0].message
    assert findings[0].fix in events[0].message


def test_a_rare_class_is_reported_with_its_effect(dataset):
    uneven = dataset(y_train=(np.arange(40) >= 34).astype(int))
    (finding,) = audit(uneven)
    assert (finding.kind, finding.count) == ("uneven classes", 1)
    assert "1 has 6 train samples, 0 34: samples have equal weight" in finding.message
    assert "--balance on" in finding.fix
    (finding,) = audit(uneven.with_balance("auto"))
    assert "classes have equal weight" in finding.message
    assert "balanced accuracy" in finding.message
    assert "--balance off" in finding.fix


@pytest.mark.parametrize(
    ("are_found", "names", "found"),
    [
        (False, None, ["leaking groups", "near duplicates"]),
        (True, None, ["near duplicates"]),
        (True, [2, 3, 4], ["leaking groups", "near duplicates"]),
    ],
)
def test_groups_that_pictures_show_leak_only_where_they_are_near_duplicates(
    dataset, are_found, names, found
):
    """Samples 2 and 5 of test share a group with training; only 2 has a near duplicate there.

    `names` are samples of test whose file names share a group with training.
    """
    whole = dataset()
    test, by_name, twins = (np.arange(40) + 100 for _ in range(3))
    test[[2, 5]], twins[2] = [0, 1], 0
    by_name[names or []] = 0
    shown = None if names is None else by_name
    numbers = {"groups": np.arange(40), "near_duplicates": np.arange(40)}
    changed = dataclasses.replace(
        whole,
        train=dataclasses.replace(
            whole.train,
            **numbers,
            are_groups_found=are_found,
            name_groups=None if names is None else np.arange(40),
        ),
        validation=dataclasses.replace(whole.validation, groups=np.arange(40) + 50),
        test=dataclasses.replace(
            whole.test,
            groups=test,
            near_duplicates=twins,
            are_groups_found=are_found,
            name_groups=shown,
        ),
    )
    counts = {"leaking groups": 2 if names is None else 3, "near duplicates": 1}
    assert kinds(changed) == [(kind, counts[kind]) for kind in found]


def test_groups_of_near_duplicates_alone_are_not_called_certain(tmp_path):
    """Train and test are given; of test one picture is a copy in another size, the rest are not."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 12)):
        for label in ("a", "b"):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for n in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
                picture = Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC)
                picture.save(folder / f"{n}.png")
                if (part, label, n) == ("test", "a", 3):
                    picture.resize((60, 60)).save(tmp_path / "train" / "a" / "copy.png")
    opened = open_dataset(str(tmp_path))
    assert [part.certain_groups for part in opened.parts] == [None] * 3
    (near,) = [f for f in audit(opened) if f.kind == "near duplicates"]
    assert near.count == 1
    assert "test/a/3.png" in near.message
