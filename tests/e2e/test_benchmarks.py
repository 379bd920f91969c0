"""Every benchmark can be imported and prints its help; the page names no other."""

from __future__ import annotations

import gzip
import re
import wave

import numpy as np
import pytest

from benchmarks import data
from benchmarks.bench import HERE, STUDY, main, names

ROOT = HERE.parent


@pytest.mark.parametrize("name", names())
def test_a_benchmark_prints_its_help(name, capsys):
    try:
        status = main([name, "--help"])
    except SystemExit as ended:  # argparse
        status = ended.code
    assert status in (0, None)
    assert f"usage: bench.py {name}" in capsys.readouterr().out


def test_without_a_name_all_are_listed_with_one_line_each(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(names())
    assert all(len(line.split()) > 3 for line in lines)
    assert STUDY in names()


def test_an_unknown_name_is_an_error(capsys):
    assert main(["no-such-benchmark"]) == 2
    assert "training" in capsys.readouterr().out


def test_the_page_names_every_benchmark_and_no_other():
    page = (HERE / "README.md").read_text()
    assert set(re.findall(r"bench\.py ([a-z0-9_]+)", page)) == set(names())


def test_comments_point_to_headings_of_the_decisions():
    headings = set(re.findall(r"^### (.+)$", (ROOT / "docs" / "decisions.md").read_text(), re.M))
    pointers = set()
    for path in (ROOT / "lepton_automl").rglob("*.py"):
        text = re.sub(r"\s+", " ", path.read_text())
        pointers |= set(re.findall(r'docs/decisions\.md, "([^"]+)"', text))
    assert pointers
    assert pointers <= headings


def test_idx_files_become_parts(tmp_path):
    for name, count in (("train", 3), ("t10k", 2)):
        pixels = bytes(range(count * 6))
        header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (count, 2, 3))
        labels = b"\0\0\x08\x01" + count.to_bytes(4, "big") + bytes(range(count))
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    found = data.idx(tmp_path)
    assert found["x_train"].tolist()[2] == [[12, 13, 14], [15, 16, 17]]
    assert found["y_test"].tolist() == [0, 1]


def test_cifar_rows_become_colour_pictures(tmp_path):
    (tmp_path / "batches.meta.txt").write_text("cat\ndog\n")
    for number in range(1, 6):
        red, green, blue = bytes([number] * 1024), bytes([50] * 1024), bytes([99] * 1024)
        row = bytes([number % 2]) + red + green + blue
        (tmp_path / f"data_batch_{number}.bin").write_bytes(row)
    (tmp_path / "test_batch.bin").write_bytes(bytes([1]) + bytes(3072))
    found = data.cifar10(tmp_path)
    assert found["x_train"].shape == (5, 32, 32, 3)
    assert found["x_train"][3, 7, 8].tolist() == [4, 50, 99]
    assert found["y_train"].tolist() == [1, 0, 1, 0, 1]
    assert found["class_names"].tolist() == ["cat", "dog"]


def test_a_subset_has_equally_many_distinct_samples_of_each_class(tmp_path):
    labels = np.repeat([0, 1, 2], [30, 20, 40])
    parts = {f"x_{part}": np.arange(90) for part in ("train", "test")}
    np.savez(tmp_path / "all.npz", **parts, y_train=labels, y_test=labels)
    found = data.subset(tmp_path / "all.npz", {"train": 30, "test": 15}, seed=1)
    assert np.bincount(found["y_train"]).tolist() == [10, 10, 10]
    assert len(set(found["x_train"].tolist())) == 30
    assert (labels[found["x_test"]] == found["y_test"]).all()
    again = data.subset(tmp_path / "all.npz", {"train": 30, "test": 15}, seed=1)
    assert (again["x_train"] == found["x_train"]).all()


@pytest.mark.parametrize("hertz", [300, 1000, 3000])
def test_a_tone_is_loudest_in_the_band_of_its_frequency(tmp_path, hertz):
    tone = 8000 * np.sin(2 * np.pi * hertz * np.arange(8000) / 8000)
    for speaker in ("theo", "anna"):
        with wave.open(str(tmp_path / f"7_{speaker}_0.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(tone.astype("<i2").tobytes())
    found = data.speech(tmp_path)
    assert found["group_train"].tolist() == ["anna"]
    assert found["y_test"].tolist() == [7]
    loudest = found["x_train"][0, :, :40].mean(1).argmax()
    mel = 2595 * np.log10(1 + np.array([60, 4000, hertz]) / 700)  # O'Shaughnessy 1987
    centre = 41 * (mel[2] - mel[0]) / (mel[1] - mel[0]) - 1  # bands from the lowest, 0 to 39
    assert abs((39 - loudest) - centre) < 1
