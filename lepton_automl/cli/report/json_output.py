"""JSON objects of the commands."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_automl.artifact.verdict import Verdict
from lepton_automl.core.decisions import Decision

if TYPE_CHECKING:
    from lepton_automl.compress.steps import CompressionResult
    from lepton_automl.pipeline.front import Front
    from lepton_automl.pipeline.status import Status
    from lepton_automl.pipeline.sweep_table import SweepResult
    from lepton_automl.search.request import SearchResult, TrialRow


def document(
    verdict: Verdict, artifact: Path, decisions: Sequence[Decision] = (), signer: str = ""
) -> dict[str, Any]:
    """The object of `verify`, `export` and `run`.

    Keys: `artifact` (folder), `file` and `sha256` of what ships, `verdict` (`holds`, `broken`,
    `undecided`), `exit_code`, `reasons`, `warnings`, `validation` (the fields of `ValidationGap`;
    null if that part is not known), `primary` (`int8` or `float`), `limits` (a list: `name`,
    `limit`, `measured`, `interval`, `status`, `n_needed`), `int8`, `float` and `reference` (the
    fields of `FileMetrics`; null if the files are damaged), `drops`, `limits_on` (`samples` or
    `recordings`, to which limits on accuracy apply), `recording_drops`, `parity`, `formats` (a
    list: the fields of `FormatFigures`), `ship`, `board` (the fields of `BoardFit`, or null),
    `calibration` and `rejection` (the fields of `CalibrationFigures` and `RejectionFigures`, or
    null), `problems`, `test_fingerprint`,
    `test_set_uses` (different files that this user has verified on this test part, up to this one),
    `grouped`, `balanced`, `machine`, `prefer`, `other` (the verdict if the
    other file shipped; null without limits), `notes` (what to know beside the status, such as how
    short the search was), `decisions` (made for the user, a list: the fields of
    `Decision`), `signed_by` (who signed it, with `verify --trust`; else null).
    """
    file = str(artifact / verdict.shipped_file[0]) if verdict.shipped_file else None
    return {
        "artifact": str(artifact),
        "file": file,
        "exit_code": verdict.exit_code,
        "reasons": verdict.reasons,
        "warnings": verdict.warnings,
        **verdict.document(),
        "decisions": [decision.document() for decision in decisions],
        "signed_by": signer or None,
    }


def search_document(found: SearchResult | Front) -> dict[str, Any]:
    """The object of `search`: `winner`, `selection_reason`, `front`, `finalists` and `trials`.

    `trials` has one row per trial. `balanced` says whether all accuracies are balanced.
    `hypervolume` is a list of [seconds, value], one pair per rung (see `search.pareto`).
    """
    return {
        "winner": found.number,
        "selection_reason": found.reason,
        "front": [row.number for row in found.front],
        "finalists": [each.document() for each in found.finalists],
        "balanced": found.is_balanced,
        "trials": [_row(row) for row in found.rows],
        "hypervolume": [list(pair) for pair in found.hypervolume],
    }


def compression_document(made: CompressionResult) -> dict[str, Any]:
    """The object of `compress`: `steps`, each with `name`, `accuracy`, costs, `is_accepted`, `why`.

    `reference`, `float` and `int8` are the digests of the models.
    """
    return {
        "reference": made.reference.digest,
        "float": made.pruned_float.digest,
        "int8": made.int8.digest,
        "steps": [dataclasses.asdict(step) for step in made.steps],
    }


def status_document(status: Status) -> dict[str, Any]:
    """The object of `status`.

    Keys: `run`, `state` (`working`, `silent`, `interrupted`, `ended`), `command` (`words`, `pid`,
    `budget_seconds`, `trials`), `error` that ended it, `alive_seconds`, `events`, `progress`
    (`stage`, `message`, `done`, `total`), `messages`, `workers` (a list: `pid`, `task`, `seconds`,
    `share`, `waits`, `host`), `hosts` (a list: `name`, `state`, `jobs`, `busy`, `tasks`,
    `sent_bytes`, `received_bytes`, `idle_seconds`, `lost_workers`, `arithmetic`, `reason`),
    `rungs` (a list: `rung`, `finished`, `promoted`), `found` (`best`, `front`,
    `trials`, `eta_seconds`),
    `hypervolume` (the last value or null), `has_winner`, `verdict`, `store` (of a run with
    `--store`: `place`, `generation`, `events_behind`, `files_behind`, `bytes_written`,
    `bytes_read`, `requests`, `error`; else null).
    """
    return {
        "run": str(status.folder.path),
        "state": status.state,
        "command": dict(status.command),
        "error": status.error,
        "alive_seconds": status.alive_seconds,
        "events": status.events,
        "progress": dict(status.progress),
        "messages": [dict(message) for message in status.messages],
        "workers": [dataclasses.asdict(worker) for worker in status.workers],
        "hosts": [dataclasses.asdict(host) for host in status.hosts],
        "rungs": [dataclasses.asdict(rung) for rung in status.rungs],
        "found": dict(status.found),
        "hypervolume": status.hypervolume[-1] if status.hypervolume else None,
        "has_winner": status.has_winner,
        "store": dict(status.store) or None,
        "verdict": None if status.verdict is None else status.verdict.status,
    }


def sweep_document(made: SweepResult) -> dict[str, Any]:
    """The object of `sweep`, and of `status` of a sweep.

    Keys: `sweep` (folder), `exit_code`, `varied` (options in which the runs differ) and `rows`,
    each with the fields of `SweepRow` and `state`.
    """
    return {
        "sweep": str(made.out),
        "exit_code": made.exit_code,
        "varied": list(made.varied),
        "rows": [dataclasses.asdict(row) | {"state": row.state(made.out)} for row in made.rows],
    }


def _row(row: TrialRow) -> dict[str, Any]:
    cost = row.cost
    return {
        "number": row.number,
        "accuracy": row.accuracy,
        "accuracy_interval": row.interval,
        "size_bytes": cost.size_bytes,
        "macs": cost.macs,
        "peak_ram_bytes": cost.peak_ram_bytes,
        "latency_ms": cost.latency_ms,
        "latency_basis": cost.latency_basis,
        "epochs": row.epochs,
        "feasible": row.feasible,
        "note": row.note,
        "params": dict(row.params),
        "cross_validation": row.cross_validation and dataclasses.asdict(row.cross_validation),
    }
