"""`lepton status`: how far a run is, reading only."""

from __future__ import annotations

from lepton_automl.commands import options as o


def status(run: o.Run, json: o.Json = False) -> None:
    """Stages, trials, front and verdict of RUN; may be called while it works."""
    from lepton_automl import pipeline, report  # torch is slow to import; --help must not wait
    from lepton_automl.run_folder import locate

    report.show_status(pipeline.status(locate(run)), json=json)
