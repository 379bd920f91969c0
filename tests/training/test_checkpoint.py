"""A training that is killed and resumed, against an uninterrupted one."""

from __future__ import annotations

import dataclasses
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

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


def _added(tensor, number):
    tensor.view(-1)[0] += number


CHANGES = {
    "a tensor is missing": lambda tensors, weight: tensors.pop(weight),
    "a tensor more": lambda tensors, _: tensors.update({"network/more": torch.zeros(1)}),
    "another shape": lambda tensors, weight: tensors.update({weight: tensors[weight][None]}),
    "another type": lambda tensors, weight: tensors.update({weight: tensors[weight].half()}),
    "not a number": lambda tensors, weight: _added(tensors[weight], math.nan),
    "infinite": lambda tensors, weight: _added(tensors[weight], math.inf),
    "another weight": lambda tensors, weight: _added(tensors[weight], 1),
    "other moments": lambda tensors, _: _added(tensors["optimizer/0.first_moments.0"], 1),
    "another position": lambda tensors, _: _added(tensors["schedule/position"], -1),
    "another order": lambda tensors, _: tensors.update(
        {"loader/order rng": torch.Generator().manual_seed(99).get_state()}
    ),
    "samples that are not there": lambda tensors, _: tensors.update(
        {"loader/order": torch.full((999,), 10**6)}
    ),
}


def damaged(path, kind):
    """The file of a training with one thing changed, which is valid as a file."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    weight = next(name for name in tensors if name.startswith("network/") and "weight" in name)
    if kind == "more steps":
        metadata["step"] += "1"
    else:
        CHANGES[kind](tensors, weight)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)


@pytest.mark.parametrize("kind", [*CHANGES, "more steps"])
def test_a_checkpoint_in_which_something_has_changed_is_not_used(tmp_path, kind, expected):
    path, seen = tmp_path / "half-way.safetensors", []
    with pytest.raises(Stopped):
        fitted(PLAIN, path, 9)
    assert checkpoint.damage(path) == ""
    damaged(path, kind)
    assert checkpoint.damage(path) == f"{path.name} has changed since it was written"
    found = loop.fit(
        fresh(),
        stripes(),
        PLAIN,
        epochs=4,
        seed=3,
        checkpoint=path,
        on_batch=lambda done, _: seen.append(done),
    )
    assert found.digest == expected
    assert seen[0] == 1


@pytest.fixture(scope="module")
def expected():
    return loop.fit(fresh(), stripes(), PLAIN, epochs=4, seed=3).digest


class Numbers:
    """A part of a training with any tensors."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        self.tensors = tensors

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.tensors

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        self.tensors = dict(state_dict)


@pytest.mark.parametrize(
    "saved",
    [
        {},
        {"a": torch.ones(2), "b": torch.ones(1)},
        {"a": torch.ones(3)},
        {"a": torch.ones(2, 1)},
        {"a": torch.ones(2).double()},
        {"a": torch.ones(2).long()},
        {"a": torch.tensor([1.0, math.nan])},
        {"a": torch.tensor([1.0, math.inf])},
    ],
)
def test_the_state_of_another_version_is_not_used(tmp_path, saved):
    path, part = tmp_path / "x", Numbers(a=torch.zeros(2))
    Checkpoint(path, "key").save_if_due(7, {"part": Numbers(**saved)})
    assert checkpoint.damage(path) == ""
    assert Checkpoint(path, "key").resume({"part": part}) == 0
    assert part.tensors["a"].tolist() == [0.0, 0.0]


def test_a_list_that_has_grown_is_used(tmp_path):
    path, part = tmp_path / "x", Numbers(a=torch.zeros(0, 2))
    Checkpoint(path, "key").save_if_due(7, {"part": Numbers(a=torch.ones(5, 2))})
    assert Checkpoint(path, "key").resume({"part": part}) == 7
    assert part.tensors["a"].sum() == 10


def test_a_part_that_is_not_known_makes_a_checkpoint_unusable(tmp_path):
    path = tmp_path / "x"
    parts = {"part": Numbers(a=torch.ones(1)), "other": Numbers(a=torch.ones(1))}
    Checkpoint(path, "key").save_if_due(7, parts)
    assert Checkpoint(path, "key").resume({"part": parts["part"]}) == 0
