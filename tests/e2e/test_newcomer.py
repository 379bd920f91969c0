"""CONTRIBUTING as a newcomer follows it: each plug-in is one file and one test, nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from sklearn.datasets import load_digits

from tests.helpers.crash import SHORT
from tests.helpers.processes import LONGEST_SECONDS

ROOT = Path(__file__).parents[2]
COPIED = ("lepton_automl", "tests", "search_spaces", "examples", "benchmarks")
MINE = "search_spaces/mine.toml"
RULES = "tests/test_project.py::test_the_rules_of_the_project_hold"
OBJECTIVE = "my_package/energy_mj.py"
"""Objectives have no folder: they are added by an entry point."""
OBJECTIVES = "accuracy,energy_mj"
SAMPLER = "near_best:NearBest"
SLOW = pytest.mark.slow  # A second pytest; the runs below use every plug-in.


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
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST_SECONDS,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project with the files of CONTRIBUTING's examples, and nothing else changed."""
    folder = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name)  # With what is compiled already.
    for file in (*ROOT.glob("*.md"), ROOT / "pyproject.toml"):
        shutil.copy(file, folder)
    for name, content in recipes().items():
        assert not (folder / name).exists()
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    install(folder, "my_package", [OBJECTIVE])
    return folder


def install(site: Path, package: str, names: list[str]) -> None:
    """Entry points of a package in the folder `site`, as pip would write them."""
    about = site / f"{package}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    points = ""
    for name in names:
        if Path(name).stem == SAMPLER.partition(":")[0]:  # It is named by its module.
            continue
        kind = "objectives" if name == OBJECTIVE else Path(name).parent.name
        points += f"[lepton_automl.{kind}]\n{Path(name).stem} = {package}.{Path(name).stem}\n"
    (about / "entry_points.txt").write_text(points)


@pytest.fixture(scope="module")
def tested(copy):
    """How many tests passed in a file of the copy: those of, or about, the new files."""
    names = [name for name in recipes() if name.startswith("tests/")]
    chosen = (
        "-k",
        "ghost or pixel_table or onnx_gz or energy_mj or json_lines or near_best or "
        "rules_of_the_project",
    )
    done = python(
        *("-m", "pytest", "-v", *chosen, *names, RULES, "tests/contracts"), folder=copy, path=copy
    )
    assert done.returncode == 0, done.stdout + done.stderr

    def passed(name: str) -> int:
        lines = done.stdout.splitlines()
        return sum(line.startswith(name) and " PASSED " in line for line in lines)

    return passed


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The same plug-ins as another package with entry points."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "newcomer").mkdir()
    plug_ins = [name for name in recipes() if name.startswith(("lepton_automl/", "my_package/"))]
    for name in plug_ins:
        (folder / "newcomer" / Path(name).name).write_text(recipes()[name])
    install(folder, "newcomer", plug_ins)
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
    path = tmp_path_factory.mktemp("data") / "digits.pixels"
    path.write_text("\n".join(lines) + "\n")
    return path


def lepton(verb: str, table: Path, space: str, folder: Path, path: Path, package: str) -> Path:
    """A run, or only its search, in two trials, with modules of `folder`; the run folder."""
    out, program = folder / "run", f"import sys; sys.path.insert(0, {str(folder)!r}); {SHORT}"
    done = python(
        *("-c", program, verb, str(table), "--out", str(out), "--space", space),
        *("--trials", "2", "--jobs", "1", "--objective", OBJECTIVES, "--callback", "json_lines"),
        *("--sampler", f"{package}.{SAMPLER}"),
        *("--quiet", "--json", *(("--format", "onnx_gz") if verb == "run" else ())),
        folder=folder,
        path=path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)
    return out


def results(out: Path) -> list[int]:
    """Trials of the results that the callback wrote."""
    lines = (out / "results.jsonl").read_text().splitlines()
    return sorted({json.loads(line)["trial"] for line in lines})


def test_each_plug_in_is_one_file_and_one_test_and_a_space_is_one_file():
    assert sorted(recipes()) == [
        "lepton_automl/data/sources/pixel_table.py",
        "lepton_automl/models/formats/onnx_gz.py",
        "lepton_automl/models/layers/ghost.py",
        "lepton_automl/search/callbacks/json_lines.py",
        "my_package/energy_mj.py",
        "my_package/near_best.py",
        "search_spaces/mine.toml",
        "tests/data/test_source_pixel_table.py",
        "tests/models/test_format_onnx_gz.py",
        "tests/models/test_layer_ghost.py",
        "tests/search/test_callback_json_lines.py",
        "tests/search/test_objective_energy_mj.py",
        "tests/search/test_sampler_near_best.py",
    ]


@SLOW
def test_the_new_files_pass_their_own_tests(tested):
    assert tested("tests/models/test_layer_ghost.py") == 1
    assert tested("tests/models/test_format_onnx_gz.py") == 1
    assert tested("tests/data/test_source_pixel_table.py") == 4
    assert tested("tests/search/test_callback_json_lines.py") == 1
    assert tested("tests/search/test_objective_energy_mj.py") == 1
    assert tested("tests/search/test_sampler_near_best.py") == 1


@SLOW
def test_the_contracts_cover_the_new_plug_ins_at_once(tested):
    assert tested("tests/contracts/test_layers.py") >= 10
    assert tested("tests/contracts/test_parity.py") >= 1
    assert tested("tests/contracts/test_sources.py") == 5
    assert tested("tests/contracts/test_objectives.py") == 1
    assert tested("tests/contracts/test_formats.py") >= 15


@SLOW
def test_the_rules_of_the_project_still_hold(tested):
    assert tested(RULES) == 1


def test_the_new_files_pass_the_linter(copy):
    names = [name for name in recipes() if name.endswith(".py")]
    for command in (["check"], ["format", "--check"]):
        done = python("-m", "ruff", *command, "--no-cache", *names, folder=copy, path=copy)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_with_the_new_plug_ins_ships_the_new_layer(copy, table):
    out = lepton("run", table, "mine", copy, copy, "my_package")
    assert '"type":"ghost"' in (out / "models" / "best" / "arch.json").read_text()
    assert (out / "artifact" / "model.int8.onnx").is_file()
    assert (out / "artifact" / "model.int8.onnx.gz").is_file()
    assert results(out) == [0, 1]


def test_the_same_files_work_from_another_package(package, table):
    out = lepton("search", table, "mine.toml", package, ROOT, "newcomer")
    assert '"type":"ghost"' in (out / "models" / "best" / "arch.json").read_text()
    definition = tomllib.loads((out / "run.toml").read_text())
    assert definition["objectives"] == ["accuracy", "energy_mj"]
    assert definition["sampler"] == "newcomer.near_best:NearBest"
    assert results(out) == [0, 1]
