"""The wheel holds all that the package needs, search spaces and target presets included."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lepton_automl

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with what the wheel holds, away from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_every_module_and_every_shipped_table_is_inside(site):
    inside = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    here = [
        p for p in (ROOT / "lepton_automl").rglob("*") if p.suffix in {".py", ".toml", ".typed"}
    ]
    spaces = [f"lepton_automl/search_spaces/{p.name}" for p in ROOT.glob("search_spaces/*.toml")]
    wanted = {str(path.relative_to(ROOT)) for path in here} | set(spaces)
    assert spaces
    assert not wanted - inside


def test_nothing_but_the_package_is_inside(site):
    version = lepton_automl.__version__
    assert {path.name for path in site.iterdir()} == {
        "lepton_automl",
        f"lepton_automl-{version}.dist-info",
    }


def test_the_wheels_own_command_lists_the_shipped_spaces(site, tmp_path):
    program = (
        "import sys, lepton_automl\n"
        "from lepton_automl.cli.app import main\n"
        "print(lepton_automl.__file__, file=sys.stderr)\n"
        "sys.argv = ['lepton', 'spaces', '--json']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.startswith(str(site))
    listed = {space["name"] for space in json.loads(done.stdout)["spaces"]}
    assert listed == {path.stem for path in ROOT.glob("search_spaces/*.toml")}
