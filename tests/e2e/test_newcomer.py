"""CONTRIBUTING as a newcomer follows it: each plug-in is one file and one test, nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[2]
COPIED = ("lepton_automl", "tests", "search_spaces", "examples", "benchmarks")
MINE = "search_spaces/mine.toml"
HOUSE = "tests/test_project.py::test_the_rules_of_the_project_hold"


def recipes() -> dict[str, str]:
    """Path -> content of every file that a section of CONTRIBUTING tells to write."""
    found = {}
    for section in re.split(r"^### ", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.M)[1:]:
        heading, body = section.split("\n", 1)
        blocks = re.findall(r"^```(?:python|toml)\n(.*?)^```$", body, re.M | re.S)
        if blocks:
            found |= zip(re.findall(r"`(\S+/\S+)`", heading), blocks, strict=True)
    return found


def python(*arguments: str, folder: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """Run python in `folder`; what is in `path` comes before what is installed."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project with the files of CONTRIBUTING's examples, and nothing else changed."""
    folder = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (*ROOT.glob("*.md"), ROOT / "pyproject.toml"):
        shutil.copy(file, folder)
    for name, content in recipes().items():
        assert not (folder / name).exists()
        (folder / name).write_text(content)
    return folder


@pytest.fixture(scope="module")
def tested(copy):
    """How many tests passed in a file of the copy: those of, or about, the new files."""
    names = [name for name in recipes() if name.startswith("tests/")]
    chosen = ("-k", "ghost or pixel_table or rules_of_the_project")
    done = python(
        *("-m", "pytest", "-v", *chosen, *names, HOUSE, "tests/contracts"), folder=copy, path=copy
    )
    assert done.returncode == 0, done.stdout + done.stderr

    def passed(name: str) -> int:
        lines = done.stdout.splitlines()
        return sum(line.startswith(name) and " PASSED " in line for line in lines)

    return passed


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The same layer and source as another package with entry points, as pip would install it."""
    folder = tmp_path_factory.mktemp("site")
    about = folder / "newcomer-1.0.dist-info"
    (folder / "newcomer").mkdir()
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: newcomer\nVersion: 1.0\n")
    points = ""
    for name, content in recipes().items():
        tree, registry = Path(name).parts[0], Path(name).parent.name
        if tree == "lepton_automl":
            (folder / "newcomer" / Path(name).name).write_text(content)
            points += (
                f"[lepton_automl.{registry}]\n{Path(name).stem} = newcomer.{Path(name).stem}\n"
            )
    (about / "entry_points.txt").write_text(points)
    (folder / "mine.toml").write_text(recipes()[MINE])
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Three hundred digits of three classes, in the newcomer's own format."""
    digits = load_digits(n_class=3)
    lines = [
        ",".join(map(str, [label, *(row * 15).astype(int)]))
        for row, label in zip(digits.data[:300], digits.target[:300], strict=True)
    ]
    path = tmp_path_factory.mktemp("data") / "digits.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def lepton(verb: str, table: Path, space: str, folder: Path, path: Path) -> Path:
    """A run, or only its search, in two trials; the run folder."""
    out = folder / "run"
    done = python(
        *("-m", "lepton_automl", verb, str(table), "--out", str(out), "--space", space),
        *("--trials", "2", "--jobs", "1", "--objective", "accuracy,size_bytes"),
        *("--quiet", "--json"),
        folder=folder,
        path=path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)
    return out


def test_each_plug_in_is_one_file_and_one_test_and_a_space_is_one_file():
    assert sorted(recipes()) == [
        "lepton_automl/data/sources/pixel_table.py",
        "lepton_automl/models/layers/ghost.py",
        "search_spaces/mine.toml",
        "tests/data/test_source_pixel_table.py",
        "tests/models/test_layer_ghost.py",
    ]


def test_the_new_files_pass_their_own_tests(tested):
    assert tested("tests/models/test_layer_ghost.py") == 1
    assert tested("tests/data/test_source_pixel_table.py") == 4


def test_the_contracts_cover_the_new_layer_and_source_at_once(tested):
    assert tested("tests/contracts/test_layers.py") >= 10
    assert tested("tests/contracts/test_parity.py") >= 1
    assert tested("tests/contracts/test_sources.py") == 5


def test_the_house_stays_in_order(tested):
    assert tested(HOUSE) == 1


def test_the_new_files_pass_the_linter(copy):
    names = [name for name in recipes() if name.endswith(".py")]
    for command in (["check"], ["format", "--check"]):
        done = python("-m", "ruff", *command, "--no-cache", *names, folder=copy, path=copy)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_on_the_new_source_and_space_ships_the_new_layer(copy, table):
    out = lepton("run", table, "mine", copy, copy)
    assert '"type":"ghost"' in (out / "models" / "best" / "arch.json").read_text()
    assert (out / "artifact" / "model.int8.onnx").is_file()


def test_the_same_files_work_from_another_package(package, table):
    path = Path(f"{package}{os.pathsep}{ROOT}")
    out = lepton("search", table, "mine.toml", package, path)
    assert '"type":"ghost"' in (out / "models" / "best" / "arch.json").read_text()
