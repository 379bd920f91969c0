"""The quick commands that README and docs/ show are executed, on a small finished run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.cli import Lepton
from tests.helpers.pages import EXAMPLES_PAGE, commands

QUICK = ("spaces", "status", "predict", "verify")
ELSEWHERE = {"--watch", "--trust", "--format"}
"""Options whose commands other tests run."""
PLACEHOLDERS = {
    "RUN": "runs/photos",
    "ARTIFACT": "runs/photos/artifact",
    "FILES": "new/1.jpg",
    "PICTURES": "new/1.jpg",
    "FOLDER": "new",
}
SHOWN = sorted(
    {
        tuple(PLACEHOLDERS.get(word, word) for word in words)
        for page, words in commands()
        if words[1] in QUICK and not ELSEWHERE & set(words) and page != EXAMPLES_PAGE.name
    }
    | {("lepton", "spaces")}
)


@pytest.fixture(scope="module")
def place(finished_run, tmp_path_factory):
    """A folder with the run and the pictures that the pages name."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "runs").mkdir()
    for name in ("photos", "digits", "table/digits_seed=0_max-size-kb=20"):
        shutil.copytree(finished_run[0].out, folder / "runs" / name)
    (folder / "new").mkdir()
    for number in (1, 2):
        pixels = np.full((8, 8), 80 * number, np.uint8)
        Image.fromarray(pixels).save(folder / "new" / f"{number}.jpg")
    return folder


def test_each_quick_command_is_shown():
    assert {words[1] for words in SHOWN} == set(QUICK)


@pytest.mark.parametrize("words", SHOWN, ids=" ".join)
def test_a_shown_command_ends_with_0(words, place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    expanded = [
        str(found)
        for word in words[1:]
        for found in (sorted(Path().glob(word)) if "*" in word else [word])
    ]
    done = Lepton(monkeypatch, capfd)(*expanded)
    assert done.exit_code == 0, done.err
    assert done.out.strip()
