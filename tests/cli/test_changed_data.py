"""A run whose data were changed, or whose parts are drawn otherwise, is not continued."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_automl.config import RunConfig
from lepton_automl.core.events import silent
from lepton_automl.data.splits import assign
from lepton_automl.pipeline.context import open_run
from tests.helpers import runs
from tests.helpers.pictures import random_pictures

LABELS = np.arange(60) % 2
RUN = ("run", "data.npz", "--out", "run", "--trials", "1", "--device", "cpu")
OTHERS = [("search", *RUN[1:]), ("compress", "run"), ("export", "run")]


def write_data(**changes):
    """30 groups of 2 pictures; the test part is given, the validation part is drawn."""
    content = {
        "x_train": random_pictures(40, (6, 6)),
        "y_train": LABELS[:40],
        "group_train": np.arange(40) // 2,
        "x_test": random_pictures(20, (6, 6), seed=1),
        "y_test": LABELS[40:],
        "group_test": 20 + np.arange(20) // 2,
    }
    np.savez("data.npz", **(content | changes))


def one_picture():
    pictures = random_pictures(40, (6, 6))
    pictures[7, 0, 0] ^= 1
    write_data(x_train=pictures)


def one_group():
    write_data(group_train=np.arange(40) // 4)


def one_part():
    """Two samples of the test part are samples to train with."""
    write_data(
        x_train=np.concatenate([random_pictures(40, (6, 6)), random_pictures(20, (6, 6), 1)[:2]]),
        y_train=LABELS[:42],
        group_train=np.arange(42) // 2,
        x_test=random_pictures(20, (6, 6), 1)[2:],
        y_test=LABELS[42:],
        group_test=21 + np.arange(18) // 2,
    )


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """The folder of a run that has begun, where the same command is not refused."""
    monkeypatch.chdir(tmp_path)
    write_data()
    for _ in range(2):
        with open_run(RunConfig("data.npz", tmp_path / "run", trials=1, device="cpu"), silent):
            pass
    return tmp_path


def check_refused(lepton, folder, words):
    before = runs.digests(folder)
    done = lepton(*words)
    assert (done.exit_code, done.out) == (4, ""), (words, done.err)
    said = " ".join(done.err.split())
    assert said.count("error: ") == said.count("fix: ") == said.count(str(folder)) == 1, said
    assert "Traceback" not in said
    for text in (
        "the run in run began with other samples, groups or parts of",
        "the data were changed since, or another version of lepton draws the parts otherwise",
        "a run continues on the data and parts it began with",
        "--fresh",
        "another --out",
        "the version of lepton that began it",
    ):
        assert text in said, (text, said)
    assert runs.digests(folder) == before, words


@pytest.mark.parametrize("change", [one_picture, one_group, one_part])
def test_a_run_on_changed_data_is_refused(lepton, begun, change):
    change()
    check_refused(lepton, begun, RUN)


def test_a_run_whose_parts_another_version_draws_is_refused_by_every_command(
    lepton, begun, monkeypatch
):
    def drawn_otherwise(labels, names, parts, groups, seed, *more):
        return split(labels, names, parts, groups, seed + 1, *more)

    split = assign.split
    monkeypatch.setattr(assign, "split", drawn_otherwise)
    for words in (RUN, *OTHERS):
        check_refused(lepton, begun, words)


def test_an_option_that_changes_the_parts_is_named_instead(lepton, begun):
    done = lepton(*RUN, "--seed", "5")
    assert done.exit_code == 4
    assert "run holds another run: seed: 0 here, 5 asked for" in " ".join(done.err.split())
