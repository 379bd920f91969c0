"""Whatever data or options are given: handled, or one message with the way out, nothing left."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import runs
from tests.helpers.pictures import random_pictures, write_folder

LABELS = np.arange(40) % 2
PICTURES = random_pictures(40, (6, 6))
MODES = {"I;16": "png", "RGBA": "png", "CMYK": "jpg", "P": "gif", "L": "png", "LA": "png"}


@pytest.fixture
def quick(tmp_path):
    """Options of a run that trains one small candidate."""
    (tmp_path / "quick.toml").write_text(runs.SPACE.replace('"native"', "8"))
    objectives = ",".join(runs.OBJECTIVES)
    space = ("--space", "quick.toml", "--objective", objectives)
    return (*space, "--trials", "1", "--jobs", "1", "--quiet")


@pytest.fixture
def few(tmp_path):
    np.savez(tmp_path / "few.npz", x=PICTURES, y=LABELS)
    return "few.npz"


def refused(done, code, *words):
    """One message that holds all `words` and a way out, no traceback, nothing written."""
    assert done.exit_code == code, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert done.err.count("error: ") == 1
    assert done.err.count("fix: ") == 1
    for word in words:
        assert word in done.err
    assert not Path("runs").exists()


def save(path, mode, size=(9, 7), seed=0):
    """A picture file of a mode that Pillow knows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "I;16":
        pixels = np.random.default_rng(seed).integers(0, 65536, size[::-1], dtype=np.uint16)
        return Image.fromarray(pixels).save(path)
    (pixels,) = random_pictures(1, (*size[::-1], 3), seed)
    return Image.fromarray(pixels).convert(mode).save(path)


def test_an_empty_folder(lepton):
    Path("data").mkdir()
    refused(lepton("run", "data"), 3, "data holds no pictures", "one sub-folder")


def test_one_class(lepton):
    write_folder(Path("data"), {"cat": 5})
    refused(lepton("run", "data"), 3, "1 class (cat)", "at least 2")


def test_one_picture_per_class(lepton):
    write_folder(Path("data"), {"cat": 1, "dog": 1})
    refused(lepton("run", "data"), 3, "'cat' has 1", "'dog' has 1", "at least 3")


def damaged(folder):
    """Data in which one JPEG ends too early and one text is called .png."""
    write_folder(folder, {"cat": 6, "dog": 6})
    save(folder / "cat" / "cut.jpg", "RGB", (40, 40))
    whole = (folder / "cat" / "cut.jpg").read_bytes()
    (folder / "cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "dog" / "text.png").write_text("no picture")
    return str(folder)


def test_a_truncated_jpeg_and_a_text_called_png_are_named(lepton):
    done = lepton("run", damaged(Path("data")))
    refused(done, 3, "2 of 14", "data/cat/cut.jpg", "truncated", "data/dog/text.png")
    assert "--skip-corrupt" in done.err


def test_on_request_damaged_pictures_are_left_out_counted_and_listed(lepton, quick):
    data = damaged(Path("data"))
    done = lepton("run", data, *quick[:-1], "--skip-corrupt", "--max-size-kb", "1")
    assert done.exit_code == 5
    assert "ignored 2 of 14 pictures" in done.err
    listed = Path("runs/data.corrupt.txt").read_text()
    assert "cut.jpg" in listed
    assert "text.png" in listed


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_picture_is_taken_in(lepton, quick, mode):
    for place in range(8):
        save(Path("data") / f"class {place % 2}" / f"{place}.{MODES[mode]}", mode, seed=place)
    # A limit that nothing can meet ends the run right after the intake.
    done = lepton("run", "data", *quick[:-1], "--max-size-kb", "1")
    assert done.exit_code == 5, done.err
    colour = "grey" if mode in {"I;16", "L", "LA"} else "RGB"
    assert f"8 {colour} pictures of 7x9 pixels, 2 classes" in done.err


def test_a_folder_of_all_modes_and_sizes_gives_an_artifact_that_classifies_them(lepton, quick):
    sizes = [(9, 7), (1, 1), (5000, 3), (8, 8)]
    for number, (mode, ending) in enumerate(MODES.items()):
        for place in range(6):
            name = ("chat noir ü", "狗 2")[place % 2]
            size, seed = sizes[(number + place) % 4], 10 * number + place
            file = f"{mode.replace(';', '')} {place}.{ending}"
            save(Path("mixed") / name / file, mode, size, seed)
    done = lepton("run", "mixed/", *quick, "--json")
    assert done.exit_code == 0, done.err
    assert json.loads(done.out)["verdict"] == "holds"
    done = lepton("predict", "runs/mixed", "mixed", "--json")
    rows = json.loads(done.out)["predictions"]
    assert len(rows) == 36
    assert {row["label"] for row in rows} <= {"chat noir ü", "狗 2"}


def test_pictures_of_one_pixel_make_a_run(lepton, quick):
    np.savez("few.npz", x=PICTURES[:, :1, :1], y=np.where(LABELS, "yes", "no"))
    done = lepton("search", "few.npz", *quick, "--json")
    # Pictures of one colour each leave batch normalisation nothing to divide by: in bfloat16, on
    # processors with tiles, rounding decides whether the net diverges. Then that is said.
    if done.exit_code == 4:
        assert "the loss became nan" in done.err
        assert "Traceback" not in done.err
    else:
        assert done.exit_code == 0, done.err
        assert json.loads(done.out)["winner"] == 0


def objects():
    column = np.empty(40, object)
    column[:] = list(PICTURES)
    return column


NAN = np.where(np.arange(40)[:, None, None] == 3, np.nan, PICTURES.astype(np.float32))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": NAN, "y": LABELS}, ("NaN", "1 of 40", "x[3]")),
        ({"x": objects(), "y": LABELS}, ("x is an array of Python objects", "np.stack")),
        ({"x": PICTURES, "y": LABELS.astype(object)}, ("y is an array of Python objects",)),
        ({"x": PICTURES, "y": LABELS * 7, "class_names": ["a", "b"]}, ("y[1] = 7", "0 to 1")),
        ({"x": PICTURES, "y": LABELS - 1}, ("y[0] = -1",)),
    ],
)
def test_arrays_that_cannot_be_used_are_named_with_the_value_and_the_rule(lepton, arrays, words):
    np.savez("bad.npz", **arrays)
    refused(lepton("run", "bad.npz"), 3, "bad.npz", *words)


