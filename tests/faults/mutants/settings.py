"""Files that options name: hosts, sweeps and their tables, boards."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Never

from lepton_automl.cost import boards
from lepton_automl.errors import ConfigError
from lepton_automl.pipeline.sweep_table import SweepRow
from tests.faults.mutants import trees
from tests.faults.mutants.content import Content
from tests.faults.mutants.engine import Subject
from tests.faults.mutants.places import STOP, one_of, written

_HOSTS = (
    b'finals = "desk"\n[host.desk]\nlocal = true\njobs = 1\n[host.gpu1]\n'
    b'command = ["ssh", "gpu1"]\npython = "/opt/venv/bin/python"\njobs = 4\ndevice = "cuda:0"\n'
    b'shared = false\ncache = "/var/cache/lepton"\npatience = 30.5\ngroup_address = "10.0.0.5"\n',
    b'[host."a b"]\ncommand = ["docker", "exec", "-i", "box"]\nshared = true\n',
)
_SWEEPS = (
    b'doc = "two sizes"\n[run]\ndata = "digits"\nbudget = "1m"\nseed = { low = 0, high = 4, '
    b"step = 2 }\nmax-size-kb = [10, 2.5]\nquiet = false\n",
    b'[run]\ndata = ["digits", "few.npz"]\njobs = 1\nspace = "space.toml"\n[[row]]\n'
    b'objective = "accuracy,size_bytes"\ntrials = 3\n[[row]]\nmax-macs = "2M"\n'
    b'skip-corrupt = true\nformat = "c"\nbudget = 30\nmin-accuracy = 0.5\n',
    b'[run]\ndata = "digits"\nbudget = "2s"\n[[row]]\nseed = 1\n[[row]]\nseed = [2, 3]\n',
)
_SWEPT = "swept"


def no_run(row: SweepRow, out: Path, emit: object) -> Never:
    """In place of a run of a sweep: what is read before it and written of it is what is tried."""
    del out, emit
    raise ConfigError(f"{row.name} is not run", fix="none")


def _rows() -> list[dict[str, Any]]:
    """A table with a run of each state."""
    rows = [
        SweepRow("digits_seed=1", {"data": "digits", "seed": 1}),
        SweepRow("digits_seed=2", {"data": "digits", "seed": 2}, 3, "no such data"),
        SweepRow(
            *("digits_seed=3", {"data": "digits", "seed": 3, "max-size-kb": 2.5}, 6, "too large"),
            *("broken", "int8", 0.93, (0.91, 0.95), False, 360, 2800, 0.012, 0.31, (0.3, 0.33)),
            *("digits_seed=3/artifact/model.int8.onnx", "ab" * 32, 61.5, 70.25),
        ),
    ]
    return [dataclasses.asdict(row) for row in rows]


def _table_seeds(stage: Path) -> list[Content]:
    document = {"format": 1, "varied": ["seed"], "rows": _rows()}
    return [json.dumps(document).encode(), json.dumps(document, indent=2).encode()]


def _in_sweep(stage: Path, content: Content) -> Sequence[str]:
    (stage / "mutant.toml").write_bytes(content)
    words = ("sweep", "mutant.toml", "--out", "sweep-out")
    shutil.rmtree(stage / "sweep-out", ignore_errors=True)
    return (*words, *one_of(content, (), ("--json",), ("--budget", "1h"), ("--jobs", "2")))


def _in_table(stage: Path, content: Content) -> Sequence[str]:
    shutil.rmtree(stage / _SWEPT, ignore_errors=True)
    (stage / _SWEPT).mkdir()
    (stage / _SWEPT / "table.json").write_bytes(content)
    (stage / "sweep.toml").write_bytes(_SWEEPS[2])
    return one_of(
        content,
        ("status", _SWEPT),
        ("status", _SWEPT, "--json"),
        ("sweep", "sweep.toml", "--out", _SWEPT),
    )


def _board_seeds(stage: Path) -> list[Content]:
    own = dataclasses.replace(boards.every()[0], name="mine", note="", source="")
    return [own.to_toml().encode(), boards.every()[-1].to_toml().encode()]


SUBJECTS = (
    Subject(
        "hosts",
        lambda stage: list(_HOSTS),
        trees.mutated_toml,
        written("mutant.toml", "run", "tiny.npz", "--hosts", "mutant.toml", *STOP),
    ),
    Subject("sweep", lambda stage: list(_SWEEPS), trees.mutated_toml, _in_sweep),
    Subject("sweep-table", _table_seeds, trees.mutated_json, _in_table),
    Subject(
        "board",
        _board_seeds,
        trees.mutated_toml,
        written("mutant.toml", "run", "tiny.npz", "--board", "mutant.toml", *STOP),
    ),
)
