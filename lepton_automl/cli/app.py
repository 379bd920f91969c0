"""The `lepton` command: its subcommands, and exit codes and messages for errors."""

from __future__ import annotations

import errno
import json
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Never, cast

import typer

from lepton_automl.cli.bench import bench
from lepton_automl.cli.compress import compress
from lepton_automl.cli.dashboard import dashboard
from lepton_automl.cli.export import export
from lepton_automl.cli.pick import pick
from lepton_automl.cli.predict import predict
from lepton_automl.cli.run import run
from lepton_automl.cli.search import search
from lepton_automl.cli.spaces import spaces
from lepton_automl.cli.status import status
from lepton_automl.cli.verify import verify
from lepton_automl.core.files import write_error
from lepton_automl.core.version import __version__
from lepton_automl.errors import Interrupted, LeptonError

app = typer.Typer(
    name="lepton",
    help="From labelled data to the smallest, fastest int8 CNN that is still accurate enough.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    run,
    search,
    compress,
    export,
    verify,
    pick,
    status,
    dashboard,
    predict,
    spaces,
    bench,
):
    app.command()(command)


_USAGE_ERROR = cast("tuple[type[Exception], ...]", typer.BadParameter.__bases__)
"""UsageError of click, or of the copy of click in typer."""


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"lepton {__version__}")
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


def main() -> None:
    """Run the command line and turn errors into messages and exit codes."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(standalone_mode=False)
    except LeptonError as error:
        _fail(error)
    except _USAGE_ERROR as error:
        _fail_usage(error)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
            raise
        _fail(write_error(Path(error.filename or "."), error))
    except KeyboardInterrupt:
        code = Interrupted.exit_code
    if code == Interrupted.exit_code:  # typer returns it after Ctrl-C in a command.
        command = shlex.join(["lepton", *sys.argv[1:]])
        _fail(Interrupted("interrupted; finished work is kept", fix=f"continue with: {command}"))
    sys.exit(code)


def _terminate(signal_number: int, frame: object) -> Never:
    """Handle SIGTERM like Ctrl-C: finished work is kept."""
    del signal_number, frame
    raise KeyboardInterrupt


def _fail_usage(error: Any) -> Never:
    """Show the usage on stderr, as typer words it."""
    error.show()
    if "--json" in sys.argv:
        fix = "see `lepton -h` and `lepton COMMAND -h`"
        document = {"error": error.format_message(), "fix": fix, "exit_code": error.exit_code}
        typer.echo(json.dumps(document, indent=2))
    sys.exit(error.exit_code)


def _fail(error: LeptonError) -> Never:
    from lepton_automl.cli import report  # rich is slow to import

    report.show_error(error, json="--json" in sys.argv)
    sys.exit(error.exit_code)
