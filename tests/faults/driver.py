"""Runs kinds of faults for a given time and keeps every case that shows a fault of the product.

A kind is an object with a `name` and a method `run`; its module lists it in `KINDS`. To add one,
name its module in `MODULES`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import random
import re
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

MODULES = (
    *("kills", "io_faults", "power_loss", "clock", "truncation", "users", "mutants", "hosts"),
    *("host_runs", "dask_cluster", "stores", "late", "single_bytes"),
)
"""Modules or packages of `tests.faults` that have `KINDS`; one that is missing is left out."""
DEFAULT_SECONDS = 3600.0
FINDINGS_FOLDER = Path(".faults")


@dataclass
class Summary:
    """What one kind did."""

    cases: int = 0
    notes: dict[str, object] = field(default_factory=dict)
    """Figures worth printing: name -> value."""


class Findings:
    """Keeps cases that show a fault, one for each different outcome of a kind.

    Parameters
    ----------
    root : Path
        Folder in which each finding has a folder of its own; made when the first one is saved.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.saved: dict[str, list[Path]] = {}
        """Kind -> folders of its findings, one each outcome."""
        self.repeats: dict[str, int] = {}
        """Kind -> how many cases ended as one that was saved before."""

    def save(self, kind: str, case: bytes | Path | None, seed: object, what: str) -> bool:
        """Keep a case, unless one of this kind with the same outcome was kept.

        Parameters
        ----------
        kind : str
            Name of the kind.
        case : bytes, Path or None
            The input that shows the fault: content of a file, or a file or folder to copy whole.
        seed : object
            What repeats the case: a seed, or a command line.
        what : str
            The outcome. Its first line says whether it is a new one, without numbers and paths.

        Returns
        -------
        bool
            Whether the outcome is new.
        """
        first_line = (what.splitlines() or [""])[0]
        digest = hashlib.sha256(outcome_of(first_line).encode()).hexdigest()[:12]
        folder = self.root / f"{kind}-{digest}"
        if folder in self.saved.setdefault(kind, []):
            self.repeats[kind] = self.repeats.get(kind, 0) + 1
            return False
        self.saved[kind].append(folder)
        shutil.rmtree(folder, ignore_errors=True)  # Of an earlier invocation.
        folder.mkdir(parents=True)
        if isinstance(case, bytes):
            (folder / "case").write_bytes(case)
        elif case is not None and case.is_dir():
            shutil.copytree(case, folder / "case", symlinks=True)
        elif case is not None and case.exists():
            shutil.copy2(case, folder / f"case{case.suffix}")
        document = {"kind": kind, "seed": str(seed), "what": what}
        (folder / "finding.json").write_text(json.dumps(document, indent=2) + "\n")
        sys.stderr.write(f"{kind}: {first_line} (seed {seed}, {folder})\n")
        return True


def outcome_of(what: str) -> str:
    """An outcome without what differs between equal ones: paths, hexadecimal digests, numbers."""
    text = re.sub(r"(/[^\s:,'\"]+)+", "PATH", what)
    text = re.sub(r"\b[0-9a-f]{8,}\b", "HEX", text)
    return re.sub(r"\d+(\.\d+)?", "N", text)


class Kind(Protocol):
    """One kind of fault.

    `run` tries cases until `seconds` have passed or there are none left, passes each that shows a
    fault of the product to `findings`, and takes all its random choices from `rng`.
    """

    name: str

    def run(self, rng: random.Random, seconds: float, findings: Findings) -> Summary: ...


def kinds() -> dict[str, Kind]:
    """Every kind by its name."""
    found: dict[str, Kind] = {}
    for name in MODULES:
        if importlib.util.find_spec(f"tests.faults.{name}") is not None:
            module = importlib.import_module(f"tests.faults.{name}")
            found |= {kind.name: kind for kind in getattr(module, "KINDS", ())}
    return found


def run_kinds(
    chosen: Iterable[Kind], *, seconds: float, seed: int, findings: Findings
) -> list[tuple[str, Summary, float]]:
    """Run kinds one after the other, each for an equal share of the time that is left.

    Returns
    -------
    list of tuple
        Name, summary and the seconds it took, of each kind.
    """
    waiting, end, done = list(chosen), time.monotonic() + seconds, []
    while waiting:
        begun = time.monotonic()
        share = max(0.0, end - begun) / len(waiting)
        kind = waiting.pop(0)
        summary = kind.run(random.Random(f"{seed} {kind.name}"), share, findings)
        done.append((kind.name, summary, time.monotonic() - begun))
    return done


def table(done: Sequence[tuple[str, Summary, float]], findings: Findings, seed: int) -> str:
    """The figures of all kinds as lines of text."""
    lines = [f"{'kind':<16}{'cases':>8}{'findings':>10}{'repeated':>10}{'seconds':>9}  seed"]
    for name, summary, seconds in done:
        found, again = len(findings.saved.get(name, ())), findings.repeats.get(name, 0)
        lines.append(f"{name:<16}{summary.cases:>8}{found:>10}{again:>10}{seconds:>9.0f}  {seed}")
        lines += [f"    {title}: {value}" for title, value in summary.notes.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the kinds that the command line names; 1 if there is a finding.

    Raises
    ------
    SystemExit
        If a name is no kind.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--kinds",
        default="",
        help="names with commas between them, mutants for those of all formats; default: all",
    )
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=FINDINGS_FOLDER)
    given = parser.parse_args(arguments)
    known = kinds()
    asked = given.kinds.split(",") if given.kinds else list(known)
    # `mutants` stands for the kinds of every format.
    names = [
        name
        for each in asked
        for name in ([k for k in known if k.startswith(f"{each}-")] if each not in known else [])
        or [each]
    ]
    if unknown := set(names) - set(known):
        parser.error(f"no such kind: {sorted(unknown)}; there are {sorted(known)}")
    findings = Findings(given.findings)
    chosen = [known[name] for name in names]
    done = run_kinds(chosen, seconds=given.seconds, seed=given.seed, findings=findings)
    sys.stdout.write(table(done, findings, given.seed) + "\n")
    return int(any(findings.saved.values()))
