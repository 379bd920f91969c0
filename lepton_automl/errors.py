"""Errors that a user can correct, and the exit code of each.

LeptonError              base: what is wrong (with the value and the rule) and how to fix it
├── DataError        3   the data cannot be used
│   └── ArtifactError 3  a file of an artifact is not what was written
├── ConfigError      4   an option or a run definition is wrong
│   └── SpaceError   4   a search-space file is wrong
├── ArchError        4   a layer or an architecture is wrong
├── InfeasibleError  5   no net meets the limits
├── VerdictError     6   a limit or parity does not hold; the best artifact is there
├── MachineError     7   the machine lacks what is needed (space, packages, rights)
└── Interrupted    130   Ctrl-C or SIGTERM; `fix` is the command that resumes
"""

from __future__ import annotations

from typing import Any

from lepton_automl.text import printable, printable_lines


class LeptonError(Exception):
    """Base class of all errors that a user can correct.

    Parameters
    ----------
    what : str
        What is wrong, with the value and the rule that it breaks.
    fix : str
        How to correct it; there is no default, so that no error comes without one.
    """

    exit_code = 1

    def __init__(self, what: str, *, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{printable(self.what)}\n  fix: {printable_lines(self.fix)}"

    def document(self) -> dict[str, Any]:
        """The JSON object of a command that failed: `error`, `fix`, `exit_code`."""
        return {"error": self.what, "fix": self.fix, "exit_code": self.exit_code}

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default protocol between processes.
        return (_rebuild, (type(self), self.what, self.fix))


def _rebuild(kind: type[LeptonError], what: str, fix: str) -> LeptonError:
    return kind(what, fix=fix)


class DataError(LeptonError):
    """The data cannot be used as they are."""

    exit_code = 3


class ArtifactError(DataError):
    """A file of an artifact is missing, changed or malformed."""


class ConfigError(LeptonError):
    """An option, a limit or the definition of a run is wrong."""

    exit_code = 4


class SpaceError(ConfigError):
    """A search-space file is wrong."""


class ArchError(LeptonError):
    """A layer or an architecture is wrong."""

    exit_code = 4


class InfeasibleError(LeptonError):
    """No net of the space can meet the limits."""

    exit_code = 5


class VerdictError(LeptonError):
    """A stated limit is broken or undecided, or parity is not met."""

    exit_code = 6


class MachineError(LeptonError):
    """The machine lacks something: disk space, a package, the right to write."""

    exit_code = 7


class Interrupted(LeptonError):
    """The user stopped the command; finished work is kept."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """First line of the message of an error, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