def test_an_unknown_space_is_answered_with_the_nearest_name(lepton, few):
    refused(lepton("run", few, "--space", "tinny"), 4, "'tinny'", "did you mean 'tiny'")


def test_an_unknown_layer_in_a_space_is_answered_with_line_and_nearest_name(lepton, few):
    text = runs.SPACE.replace('layer = "conv"', 'layer = "convv"')
    Path("mine.toml").write_text(text)
    line = text.splitlines().index('layer = "convv"') + 1
    done = lepton("run", few, "--space", "mine.toml")
    refused(done, 4, f"mine.toml, line {line}", "'convv'", "did you mean 'conv'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--trials", "0"), ("--trials 0", "at least 1")),
        (("--max-size-kb", "-1"), ("--max-size-kb -1", "at least 0.001")),
        (("--max-size-kb", "nan"), ("--max-size-kb nan",)),
        (("--max-ram-kb", "inf"), ("--max-ram-kb inf",)),
        (("--max-macs", "-2M"), ("--max-macs -2e+06", "at least 1")),
        (("--max-latency-ms", "0"), ("--max-latency-ms 0", "above 0")),
        (("--min-accuracy", "120"), ("--min-accuracy 120", "up to 100")),
        (("--max-drop", "-1"), ("--max-drop -1", "0 to 100")),
        (("--device", "gpu"), ("'gpu'", "auto, cpu, cuda")),
        (("--target", "x86"), ("'x86'", "did you mean 'x86-any'")),
        (("--objective", "accurcy"), ("'accurcy'", "did you mean 'accuracy'")),
    ],
)
def test_an_option_that_means_nothing_is_refused_in_its_own_words(lepton, few, arguments, words):
    refused(lepton("run", few, *arguments), 4, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", ""), ("argument 2 after run is empty",)),
        (("run", "few.npz", "--out", ""), ("argument 4 after --out is empty",)),
        (("run", "few.npz", "--out="), ("--out is empty",)),
        (("run", "few.npz", "--budget", ""), ("argument 4 after --budget is empty",)),
        (("verify", ""), ("argument 2 after verify is empty",)),
        (("predict", "runs/few", "a.png", ""), ("argument 4 after a.png is empty",)),
        (("",), ("argument 1 is empty",)),
    ],
)
def test_an_empty_argument_is_not_the_current_folder(lepton, few, arguments, words):
    before = sorted(Path.cwd().rglob("*"))
    refused(lepton(*arguments), 4, *words, "shell variable")
    assert sorted(Path.cwd().rglob("*")) == before


