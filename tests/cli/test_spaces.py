from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from lepton_automl.cli.spaces import spaces
from lepton_automl.cost import cost
from lepton_automl.errors import SpaceError
from lepton_automl.search.space import draw, loader


@pytest.fixture(scope="module")
def ask():
    app = typer.Typer()
    app.command()(spaces)

    def run(*arguments):
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    return run


def test_the_list_names_every_space(ask):
    listed = json.loads(ask("--json"))["spaces"]
    assert [row["name"] for row in listed] == loader.names()
    text = ask()
    assert all(row["name"] in text for row in listed)


def test_one_space_is_shown_with_parameters_size_and_cost(ask):
    about = json.loads(ask("tiny", "--json"))
    found = loader.load("tiny")
    assert about["choices"] == {k: list(v.values) for k, v in found.parameters().items()}
    assert about["points"] == found.points
    for key in ("macs", "size_bytes"):
        assert 0 < about[key]["low"] <= about[key]["median"] <= about[key]["high"]
    first = found.example_arch(draw.RandomTrial(0, found.candidates[0]))
    assert about["candidates"][0]["macs"] == first.graph.macs
    assert about["candidates"][0]["size_bytes"] == cost.static_cost(first, 64).size_bytes


def test_the_text_shows_every_parameter_and_candidate(ask):
    text = ask("tiny")
    found = loader.load("tiny")
    assert all(path in text for path in found.parameters())
    assert all(name in text for name in found.candidate_names)


def test_targets_are_listed_on_request(ask):
    assert {row["name"] for row in json.loads(ask("--targets", "--json"))["targets"]} >= {
        "x86-any",
        "x86-vnni",
    }
    assert "x86-vnni" in ask("--targets")


def test_a_wrong_name_is_an_error_for_the_command_line(ask):
    with pytest.raises(SpaceError, match="did you mean 'tiny'"):
        ask("tinny")


def test_the_command_is_imported_without_torch():
    code = "import sys, lepton_automl.cli.spaces; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
