"""`lepton status`: how far a run is, reading only."""

from __future__ import annotations

from lepton_automl.commands import options as o


def status(run: o.Run, json: o.Json = False) -> None:
    """How far RUN is; may be called while it works."""
    from lepton_automl import report  # rich and sqlite are slow to import; --help must not wait
    from lepton_automl.run_folder import locate
    from lepton_automl.status import status as read_status

    report.show_status(read_status(locate(run)), json=json)