def test_with_json_a_wrong_command_line_is_an_object_too(lepton, few):
    done = lepton("run", few, "--bugdet", "3m", "--json")
    assert done.exit_code == 2
    assert "--bugdet" in json.loads(done.out)["error"]


def test_limits_nothing_can_meet_end_in_seconds_with_what_would_fit(lepton, few, quick):
    begun = time.process_time()
    done = lepton("run", few, *quick, "--max-size-kb", "1", "--json")
    assert time.process_time() - begun < 20
    assert done.exit_code == 5
    answer = json.loads(done.out)
    assert "nothing was trained" in answer["error"]
    fits = answer["fix"].split(" would fit")[0].split()
    assert fits[0] == "--max-size-kb"
    assert f"seen is {fits[1]} kB, the limit 1 kB" in answer["error"]
    # Nothing is left of it, so that the way out can be taken.
    assert not Path("runs/few").exists()
    done = lepton("search", few, *quick, *fits, "--json")
    assert done.exit_code == 0, done.err
    (trial,) = json.loads(done.out)["trials"]
    assert trial["size_bytes"] <= float(fits[1]) * 1000


def test_a_run_folder_inside_the_data_would_become_a_class(lepton, monkeypatch):
    write_folder(Path("data"), {"cat": 5, "dog": 5})
    refused(lepton("run", "data", "--out", "data/run"), 4, "data/run", "outside", "--out")
    monkeypatch.chdir("data")
    refused(lepton("run", "."), 4, "runs/data", "--out")
    assert sorted(path.name for path in Path().iterdir()) == ["cat", "dog"]


@pytest.mark.parametrize("out", ["taken", "taken/run", "", "/"])
def test_a_run_folder_that_cannot_be_one_is_refused(lepton, few, out):
    Path("taken").write_text("a file")
    done = lepton("run", few, "--out", out)
    assert done.exit_code in {4, 7}
    refused(done, done.exit_code, "--out")
    assert Path("taken").read_text() == "a file"


@pytest.fixture
def own_run(finished_run, tmp_path):
    """A copy of a finished run and of its data, and the words that repeat it."""
    config = runs.copy(finished_run[0], tmp_path)
    shutil.copy(config.data, tmp_path / "data.npz")
    definition = config.out / "run.toml"
    definition.write_text(definition.read_text().replace(config.data, str(tmp_path / "data.npz")))
    words = ("--out", "run", "--space", str(config.space), "--quiet", "--trials", "2")
    return (*words, "--objective", ",".join(runs.OBJECTIVES))


def test_other_data_into_the_same_folder_are_refused(lepton, few, own_run):
    refused(lepton("run", few, *own_run), 4, "run holds another run", "--out", "--fresh")


def test_moved_data_are_found_again_once_their_place_is_told(lepton, own_run):
    Path("moved").mkdir()
    Path("data.npz").rename("moved/data.npz")
    refused(lepton("export", "run", "--quiet"), 3, "no longer at", "data.npz", "lepton search")
    refused(lepton("verify", "run", "--quiet"), 3, "no longer at", "lepton verify")
    assert lepton("run", "moved/../moved/data.npz", *own_run).exit_code == 0
    assert lepton("verify", "run", "--quiet").exit_code == 0


@pytest.mark.parametrize("verb", ["verify", "compress", "export", "status"])
def test_what_is_no_run_is_refused_by_every_verb(lepton, verb):
    refused(lepton(verb, "nothing"), 3, "nothing is not a", "no such path")
    Path("empty").mkdir()
    refused(lepton(verb, "empty"), 3, "empty is not a")


def test_pictures_that_cannot_be_classified_are_named(lepton, finished_run):
    artifact = str(finished_run[1].artifact)
    Path("empty").mkdir()
    Path("text.png").write_text("no picture")
    refused(lepton("predict", artifact, "text.png"), 3, "text.png", "not a picture")
    refused(lepton("predict", artifact, "none.png"), 3, "none.png", "No such file")
    refused(lepton("predict", artifact, "empty"), 3, "no file to classify")
    refused(lepton("predict", "text.png", "text.png"), 3, "text.png is not an ONNX file")
    assert lepton("predict", artifact).exit_code == 2
