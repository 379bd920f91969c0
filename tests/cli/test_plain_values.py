"""Values of the command line that are read without pydantic, against typer's own reading."""

from __future__ import annotations

import subprocess
import sys
from typing import Literal, get_args, get_origin

import pytest
import typer
from typer.core import TyperCommand

from lepton_automl.cli.app import app

COMMAND = typer.main.get_command(app)
CONTEXT = typer.Context(COMMAND, info_name="lepton")
TEXTS = ["runs/a b", "-", "", "3", "0.5", "nan", "true", "auto", "\u00fc", "\udcff", "x" * 300]
IS_READ_BY_TYPER = hasattr(COMMAND.get_params(CONTEXT)[0], "get_runtime_param")


def coerced(parameter, value, ctx):
    try:
        return parameter.get_runtime_param().coerce(value, param=parameter, ctx=ctx)
    except Exception as error:  # noqa: BLE001  Of the copy of click inside typer.
        return type(error).__name__, str(error)


@pytest.mark.skipif(not IS_READ_BY_TYPER, reason="this typer reads values without pydantic")
@pytest.mark.parametrize("name", COMMAND.commands)
def test_values_are_those_of_typer(name):
    command = COMMAND.commands[name]
    ctx = typer.Context(command, info_name=name)
    ours, typers = command.get_params(ctx), TyperCommand.get_params(command, ctx)
    for number, parameter in enumerate(ours):
        annotation = parameter.type_descriptor.annotation
        choices = get_args(annotation) if get_origin(annotation) is Literal else ()
        values = [None, parameter.default, *TEXTS, *choices]
        if parameter.multiple or parameter.nargs == -1:
            values = [None, (), *((text,) for text in TEXTS), tuple(TEXTS)]
        found = [repr(coerced(parameter, value, ctx)) for value in values]
        vars(parameter).pop("get_runtime_param", None)
        expected = [repr(coerced(typers[number], value, ctx)) for value in values]
        assert found == expected, parameter.name


def test_a_command_with_texts_and_paths_does_not_load_pydantic(tmp_path):
    program = (
        "import sys\nfrom lepton_automl.cli.app import main\n"
        "try:\n    main()\nfinally:\n    print('pydantic' in sys.modules)"
    )
    words = ["predict", str(tmp_path / "missing"), "a.png", "--format", "c", "--rows", "csv"]
    ended = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 3, ended.stderr
    assert ended.stdout.split() == ["False"]
