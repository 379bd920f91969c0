"""A training that is killed and resumed, against an uninterrupted one."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lepton_automl.training import checkpoint, loader, loop
from lepton_automl.training.checkpoint import Checkpoint
from lepton_automl.training.distributed import ProcessGroup
from tests.helpers.processes import eventually
from tests.training.test_loop import PLAIN, fresh, stripes

RICH = dataclasses.replace(
    PLAIN, augment=1.0, flip=True, cutout=0.3, mixup=0.2, cutmix=0.2, colour=0.5, batch_size=8
)
ALONE = """
import sys, time
from pathlib import Path
from lepton_automl.training import checkpoint, loader
from tests.training.test_checkpoint import RICH, slowly
loader._CHUNK_BYTES["cpu"] = 5000
checkpoint.Checkpoint.__init__.__defaults__ = (0.0,)
print("begun", flush=True)
slowly(Path(sys.argv[1]))
"""


class Stopped(Exception):
    pass


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setitem(loader._CHUNK_BYTES, "cpu", 5000)
    monkeypatch.setattr(checkpoint.Checkpoint.__init__, "__defaults__", (0.0,))


def fitted(recipe, path=None, stop=None, seed=3):
    def tick(done, total):
        if done == stop:
            raise Stopped

    return loop.fit(fresh(), stripes(), recipe, epochs=4, seed=seed, on_batch=tick, checkpoint=path)


def slowly(path):
    import time

    loop.fit(
        fresh(),
        stripes(),
        RICH,
        epochs=4,
        seed=3,
        checkpoint=path,
        on_batch=lambda *_: time.sleep(0.05),
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_stopped_twice_it_ends_on_the_same_bits(tmp_path, optimizer):
    recipe = dataclasses.replace(RICH, optimizer=optimizer, lr=0.01)
    path = tmp_path / "half-way.safetensors"
    for stop in (9, 20):
        with pytest.raises(Stopped):
            fitted(recipe, path, stop)
        assert path.exists()
    assert fitted(recipe, path).digest == fitted(recipe).digest


def test_it_resumes_and_does_not_start_again(tmp_path):
    path, seen = tmp_path / "half-way.safetensors", []
    with pytest.raises(Stopped):
        fitted(PLAIN, path, 9)
    loop.fit(
        fresh(),
        stripes(),
        PLAIN,
        epochs=4,
        seed=3,
        checkpoint=path,
        on_batch=lambda d, n: seen.append(d),
    )
    assert seen[0] > 5


def test_killed_by_the_system_it_ends_on_the_same_bits(tmp_path):
    path = tmp_path / "half-way.safetensors"
    one = subprocess.Popen(
        [sys.executable, "-c", ALONE, str(path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    one.stdout.readline()
    assert eventually(path.exists)
    one.send_signal(signal.SIGKILL)
    one.communicate()
    assert fitted(RICH, path).digest == fitted(RICH).digest


@pytest.mark.parametrize("other", [{"recipe": RICH}, {"seed": 4}])
def test_another_training_does_not_resume_from_it(tmp_path, other):
    path = tmp_path / "half-way.safetensors"
    with pytest.raises(Stopped):
        fitted(PLAIN, path, 9)
    changed = {"recipe": PLAIN, **other}
    assert fitted(**changed, path=path).digest == fitted(**changed).digest


@pytest.mark.parametrize("content", [b"", b"no tensors", bytes(range(256)) * 8])
def test_a_damaged_checkpoint_is_ignored(tmp_path, content):
    path = tmp_path / "half-way.safetensors"
    path.write_bytes(content)
    assert Checkpoint(path, "key").resume({}) == 0
    assert fitted(PLAIN, path).digest == fitted(PLAIN).digest


def test_nothing_is_saved_before_the_interval_has_passed(tmp_path):
    path = tmp_path / "half-way.safetensors"
    Checkpoint(path, "key", 60.0).save_if_due(3, {})
    assert not path.exists()
    Checkpoint(path, "key", 0.0).save_if_due(3, {})
    assert Checkpoint(path, "key").resume({}) == 3
    assert Checkpoint(path, "another").resume({}) == 0


def test_a_balanced_training_does_not_resume_from_an_unbalanced_one(
    tmp_path,
):
    path, data = tmp_path / "half-way", dataclasses.replace(stripes(), is_balanced=True)
    with pytest.raises(Stopped):
        fitted(PLAIN, path, stop=10)
    assert path.exists()
    again = loop.fit(fresh(), data, PLAIN, epochs=4, seed=3, checkpoint=path)
    assert again.digest == loop.fit(fresh(), data, PLAIN, epochs=4, seed=3).digest


def test_a_process_without_the_file_goes_on_with_the_state_of_the_first(tmp_path: Path) -> None:
    sent: list[bytes] = []

    class Group(ProcessGroup):
        def broadcast_bytes(self, content: bytes) -> bytes:
            if self.rank == 0:
                sent.append(content)
            return sent[-1]

    class Part:
        def __init__(self, value: float) -> None:
            self.value = torch.tensor(value)

        def state_dict(self) -> dict[str, torch.Tensor]:
            return {"value": self.value}

        def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
            self.value = state_dict["value"]

    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    Checkpoint(first, "k", process_group=Group(0, 2)).save_if_due(7, {"part": Part(3.0)})
    Checkpoint(second, "k", process_group=Group(1, 2)).save_if_due(7, {"part": Part(4.0)})
    Checkpoint(other, "k").save_if_due(9, {"part": Part(5.0)})
    assert not second.exists()
    parts = [Part(0.0), Part(0.0)]
    for rank, path in enumerate((first, other)):  # A file of its own does not count.
        mine = Checkpoint(path, "k", process_group=Group(rank, 2))
        assert mine.resume({"part": parts[rank]}) == 7
    assert [float(part.value) for part in parts] == [3.0, 3.0]
    Checkpoint(first, "another", process_group=Group(0, 2)).resume({"part": parts[0]})
    assert Checkpoint(other, "k", process_group=Group(1, 2)).resume({"part": parts[1]}) == 0
