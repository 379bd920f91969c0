"""The table of a sweep: a row a run, written whole as JSON, Markdown and CSV after each of them."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lepton_automl.core import files, untrusted_files
from lepton_automl.core.field_types import check_types, with_tuples
from lepton_automl.core.units import accuracy_text, accuracy_title, duration, time_text
from lepton_automl.errors import ConfigError, InfeasibleError, VerdictError, first_line
from lepton_automl.runs.lock import is_held
from lepton_automl.text import Markdown, markdown

TABLE_FILE = "table.json"
"""Its presence makes a folder that of a sweep."""
_FORMAT = 1
_FINAL = {0, VerdictError.exit_code, InfeasibleError.exit_code}
"""Exit codes of runs that would end with the same one again."""

State = Literal["waiting", "working", "done", "failed"]


@dataclass(frozen=True)
class SweepRow:
    """One run of a sweep and its result."""

    name: str
    """Name of its run folder in that of the sweep."""
    options: Mapping[str, int | float | str | bool]
    """Options of `lepton run`, without `--`, and `data`."""
    exit_code: int | None = None
    """That of `lepton run`, or minus the number of the signal that killed it; None: not ended."""
    error: str = ""
    """Why there is no verdict, or it does not hold; empty where it holds."""
    verdict: str | None = None
    """`holds`, `broken` or `undecided`; None without a verdict."""
    primary: str | None = None
    """The file that ships, `int8` or `float`; all figures are of that file."""
    accuracy: float | None = None
    """On the test part, 0 to 1; balanced accuracy where the verdict is `balanced`."""
    accuracy_interval: tuple[float, float] | None = None
    """95 %."""
    balanced: bool = False
    n_samples: int | None = None
    size_bytes: int | None = None
    latency_ms: float | None = None
    latency_ratio: float | None = None
    """Latency relative to the reference net in the same rounds (`cost.latency.Latency`)."""
    latency_ratio_interval: tuple[float, float] | None = None
    """95 %, over the rounds."""
    file: str | None = None
    """Path of the file that ships, in the folder of the sweep."""
    sha256: str | None = None
    seconds: float = 0.0
    """Wall-clock time that commands have worked on the run."""
    cpu_seconds: float = 0.0
    """Processor time of the last command, with its workers."""

    @property
    def is_final(self) -> bool:
        """Whether the run need not be started again with the same options."""
        return self.exit_code in _FINAL

    def state(self, out: Path) -> State:
        """`waiting`, `working`, `done` (with a verdict) or `failed`."""
        if self.exit_code is not None:
            return "failed" if self.verdict is None else "done"
        return "working" if is_held(out / self.name) else "waiting"


@dataclass(frozen=True)
class SweepResult:
    """The table of a sweep."""

    out: Path
    """Folder of the sweep; the run folders lie in it."""
    varied: tuple[str, ...]
    """Options in which the runs differ."""
    rows: tuple[SweepRow, ...]

    @property
    def exit_code(self) -> int:
        """0 if every run has a verdict that holds, else 6."""
        return 0 if all(row.exit_code == 0 for row in self.rows) else VerdictError.exit_code


def write_table(result: SweepResult) -> None:
    """Write `table.json`, `table.md` and `table.csv`, each whole or not at all.

    Raises
    ------
    MachineError, ConfigError
        As `core.files.write`.
    """
    rows = [dataclasses.asdict(row) for row in result.rows]
    document = {"format": _FORMAT, "varied": list(result.varied), "rows": rows}
    files.write_json(result.out / TABLE_FILE, document)
    files.write(result.out / "table.md", _markdown(result))
    files.write(result.out / "table.csv", _csv(result))


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (folder / TABLE_FILE).is_file() and not (folder / "run.toml").exists()


def read_table(out: Path) -> SweepResult:
    """Read the table of the sweep in `out`, also while it works.

    Raises
    ------
    ConfigError
        If it cannot be read.
    """
    path = out / TABLE_FILE
    fix = "give another folder with --out; the run folders in this one can be read one by one"
    document = untrusted_files.read_json(path, fix=fix, top=dict, error=ConfigError)
    try:
        if document["format"] != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT}")
        rows = tuple(SweepRow(**with_tuples(row)) for row in document["rows"])
        varied = tuple(str(name) for name in document["varied"])
        for row in rows:
            check_types(row)
            if Path(row.name).name != row.name or row.name in ("", ".", ".."):
                raise ValueError(f"{row.name!r} is not a name of a folder")
        return SweepResult(out, varied, rows)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{path} is not a table of a sweep: {first_line(error)}"
        raise ConfigError(what, fix=fix) from error


def known_rows(out: Path) -> dict[str, SweepRow]:
    """Rows by name of an earlier call with this folder; none in a new one.

    Raises
    ------
    ConfigError
        If the folder holds a run or other files, or its table cannot be read.
    """
    if (out / TABLE_FILE).is_file():
        return {row.name: row for row in read_table(out).rows}
    try:
        others = sorted(path.name for path in out.iterdir() if path.name != "ledger.lock")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise files.write_error(out, error) from error
    if others:
        raise ConfigError(
            f"{out} holds other files than those of a sweep, such as {others[0]}",
            fix="give another folder with --out",
        )
    return {}


def heads(result: SweepResult) -> tuple[str, ...]:
    """Heads of the columns of `cells`."""
    kinds = {row.balanced for row in result.rows if row.verdict is not None}
    accuracy = accuracy_title(is_balanced=kinds == {True})
    return (
        *(result.varied or ("data",)),
        f"{accuracy} [95 %]",
        "bytes",
        "latency ratio",
        "verdict",
    )


def cells(result: SweepResult, row: SweepRow) -> tuple[str, ...]:
    """Cells of a row as text: what varies, figures of the file that ships, verdict or state."""
    about = [str(row.options.get(name, "")) for name in result.varied or ("data",)]
    figures = ("", "", "")
    if row.accuracy is not None and row.accuracy_interval is not None:
        accuracy = accuracy_text(row.accuracy, row.accuracy_interval)
        figures = (accuracy, str(row.size_bytes), _ratio_text(row))
    return (*about, *figures, row.verdict or row.state(result.out))


def _ratio_text(row: SweepRow) -> str:
    if row.latency_ratio is None or row.latency_ratio_interval is None:
        return ""
    low, high = row.latency_ratio_interval
    return f"{row.latency_ratio:.3g} [{low:.3g}, {high:.3g}]"


def _markdown(result: SweepResult) -> str:
    titles = (*heads(result), "latency", "samples", "time", "sha256", "error")
    lines = [_line(titles), Markdown("|" + "---|" * len(titles))]
    lines += [_line((*cells(result, row), *_more_cells(row))) for row in result.rows]
    note = (
        "Figures are of the file that ships, on the test part of its run. Latency is that of one "
        "sample on one thread; its ratio is to lepton's reference net in the same rounds."
    )
    return "\n".join([*lines, "", note, ""])


def _more_cells(row: SweepRow) -> tuple[str, ...]:
    if row.latency_ms is None:
        return ("", "", "", "", row.error)
    figures = (time_text(row.latency_ms), str(row.n_samples), duration(row.seconds))
    return (*figures, row.sha256 or "", row.error)


def _line(cells: Sequence[str]) -> Markdown:
    return Markdown("| " + " | ".join(map(markdown, cells)) + " |")


def _csv(result: SweepResult) -> str:
    """A column an option and a figure, in plain numbers."""
    names = list(dict.fromkeys(name for row in result.rows for name in row.options))
    fields = [item.name for item in dataclasses.fields(SweepRow) if item.name != "options"]
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow([*names, *map(_column, fields)])
    for row in result.rows:
        values = [getattr(row, name) for name in fields]
        writer.writerow([*(row.options.get(name, "") for name in names), *map(_plain, values)])
    return output.getvalue()


def _column(name: str) -> str:
    return "run" if name == "name" else name


def _plain(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value
