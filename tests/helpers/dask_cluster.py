"""A Dask cluster in this process, whose workers start fake workers, for tests; needs `[dask]`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from distributed import LocalCluster

from lepton_automl.core.events import Emit, silent
from lepton_automl.search.executors.dask import DaskExecutor
from lepton_automl.search.workers import dask_task


@contextmanager
def cluster(workers: int = 1, threads: int = 1, **options: Any) -> Iterator[LocalCluster]:
    """A scheduler and workers on loopback, in this process."""
    settings = {
        "processes": False,
        "protocol": "tcp://",
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
        "memory_limit": 0,
        "silence_logs": logging.CRITICAL,
    }
    with LocalCluster(n_workers=workers, threads_per_worker=threads, **settings | options) as made:
        yield made


@contextmanager
def dask(
    folder: Path, jobs: int, emit: Emit = silent, program: str = "", liveness: float = 0.5
) -> Iterator[DaskExecutor]:
    """An executor over one Dask worker with `jobs` threads."""
    with (
        mock.patch.object(dask_task, "_program", program),
        mock.patch.object(dask_task, "_liveness_seconds", liveness),
        mock.patch.object(dask_task, "_BEAT_SECONDS", 0.05),
        cluster(threads=jobs) as made,
        DaskExecutor(made.scheduler_address, folder, emit=emit) as executor,
    ):
        yield executor
