"""The `lepton` command: its subcommands, and exit codes and messages for errors."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
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
from lepton_automl.core.files import machine_error
from lepton_automl.core.interrupts import interrupted_texts
from lepton_automl.core.version import __version__
from lepton_automl.errors import Interrupted, LeptonError, MachineError

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
    _open_standard_streams()
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        code = _run_command()
    except LeptonError as error:
        _fail(error)
    except _USAGE_ERROR as error:
        _fail_usage(error)
    except (OSError, MemoryError, ImportError) as error:
        code = _fail_machine(error)
    except KeyboardInterrupt:
        code = Interrupted.exit_code
    if code == Interrupted.exit_code:  # typer returns it after Ctrl-C in a command.
        what, fix = interrupted_texts()
        _fail(Interrupted(what, fix=fix))
    _exit(code)


def _run_command() -> Any:
    try:
        return app(standalone_mode=False)
    except SystemExit as ended:  # click ends so where a pipe is closed.
        if isinstance(ended.__context__, BrokenPipeError):
            raise ended.__context__ from None
        raise


def _fail_machine(error: OSError | MemoryError | ImportError) -> int:
    """Show an error that the machine causes; raise any other."""
    if isinstance(error, BrokenPipeError):
        _discard(sys.stdout)  # The reader of the output has seen enough.
        return 0
    try:
        sys.stdout.flush()
    except OSError as output:
        _discard(sys.stdout)
        return _fail_output(output)
    if (found := machine_error(error)) is None:
        raise error
    return _fail(found)


def _open_standard_streams() -> None:
    """Open /dev/null in the place of closed streams, before a file of the run gets their number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest free number is the closed one.
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _discard(stream: Any) -> None:
    """Send the rest of a stream that cannot be written to /dev/null: it is flushed at the end."""
    with contextlib.suppress(OSError, ValueError):
        number, target = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(target, number)
        os.close(target)


def _exit(code: int | None) -> Never:
    """End with `code`, or with that of an error where the output cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            _discard(stream)
        except OSError as error:
            _discard(stream)
            if stream is sys.stdout:
                code = _fail_output(error)
    sys.exit(code)


def _fail_output(error: OSError) -> int:
    failed = MachineError(
        f"standard output cannot be written: {error.strerror}",
        fix="free some space or send the output elsewhere, then run the same command",
    )
    with contextlib.suppress(OSError):
        sys.stderr.write(f"error: {failed.what}\nfix: {failed.fix}\n")
    return failed.exit_code


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
    _exit(error.exit_code)


def _fail(error: LeptonError) -> Never:
    from lepton_automl.cli import report  # rich is slow to import

    try:
        report.show_error(error, json="--json" in sys.argv)
    except OSError as failed:
        _discard(sys.stdout)
        _exit(_fail_output(failed))
    except MachineError as failed:
        _discard(sys.stdout)
        with contextlib.suppress(OSError):
            sys.stderr.write(f"error: {failed.what}\nfix: {failed.fix}\n")
        _exit(failed.exit_code)
    _exit(error.exit_code)
