"""The `lepton` command: its subcommands, and exit codes and messages for errors."""

from __future__ import annotations

import copy
import errno
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Never, cast

import typer
from typer.core import TyperGroup
from typer.models import CommandInfo

from lepton_automl.cli.bench import bench
from lepton_automl.cli.boards import boards
from lepton_automl.cli.cluster import cluster
from lepton_automl.cli.compress import compress
from lepton_automl.cli.dashboard import dashboard
from lepton_automl.cli.data import data
from lepton_automl.cli.export import export
from lepton_automl.cli.grouped_help import GroupedCommand
from lepton_automl.cli.inspect import inspect
from lepton_automl.cli.pick import pick
from lepton_automl.cli.plain_values import PlainValues
from lepton_automl.cli.predict import predict
from lepton_automl.cli.run import run
from lepton_automl.cli.search import search
from lepton_automl.cli.spaces import spaces
from lepton_automl.cli.status import status
from lepton_automl.cli.store import store
from lepton_automl.cli.streams import prepare, write_error, write_json, write_line
from lepton_automl.cli.sweep import sweep
from lepton_automl.cli.verify import verify
from lepton_automl.cli.worker import worker
from lepton_automl.core import scratch
from lepton_automl.core.files import machine_error
from lepton_automl.core.interrupts import interrupted_texts
from lepton_automl.core.version import __version__
from lepton_automl.errors import ConfigError, DataError, Interrupted, LeptonError, MachineError


class Lepton(PlainValues, TyperGroup):
    """The command that the others are part of."""


app = typer.Typer(
    cls=Lepton,
    name="lepton",
    help="From labelled data to the smallest, fastest int8 CNN that is still accurate enough.",
    epilog="First run: lepton run digits --budget 3m. Options and examples: lepton COMMAND --help.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for command in (
    data,
    run,
    search,
    compress,
    export,
    verify,
    pick,
    sweep,
    cluster,
    status,
    store,
    dashboard,
    predict,
    inspect,
    spaces,
    boards,
    bench,
):
    app.command(cls=GroupedCommand)(command)
app.command(hidden=True)(worker)


_USAGE_ERROR = cast("tuple[type[Exception], ...]", typer.BadParameter.__bases__)
"""UsageError of click, or of the copy of click in typer."""


def _show_version(asked: bool) -> None:
    if asked:
        write_line(f"lepton {__version__}")
        raise typer.Exit


@app.callback()
def lepton(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """From labelled data to the smallest, fastest int8 CNN that is still accurate enough."""
    del version
    try:
        Path.cwd()
    except FileNotFoundError:
        # MKL, which torch loads, would end the process with a message of its own.
        raise MachineError(
            "the current folder no longer exists", fix="change into another one (cd), then go on"
        ) from None
    scratch.remove_abandoned()


def main() -> None:
    """Run the command line and turn errors into messages and exit codes."""
    prepare()
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        _check_not_empty(sys.argv[1:])
        code = app_of(sys.argv[1:])(standalone_mode=False)
    except LeptonError as error:
        code = _show_error(error)
    except _USAGE_ERROR as error:
        code = _show_usage_error(error)
    except (OSError, MemoryError, ImportError) as error:
        if (found := machine_error(error) or _path_error(error)) is None:
            raise
        code = _show_error(found)
    except KeyboardInterrupt:
        code = Interrupted.exit_code
    if code == Interrupted.exit_code:  # typer returns it after Ctrl-C in a command.
        what, fix = interrupted_texts()
        code = _show_error(Interrupted(what, fix=fix))
    _exit(code)


def _check_not_empty(arguments: list[str]) -> None:
    """Refuse an empty argument: as a path it would be the current folder.

    Raises
    ------
    ConfigError
        If there is one.
    """
    for place, each in enumerate(arguments):
        option, sign, value = each.partition("=")
        if each and not (option.startswith("--") and sign and not value):
            continue
        before = f" after {arguments[place - 1]}" if place and not each else ""
        what = f"argument {place + 1}{before} is empty" if not each else f"{option} is empty"
        raise ConfigError(
            f"{what}, the rule is a value or no such argument",
            fix="give a value; a shell variable that is not set leaves an empty one",
        )


def app_of(arguments: list[str]) -> typer.Typer:
    """The app with the command alone that is given: building all of them takes longer than it."""
    named = [each for each in app.registered_commands if _name_of(each) in arguments[:1]]
    found = copy.copy(app)
    found.registered_commands = named or app.registered_commands
    return found


def _name_of(command: CommandInfo) -> str:
    return str(command.name or getattr(command.callback, "__name__", ""))


def _path_error(error: BaseException) -> DataError | None:
    """The error of a path that is longer than the file system allows; None for any other."""
    if not isinstance(error, OSError) or error.errno != errno.ENAMETOOLONG:
        return None
    return DataError(f"{error.filename}: {error.strerror}", fix="give a shorter path")


def _terminate(signal_number: int, frame: object) -> Never:
    """Handle SIGTERM like Ctrl-C: finished work is kept."""
    del signal_number, frame
    raise KeyboardInterrupt


def _show_usage_error(error: Any) -> int:
    """Show the usage on stderr, as typer words it."""
    error.show()
    code: int = error.exit_code
    if "--json" in sys.argv:
        fix = "see `lepton -h` and `lepton COMMAND -h`"
        document = {"error": error.format_message(), "fix": fix, "exit_code": code}
        try:
            write_json(document)
        except MachineError as failed:
            return _show_error(failed)
    return code


def _show_error(error: LeptonError) -> int:
    """Print an error and give its exit code, or that of the error of standard output."""
    shown = error
    if "--json" in sys.argv:
        try:
            write_json(error.document())
        except MachineError as failed:
            shown = failed
    try:
        from lepton_automl.cli import report  # rich is slow to import

        report.show_error(shown)
    except (OSError, MemoryError, ImportError):  # The machine lacks something for rich too.
        write_error(shown)
    return shown.exit_code


def _exit(code: int | None) -> Never:
    """End with `code`, or with that of an error where the output cannot be written."""
    try:
        sys.stdout.flush()
    except MachineError as error:
        code = _show_error(error)
    sys.exit(code)
