from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.helpers import sounds
from tests.helpers.pictures import random_pictures, tree, write_folder, write_npz


@pytest.fixture
def faulty(tmp_path):
    """A folder with given parts: a copy of a training picture in test, and an empty file."""
    counts = {f"{part}/{name}": 12 for part in ("train", "val", "test") for name in "ab"}
    folder = write_folder(tmp_path / "d", counts)
    copied = (folder / "train" / "a" / "000.png").read_bytes()
    (folder / "test" / "a" / "000.png").write_bytes(copied)
    (folder / "train" / "b" / "011.png").write_bytes(b"")
    return folder


def test_clean_data_are_reported_with_exit_0(lepton, tmp_path):
    write_npz(tmp_path / "a.npz", x=random_pictures(300, (8, 8, 1)), y=np.arange(300) % 3)
    done = lepton("data", "a.npz", "--json", "--quiet")
    found = json.loads(done.out)
    assert (done.exit_code, found["exit_code"], found["findings"]) == (0, 0, [])
    assert sum(part["samples"] for part in found["parts"]) == 300
    assert sum(sum(part["class_counts"]) for part in found["parts"]) == 300
    assert found["test_resolution"]["samples"] == found["parts"][2]["samples"]
    text = lepton("data", "a.npz", "--quiet")
    assert "no findings" in text.out
    assert "cannot hold" in text.out
    assert "doubtful labels: not known" in text.out


def test_that_no_label_could_be_doubted_is_said(lepton, tmp_path):
    write_npz(tmp_path / "a.npz", x=random_pictures(40, (8, 8, 1)), y=np.arange(40) % 10)
    text = lepton("data", "a.npz", "--quiet")
    assert "doubtful labels: not looked for: fewer than two classes have 5" in text.out


def test_unreadable_files_end_with_3_after_the_whole_report(lepton, faulty):
    before = tree(faulty)
    done = lepton("data", str(faulty), "--json", "--quiet")
    found = json.loads(done.out)
    assert (done.exit_code, found["exit_code"]) == (3, 3)
    assert [file["id"] for file in found["unreadable"]] == ["train/b/011.png"]
    (copied,) = [each for each in found["findings"] if each["kind"] == "duplicates"]
    assert [sample["id"] for sample in copied["samples"][0]] == [
        "train/a/000.png",
        "test/a/000.png",
    ]
    assert "error: 1 of 72 pictures cannot be read" in done.err
    assert tree(faulty) == before
    assert sorted(path.name for path in faulty.parent.iterdir()) == ["d"]


