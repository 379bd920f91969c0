"""`lepton compress`: prune, recover and quantize the winner of a search."""

from __future__ import annotations

from lepton_automl.commands import options as o
from lepton_automl.config import seconds


def compress(
    run: o.Run,
    budget: o.Budget = None,
    jobs: o.Jobs = None,
    device: o.Device = "auto",
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Prune, recover and quantize the best net of RUN.

    Every accepted step is kept; the same command again goes on after the last one.
    """
    from lepton_automl import pipeline, report  # torch is slow to import; --help must not wait
    from lepton_automl.run_folder import configured, locate

    config = configured(
        locate(run),
        budget_seconds=None if budget is None else seconds(budget),
        jobs=jobs,
        device=device,
        started=o.BEGUN,
    )
    with report.screen(quiet=quiet) as emit:
        steps = pipeline.compress(config, emit=emit)
    report.show_compression(steps, json=json)
