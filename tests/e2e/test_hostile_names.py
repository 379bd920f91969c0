"""Names that hold terminal codes, markup and bytes that are no UTF-8, through whole commands."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from tests.helpers.runs import EPOCHS, SPACE

FOLDER = os.fsdecode(b"d\xff\x1b[31m\n<script>|[x](www.a.b)\xe2\x80\xae`*.bad")
PICTURE = os.fsdecode(b"f\xfe\x1b[2J\n[red]%d.png")
CLASSES = ("<b>[red]x", "a|b`c_*")  # Others are refused: class names must be printable.
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\udc80-\udcff]")


@pytest.fixture
def words(tmp_path):
    """The command line of a run on hostile names, one file of which is no picture."""
    random = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        folder = tmp_path / FOLDER / name
        folder.mkdir(parents=True)
        for place in range(20):
            pixels = random.integers(0, 100, (8, 8)) + 100 * number
            Image.fromarray(pixels.astype(np.uint8)).save(
                folder / PICTURE.replace("%d", str(place))
            )
    (tmp_path / FOLDER / CLASSES[0] / f"broken {PICTURE}").write_bytes(b"x")
    space = tmp_path / "quick.toml"
    space.write_text(SPACE.replace(f"epochs = {EPOCHS}", "epochs = 1"))
    given = ("--space", str(space), "--trials", "1", "--jobs", "1")
    return ("run", FOLDER, *given, "--objective", "accuracy,size_bytes")


def test_hostile_names_reach_no_reader_raw(lepton, words):
    done = lepton(*words, "--json")
    assert done.exit_code == 3
    assert not RAW.search(done.out + done.err)
    assert r"\x1b[2J\n[red]%d.png cannot be read" in done.err
    assert os.fsdecode(b"\xfe\x1b[2J\n[red]%d.png") in json.loads(done.out)["error"]

    done = lepton(*words, "--skip-corrupt")
    assert done.exit_code == 0, done.err
    run = Path("runs") / Path(FOLDER).stem
    card = (run / "artifact" / "MODEL_CARD.md").read_text(encoding="utf-8")
    drawings = [(run / name).read_text() for name in ("front.svg", "compression.svg")]
    ignored = Path("runs", f"{run.name}.corrupt.txt").read_text()
    for text in (done.out, done.err, card, ignored, *drawings):
        assert not RAW.search(text)
    assert [len(ET.fromstring(text)) > 0 for text in drawings] == [True, True]
    assert len(ignored.splitlines()) == 1
    kinds = {t.type for b in MarkdownIt().enable("table").parse(card) for t in b.children or [b]}
    assert not kinds & {"link_open", "image", "html_inline", "html_block"}
    shown = MarkdownIt().enable("table").render(card)
    assert "2 classes: &lt;b&gt;[red]x, a|b`c_*" in shown
    assert (run / "artifact" / "labels.txt").read_text() == "".join(f"{n}\n" for n in CLASSES)

    done = lepton("predict", str(run), str(Path(FOLDER) / CLASSES[1]))
    assert done.exit_code == 0, done.err
    assert not RAW.search(done.out + done.err)
    assert any(name in done.out for name in CLASSES)
    rows = json.loads(lepton("predict", str(run), FOLDER, "--json").out)["predictions"]
    assert {row["label"] for row in rows} <= set(CLASSES)
    assert str(Path(FOLDER) / CLASSES[0] / PICTURE.replace("%d", "7")) in {r["file"] for r in rows}

    done = lepton("status", str(run))
    assert done.exit_code == 0, done.err
    assert not RAW.search(done.out + done.err)


def test_an_unprintable_class_name_is_refused_in_print(lepton, tmp_path):
    for name in ("cat\u202e\x1b[2J", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for place in range(4):
            pixels = np.full((8, 8), 60 * place, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{place}.png")
    done = lepton("run", "data")
    assert done.exit_code == 3
    assert r"cat\u202e\x1b[2J" in done.err
    assert "rename the class" in done.err
    assert not RAW.search(done.err)
