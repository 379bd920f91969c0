from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.search import search_request


@pytest.mark.parametrize(
    ("given", "workers", "most"),
    [
        ({}, 2, 4),
        ({"jobs_per_gpu": 0}, 2, 4),
        ({"jobs_per_gpu": 3}, 6, None),
        ({"jobs": 5}, 5, None),
    ],
)
def test_gpus_get_a_worker_each_and_more_where_no_number_is_given(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, int],
    workers: int,
    most: int | None,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(9))
    settings: dict[str, Any] = {"jobs": None} | given
    job = search_request(tmp_path / "run", device=torch.device("cuda"), **settings)
    job.ledger.close()
    assert (job.jobs, job.workers_per_gpu) == (workers, most)


def test_a_processor_gets_one_worker_a_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(9))
    job = search_request(tmp_path / "run", jobs=None)
    job.ledger.close()
    assert (job.jobs, job.workers_per_gpu) == (9, None)
    together = replace(job, config=replace(job.config, final_jobs=4))
    assert together.finals_at_once == 2
