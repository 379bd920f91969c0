"""`lepton pick`: another point of a search's front, without searching again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lepton_automl.cli import options as o
from lepton_automl.config import seconds
from lepton_automl.errors import ConfigError

Out = Annotated[
    Path | None, typer.Option("--out", help="Where it goes.  [default: RUN/picks/NAME]")
]
Budget = Annotated[
    str | None,
    typer.Option("--budget", help="Time for this pick.  [default: trained as long as the winner]"),
]
Preference = Annotated[
    str | None, typer.Option("--prefer", help="size or latency.  [default: the run's]")
]


def pick(
    run: o.Run,
    max_latency_ms: o.MaxLatency = None,
    max_size_kb: o.MaxSize = None,
    max_macs: o.MaxMacs = None,
    max_ram_kb: o.MaxRam = None,
    min_accuracy: o.MinAccuracy = None,
    max_drop: o.MaxDrop = None,
    per_class_max_drop: o.MaxClassDrop = None,
    prefer: Preference = None,
    out: Out = None,
    budget: Budget = None,
    device: o.Device = "auto",
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Choose another point of the front of RUN and make it a whole artifact.

    Without limits or --prefer: list the front and the one that was chosen. With them: of what the
    search trained and the compression kept, the cheapest whose accuracy is not distinguishably
    below the best is trained to the end, compressed and proven. The run's own limits stay where no
    other is stated.
    """
    limits = o.limits(
        max_latency_ms,
        max_size_kb,
        max_macs,
        max_ram_kb,
        min_accuracy,
        max_drop,
        per_class_max_drop,
    )
    is_asked = bool(limits.stated) or prefer is not None
    if not is_asked and (out or budget):
        raise ConfigError(
            f"--{'out' if out else 'budget'} has no effect: nothing is to be picked",
            fix="state a limit or --prefer, or leave it out to list the front",
        )
    chosen = None if prefer is None else o.preference(prefer)
    from lepton_automl.cli import report
    from lepton_automl.cli.report import progress  # torch is slow to import; --help must not wait
    from lepton_automl.pipeline import pick as picking
    from lepton_automl.pipeline.front import read_front
    from lepton_automl.runs.folder import configured, locate

    folder = locate(run)
    if not is_asked:
        report.show_front(read_front(folder), json=json)
        return
    config = configured(
        folder,
        budget_seconds=None if budget is None else seconds(budget),
        device=device,
        started=o.BEGUN,
    )
    wanted = picking.PickRequest(limits, chosen, out)
    with progress.screen(quiet=quiet) as emit:
        picked = picking.pick(config, wanted, emit=emit)
    report.show_pick(picked, json=json)
    raise typer.Exit(picked.outcome.verdict.exit_code)
