from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from lepton_automl.search import spawn
from lepton_automl.search.executor import Workers
from lepton_automl.search.tasks import Tasks
from lepton_automl.search.trials import Trials
from tests.searching import candidate, is_alive, work

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn, "_GPU_FILES", ())


def the_one(run: Path) -> subprocess.Popen[bytes]:
    return spawn._waiting[(run / "checkpoints").resolve()]


def has_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_one_standing_by_has_imported_torch_and_touched_no_file(tmp_path: Path) -> None:
    with spawn.standing_by(tmp_path):
        until = time.monotonic() + 60
        while not has_torch(the_one(tmp_path).pid) and time.monotonic() < until:
            time.sleep(0.1)
        assert has_torch(the_one(tmp_path).pid)
        assert not list(tmp_path.iterdir())


def test_workers_take_the_one_that_stands_by_and_it_works(tmp_path: Path) -> None:
    job = work(tmp_path)
    job.ledger.close()
    trials = Trials()
    trials.add(candidate(0, epochs=1))
    task = Tasks(job, trials).rung(trials[0], 0)
    with spawn.standing_by(tmp_path):
        pid = the_one(tmp_path).pid
        with Workers(2, tmp_path / "checkpoints") as pool:
            pids = [worker["pid"] for worker in pool.facts()["workers"]]
            assert pids.count(pid) == 1
            answer = pool.call(task)
    assert answer.correct
    assert not answer.failed
    assert not is_alive(pid)


def test_whoever_nobody_takes_ends_with_the_block(tmp_path: Path) -> None:
    with spawn.standing_by(tmp_path):
        pid = the_one(tmp_path).pid
    assert not is_alive(pid)


def test_one_that_died_ahead_is_not_taken(tmp_path: Path) -> None:
    with spawn.standing_by(tmp_path):
        one = the_one(tmp_path)
        one.kill()
        one.wait()
        assert spawn.taken(tmp_path / "checkpoints") is None


def test_others_get_their_own_process(tmp_path: Path) -> None:
    with spawn.standing_by(tmp_path / "one"):
        assert spawn.taken(tmp_path / "another" / "checkpoints") is None


def test_none_stands_by_for_a_run_that_has_its_net_or_where_there_may_be_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "done" / "models" / "best").mkdir(parents=True)
    with spawn.standing_by(tmp_path / "done"):
        assert not spawn._waiting
    monkeypatch.setattr(spawn, "_GPU_FILES", (__file__,))
    with spawn.standing_by(tmp_path / "new"):
        assert not spawn._waiting
