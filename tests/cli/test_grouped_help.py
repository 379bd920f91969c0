"""The options of `--help`, which are compared with what the parser accepts."""

from __future__ import annotations

import re

import pytest
import typer.main

from lepton_automl.cli.app import app
from lepton_automl.cli.examples import EXAMPLES
from lepton_automl.cli.options import Section

GROUP = typer.main.get_command(app)
COMMANDS = [name for name, command in GROUP.commands.items() if not command.hidden]


def sections(text):
    """Title -> options that its rows begin with."""
    found, title = {}, ""
    for line in text.splitlines():
        if re.fullmatch(r"\S.*:", line):
            title = line[:-1]
        elif title and (row := re.match(r"  (?:-h, )?(--[a-z-]+)", line)) is not None:
            found.setdefault(title, []).append(row[1])
    return found


def accepted(name):
    return [o for p in GROUP.commands[name].params for o in p.opts if o.startswith("--")]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_is_in_one_section(lepton, name):
    shown = [option for rows in sections(lepton(name, "--help").out).values() for option in rows]
    assert sorted(shown) == sorted([*accepted(name), "--help"])


def test_options_of_a_run_are_in_sections_with_the_usual_ones_first(lepton):
    found = sections(lepton("run", "--help").out)
    assert list(found) == [str(section) for section in Section]
    assert "--budget" in found["Options"]
    assert max(map(len, found.values())) < 20


def test_few_options_are_in_one_section(lepton):
    assert list(sections(lepton("verify", "--help").out)) == ["Options"]


def test_commands_are_described_in_one_whole_line_each(lepton):
    text = lepton("--help").out.partition("Commands:")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in text.strip().splitlines()] == COMMANDS
    assert "..." not in text


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_command_lines_that_the_parser_accepts(lepton, name):
    lines = lepton(name, "--help").out.splitlines()
    shown = [line.split()[1:] for line in lines if line.startswith("  lepton ")]
    assert [words[0] for words in shown] == [name] * len(EXAMPLES.get(name, ()))
    for words in shown:
        with GROUP.commands[name].make_context(name, words[1:]) as context:
            assert context.params


def test_every_name_with_examples_is_a_command():
    assert set(EXAMPLES) <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_values_and_arguments_have_names_of_their_own(lepton, name):
    text = lepton(name, "--help").out
    assert not re.search(r"<(str|path|int|float|list)", text)
    assert "{" not in text.partition("\n")[0]
