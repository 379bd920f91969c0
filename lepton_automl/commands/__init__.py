"""The command line: one file a verb; parse, call the function of the same name, show."""

from __future__ import annotations

import shlex
import signal
import sys
from typing import Annotated, Never

import typer

from lepton_automl import __version__
from lepton_automl.commands.compress import compress
from lepton_automl.commands.export import export
from lepton_automl.commands.predict import predict
from lepton_automl.commands.run import run
from lepton_automl.commands.search import search
from lepton_automl.commands.spaces import spaces
from lepton_automl.commands.status import status
from lepton_automl.commands.verify import verify
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
for command in (run, search, compress, export, verify, status, predict, spaces):
    app.command()(command)


@app.callback()
def lepton(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """From labelled data to the smallest, fastest int8 CNN that is still accurate enough."""
    if version:
        typer.echo(f"lepton {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; the only place where errors become messages and exit codes."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except LeptonError as error:
        _fail(error)
    except KeyboardInterrupt:
        words = shlex.join(["lepton", *sys.argv[1:]])
        _fail(Interrupted("interrupted; what was finished is kept", fix=f"go on with: {words}"))


def _terminate(signal_number: int, frame: object) -> Never:
    """SIGTERM ends like Ctrl-C: what is finished is kept."""
    del signal_number, frame
    raise KeyboardInterrupt


def _fail(error: LeptonError) -> Never:
    from lepton_automl import report  # rich is slow to import

    report.show_error(error, json="--json" in sys.argv)
    sys.exit(error.exit_code)