@pytest.mark.parametrize("kind", ["sound", "signals", "table of sound", "table of signals"])
def test_recordings_that_cannot_be_read_end_with_3_as_in_a_run_which_refuses_them(
    lepton, tmp_path, kind
):
    suffix = "wav" if "sound" in kind else "csv"
    rng, rows = np.random.default_rng(0), ["path,label"]
    for label, hertz in (("low", 300), ("high", 900)):
        for n in range(8):
            path = tmp_path / "d" / label / f"{n}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if suffix == "wav":
                sounds.write(path, sounds.tone(hertz, 0.3, seed=n))
            else:
                np.savetxt(path, rng.normal(hertz, 1, (30, 2)), delimiter=",")
            rows.append(f"d/{label}/{n}.{suffix},{label}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    for name in ("low/3", "high/5"):
        (tmp_path / "d" / f"{name}.{suffix}").write_bytes(b"")
    data = "t.csv" if "table" in kind else "d"
    done = lepton("data", data, "--json", "--quiet")
    found = json.loads(done.out)
    assert (done.exit_code, found["exit_code"]) == (3, 3)
    assert "error: 2 recordings cannot be read" in done.err
    named = {(file["id"].removeprefix("d/"), file["class_name"]) for file in found["unreadable"]}
    assert named == {(f"low/3.{suffix}", "low"), (f"high/5.{suffix}", "high")}
    assert [each["count"] for each in found["findings"] if each["kind"] == "unreadable files"] == [
        2
    ]
    assert lepton("run", data, "--budget", "1h", "--quiet").exit_code == 3
    assert lepton("data", data, "--skip-corrupt", "--quiet").exit_code == 0


def test_with_skip_corrupt_the_exit_code_is_0_and_the_files_are_named(lepton, faulty):
    done = lepton("data", str(faulty), "--skip-corrupt", "--quiet")
    assert done.exit_code == 0
    # Where lines break depends on the path of the folder.
    text = "".join(done.out.split())
    assert "train/b/011.png cannot be read: the file is empty".replace(" ", "") in text


def test_data_that_run_refuses_are_refused_with_the_same_message(lepton, tmp_path):
    write_npz(tmp_path / "one.npz", x=random_pictures(30), y=np.zeros(30, int))
    mine, of_run = lepton("data", "one.npz", "--quiet"), lepton("run", "one.npz", "--quiet")
    assert mine.exit_code == of_run.exit_code == 3
    assert mine.err == of_run.err


def test_options_of_data_have_the_effect_that_they_have_in_a_run(lepton, tmp_path):
    write_npz(tmp_path / "a.npz", x=random_pictures(60, (8, 8, 1)), y=np.arange(60) % 3)
    seeds = {json.loads(lepton("data", "a.npz", "--json", "--quiet", *words).out)["fingerprint"]
             for words in ((), ("--seed", "0"), ("--seed", "1"))}  # fmt: skip
    assert len(seeds) == 2
    assert lepton("data", "a.npz", "--columns", "x=nothing", "--quiet").exit_code in (3, 4)
    assert lepton("data", "a.npz", "--balance", "on", "--seed", "0").exit_code == 4


def test_a_cleaned_table_is_read_without_what_is_wrong_and_touches_no_picture(lepton, faulty):
    twin = (faulty / "train" / "a" / "001.png").read_bytes()
    (faulty / "train" / "b" / "002.png").write_bytes(twin)
    before = tree(faulty)
    done = lepton("data", str(faulty), "--fix", "clean.csv", "--html", "page.html")
    assert done.exit_code == 3
    assert tree(faulty) == before
    again = lepton("data", "clean.csv", "--json", "--quiet")
    found = json.loads(again.out)
    assert again.exit_code == 0
    # One copy, one empty file and two contradictory pictures of 72 are left out.
    assert [part["samples"] for part in found["parts"]] == [20, 24, 24]
    assert not {each["kind"] for each in found["findings"]} & {"duplicates", "contradictions"}
    assert "test/a/000.png" in (faulty.parent / "clean.csv").read_text()
    for words in (("--fix", "clean.csv"), ("--html", "page.html"), ("--fix", "clean.txt")):
        assert lepton("data", str(faulty), *words, "--quiet").exit_code == 4


def test_arrays_have_no_cleaned_table(lepton, tmp_path):
    write_npz(tmp_path / "a.npz", x=random_pictures(60, (8, 8, 1)), y=np.arange(60) % 2)
    audited = lepton.fake("pipeline.data_report.full_audit", ())
    done = lepton("data", "a.npz", "--fix", "clean.csv", "--quiet")
    assert done.exit_code == 4
    assert not audited.asked, "the audit, which may take minutes, comes after"
    assert not (tmp_path / "clean.csv").exists()


def test_the_page_says_what_was_found_and_names_each_cell_where_a_screen_is_narrow(lepton, faulty):
    assert lepton("data", str(faulty), "--html", "page.html", "--quiet").exit_code == 3
    page = (faulty.parent / "page.html").read_text()
    assert '<meta name="viewport" content="width=device-width' in page
    before_tables = page[: page.index("<table")]
    for words in ("unreadable files", "doubtful labels", "--skip-corrupt"):
        assert words in before_tables
    (decisions,) = re.findall(r"<h2>Decisions</h2>.*?(<table.*?</table>)", page, re.DOTALL)
    names = re.findall(r"<th>([^<]*)</th>", decisions)
    for row in re.findall(r"<tr>(<td.*?)</tr>", decisions):
        assert re.findall(r'<td data-name="([^"]*)">', row) == names


def test_the_page_holds_escaped_names_pictures_and_nothing_from_elsewhere(lepton, tmp_path):
    name = "<script>alert(1)"
    folder = write_folder(tmp_path / "d", {f"{part}/{label}": 6 for part in ("train", "val", "test")
                                           for label in (name, "b")})  # fmt: skip
    (folder / "test" / "b" / "x.png").write_bytes((folder / "train" / "b" / "000.png").read_bytes())
    assert lepton("data", str(folder), "--html", "page.html", "--quiet").exit_code == 0
    page = (tmp_path / "page.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    sources = re.findall(r'src="([^"]*)"', page)
    # A contact sheet of six of each class, and both pictures of the duplicate.
    assert len(sources) == 14
    prefix = "data:image/png;base64,"
    for source in sources:
        assert source.startswith(prefix)
        image = Image.open(io.BytesIO(base64.b64decode(source.removeprefix(prefix))))
        assert image.size == (7, 9)


def test_the_page_draws_sound_with_low_bands_below(lepton, tmp_path):
    for label, hertz in (("low", 200), ("high", 3000)):
        for n in range(6):
            sounds.write(tmp_path / "d" / label / f"{n}.wav", sounds.tone(hertz, 0.5, seed=n))
    done = lepton("data", "d", "--html", "page.html", "--band-mean", "keep", "--quiet")
    assert done.exit_code == 0
    page = (tmp_path / "page.html").read_text()
    sheet = page[page.index("<h2>Contact sheet") :]
    assert "low bands below" in sheet
    for label, is_below in (("low", True), ("high", False)):
        part = sheet[sheet.index(f"<h3>{label}</h3>") :]
        (source,) = re.findall(r'src="data:image/png;base64,([^"]*)"', part)[:1]
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))
        loudest = pixels.astype(float).mean(1).argmax()
        assert (loudest > len(pixels) / 2) == is_below
