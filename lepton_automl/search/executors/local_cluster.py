"""Start a Dask cluster on this machine: `lepton cluster start`."""

from __future__ import annotations

import logging
import os
import warnings

from distributed import LocalCluster

from lepton_automl.errors import MachineError, first_line
from lepton_automl.search.workers.launch import MALLOC_SETTINGS

_HOST = "127.0.0.1"
"""Not reachable from other machines."""


class LoopbackCluster:
    """A scheduler and worker processes with one thread each; nothing listens beyond loopback.

    Parameters
    ----------
    workers : int
        Number of worker processes.
    port : int
        Of the scheduler; 0 takes a free one.
    dashboard_port : int or None
        Of Dask's dashboard; None: there is none.

    Raises
    ------
    MachineError
        If a port cannot be used.
    """

    def __init__(self, workers: int, port: int = 0, dashboard_port: int | None = None) -> None:
        # Worker processes inherit the environment of this one.
        os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **MALLOC_SETTINGS})
        has_dashboard = dashboard_port is not None
        # Without a dashboard the port still answers what is measured, such as /metrics.
        dashboard = f"{_HOST}:{dashboard_port or 0}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # A port that is taken, else replaced.
                self._cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    host=_HOST,
                    scheduler_port=port,
                    dashboard_address=dashboard,
                    scheduler_kwargs={"dashboard": has_dashboard},
                    memory_limit=0,  # The trainings are children of the workers.
                    silence_logs=logging.ERROR,
                )
        except (OSError, RuntimeError, UserWarning) as error:
            raise MachineError(
                f"the cluster cannot be started: {first_line(error):.300}",
                fix="give another --port, or none",
            ) from error
        self.dashboard_url = f"http://{dashboard}/status" if has_dashboard else None
        """Address of the dashboard for a browser on this machine."""

    @property
    def address(self) -> str:
        """Of the scheduler, for `--cluster`."""
        return str(self._cluster.scheduler_address).replace("tcp://", "dask://")

    def close(self) -> None:
        """End all of it; running tasks are lost."""
        self._cluster.close()
