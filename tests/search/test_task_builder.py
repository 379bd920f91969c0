from __future__ import annotations

import dataclasses
import errno
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lepton_automl.config import RunConfig
from lepton_automl.errors import MachineError
from lepton_automl.search import rungs
from lepton_automl.search.task_builder import TaskBuilder
from lepton_automl.search.training_key import TrainingKey
from lepton_automl.search.trials import Trials
from lepton_automl.training.checkpoint import Checkpoint
from lepton_automl.training.memory import training_bytes
from lepton_automl.training.recipe import Recipe
from tests.helpers.search import InlineWorkers, make_trial, result, search_request


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TaskBuilder]:
    monkeypatch.setattr(rungs, "LEAST_SAMPLES", 1)
    job, trials = search_request(tmp_path / "run"), Trials()
    for number in range(2):
        trials.add(make_trial(number, epochs=27))
    yield TaskBuilder(job, trials)
    job.ledger.close()


def pretend_saved(tasks: TaskBuilder, number: int, rung: str) -> Path:
    folder = tasks.checkpoint(TrainingKey(number, round=int(rung)))
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").touch()
    return folder


def test_a_rung_starts_from_the_checkpoint_before_it(tasks: TaskBuilder) -> None:
    folder = pretend_saved(tasks, 0, "0")
    task = tasks.rung(make_trial(0, epochs=27), 1)
    assert task.start == str(folder)
    assert [epochs for epochs, _ in task.cycles] == [6]
    assert task.key == "0-1"


def test_without_the_checkpoint_the_same_cycles_run_from_the_first(tasks: TaskBuilder) -> None:
    short = tasks.rung(make_trial(0, epochs=27), 0)
    task = tasks.rung(make_trial(0, epochs=27), 2)
    assert task.start == ""
    assert [epochs for epochs, _ in task.cycles] == [3, 6, 18]
    assert task.cycles[:1] == short.cycles
    assert task.seed == short.seed


def test_trials_and_cycles_have_different_seeds(tasks: TaskBuilder) -> None:
    one, two = (tasks.rung(make_trial(number, epochs=27), 2) for number in (0, 1))
    seeds = [one.seed, two.seed, *(seed for task in (one, two) for _, seed in task.cycles)]
    assert len(set(seeds)) == len(seeds)


def test_a_final_training_follows_the_last_rung(tasks: TaskBuilder) -> None:
    folder = pretend_saved(tasks, 1, "1")
    task = tasks.continued(make_trial(1, epochs=27), 2, 40, TrainingKey.parse("1-final-0"))
    assert task.key == "1-final-0"
    assert task.start == str(folder)
    assert [epochs for epochs, _ in task.cycles] == [40]


def test_flips_of_a_continued_training_are_those_of_its_last_cycle(tasks: TaskBuilder) -> None:
    trial = make_trial(1, epochs=27)
    plain, flipped = (
        tasks.continued(trial, 2, 40, TrainingKey.parse(text))
        for text in ("1-final-0", "1-final-0-flip")
    )
    assert (plain.recipe, plain.last_recipe) == (trial.recipe_json, "")
    assert flipped.recipe == trial.recipe_json
    assert Recipe.from_json(flipped.last_recipe) == dataclasses.replace(trial.recipe, flip=True)


def test_a_training_from_scratch_has_seeds_that_no_rung_has_used(tasks: TaskBuilder) -> None:
    pretend_saved(tasks, 1, "1")
    known = tasks.rung(make_trial(1, epochs=27), 2)
    first, second = (
        tasks.from_scratch(make_trial(1, epochs=27), 40, TrainingKey.parse(text))
        for text in ("1-final-0", "1-final-0-1")
    )
    assert (first.key, first.start) == ("1-final-0", "")
    assert [epochs for epochs, _ in first.cycles] == [40]
    seeds = [first.seed, second.seed, first.cycles[0][1], second.cycles[0][1]]
    assert len({*seeds, known.seed, *(seed for _, seed in known.cycles)}) == 4 + 1 + len(
        known.cycles
    )


def test_a_probe_saves_nothing_and_trains_on_few_samples(tasks: TaskBuilder) -> None:
    probe = tasks.probe(make_trial(0))
    assert probe.out == probe.start == ""
    assert probe.samples == tasks.samples
    assert len(probe.cycles) == 2


def test_all_checkpoints_but_the_named_ones_are_deleted(tasks: TaskBuilder) -> None:
    kept, gone = pretend_saved(tasks, 0, "2"), pretend_saved(tasks, 1, "0")
    lock = kept.parent / "batch.lock"
    lock.touch()
    tasks.delete_all_but({kept})
    assert kept.exists()
    assert lock.exists()
    assert not gone.exists()


def test_a_deletion_that_is_killed_half_way_leaves_no_checkpoint_that_counts(
    tasks: TaskBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [pretend_saved(tasks, number, "0") for number in range(2)]
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    tasks.delete(TrainingKey(0))
    tasks.delete_all_but(set())
    assert not any(map(tasks.is_complete, folders))
    assert tasks.rung(make_trial(0, epochs=27), 1).start == ""


def test_a_trial_that_ran_out_of_memory_keeps_its_micro_batches(tasks: TaskBuilder) -> None:
    one, final = make_trial(0, epochs=27), TrainingKey.parse("0-final-0")
    assert tasks.rung(one, 0).micro_batches == ()
    tasks._trials.add_result(result(0, "0", 100))
    tasks._trials.add_result(dataclasses.replace(result(0, "1", 100), micro_batches=4))
    # Trained again from the start, each cycle has the micro-batches it had.
    assert tasks.rung(one, 2).micro_batches_of_cycles == (1, 4, 4)
    assert tasks.rung(one, 1).micro_batches_of_cycles == (1, 4)
    assert tasks.rung(one, 0).micro_batches_of_cycles == (1,)
    assert tasks.from_scratch(one, 40, final).micro_batches_of_cycles == (4,)
    tasks._trials.add_result(dataclasses.replace(result(0, "final-0", 100), micro_batches=16))
    assert tasks.continued(one, 2, 40, final).micro_batches_of_cycles == (1, 4, 16)
    pretend_saved(tasks, 0, "1")
    assert tasks.rung(one, 2).micro_batches_of_cycles == (4,)


def test_a_task_knows_how_much_work_it_is(tasks: TaskBuilder) -> None:
    one = make_trial(0, epochs=27)
    first, all_of_it = tasks.rung(one, 0), tasks.rung(one, 2)
    assert all_of_it.work == pytest.approx(9 * first.work)
    pretend_saved(tasks, 0, "1")
    assert tasks.rung(one, 2).work == pytest.approx(6 * first.work)


def test_a_net_whose_batch_does_not_fit_is_trained_in_micro_batches(
    tasks: TaskBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make_trial(0, epochs=27)
    assert tasks.rung(one, 1).micro_batches == ()
    needed = training_bytes(one.arch.graph, one.recipe.batch_size // 4)
    monkeypatch.setattr(RunConfig, "training_memory", needed)
    assert tasks.rung(one, 1).micro_batches_of_cycles == (4, 4)
    tasks._trials.add_result(dataclasses.replace(result(0, "0", 100), micro_batches=2))
    assert tasks.rung(one, 1).micro_batches_of_cycles == (2, 2)  # As it was trained before.


def changed(path: Path, how: str) -> None:
    """The tensors of a file with one thing changed."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    name = next(name for name in tensors if tensors[name].ndim > 1)
    match how:
        case "a tensor is missing":
            del tensors[name]
        case "another shape":
            tensors[name] = tensors[name][None].contiguous()
        case "not a number":
            tensors[name] = torch.full_like(tensors[name], math.nan)
        case "another weight":
            tensors[name].view(-1)[0] += 1
        case "a tensor more":
            tensors["more"] = torch.zeros(1)
    save_file(tensors, path, metadata)


KINDS = ["a tensor is missing", "another shape", "not a number", "another weight", "a tensor more"]


@pytest.fixture
def told(tasks: TaskBuilder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    loud = dataclasses.replace(tasks._request, emit=lambda event: messages.append(event.message))
    monkeypatch.setattr(tasks, "_request", loud)
    return messages


@pytest.mark.parametrize("how", KINDS)
def test_a_rung_does_not_start_from_a_damaged_checkpoint(
    tasks: TaskBuilder, told: list[str], how: str
) -> None:
    trial = make_trial(0, epochs=27)
    first = dataclasses.replace(tasks.rung(trial, 0), cycles=())
    InlineWorkers().run(first)
    assert tasks.rung(trial, 1).start == first.out
    assert told == []
    changed(Path(first.out) / "weights.safetensors", how)
    assert not tasks.is_complete(Path(first.out))
    task = tasks.rung(trial, 1)
    assert task.start == ""
    assert [epochs for epochs, _ in task.cycles] == [3, 6]
    reason = "weights.safetensors has changed since it was written; its training begins anew"
    assert told == [f"checkpoint 00000-0: {reason}"]
    assert not Path(first.out).exists()


@pytest.mark.parametrize("name", ["digests.json", "arch.json", "model.json"])
def test_each_file_of_a_checkpoint_counts(tasks: TaskBuilder, told: list[str], name: str) -> None:
    first = dataclasses.replace(tasks.rung(make_trial(0, epochs=27), 0), cycles=())
    InlineWorkers().run(first)
    (Path(first.out) / name).write_bytes(b"{")
    assert tasks.rung(make_trial(0, epochs=27), 1).start == ""
    (message,) = told
    assert name in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"no tensors", bytes(range(256)) * 8])
def test_a_damaged_state_of_a_training_is_named_and_deleted(
    tasks: TaskBuilder, told: list[str], content: bytes
) -> None:
    path = tasks.checkpoint(TrainingKey(0)) / "resume.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    tasks.rung(make_trial(0, epochs=27), 0)
    (message,) = told
    assert message.startswith("checkpoint 00000-0: resume.safetensors cannot be read: ")
    assert message.endswith("; its training begins anew")
    assert "\n" not in message
    assert not path.exists()


def test_a_state_of_a_training_that_is_whole_stays(tasks: TaskBuilder, told: list[str]) -> None:
    path = tasks.checkpoint(TrainingKey(0)) / "resume.safetensors"
    Checkpoint(path, "key", 0.0).save_if_due(3, {})
    tasks.rung(make_trial(0, epochs=27), 0)
    assert path.exists()
    assert told == []


@pytest.fixture(params=[("open", errno.EIO), ("open", errno.EACCES), ("read", errno.EIO)], ids=str)
def unreadable(request, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the disk fail, or refuse, where a file of a name is opened or read."""
    call, number = request.param
    real = {name: getattr(os, name) for name in ("open", "read")}

    def fail(name: str) -> None:
        def failing(file, *more):
            path = Path(f"/proc/self/fd/{file}").readlink() if call == "read" else str(file)
            if Path(path).name == name:
                raise OSError(number, os.strerror(number))
            return real[call](file, *more)

        monkeypatch.setattr(os, call, failing)

    return fail


@pytest.mark.parametrize("name", ["digests.json", "arch.json", "weights.safetensors"])
def test_a_checkpoint_that_the_machine_does_not_let_read_is_not_deleted(
    tasks: TaskBuilder, told: list[str], unreadable: Callable[[str], None], name: str
) -> None:
    first = dataclasses.replace(tasks.rung(make_trial(0, epochs=27), 0), cycles=())
    InlineWorkers().run(first)
    unreadable(name)
    for look in (lambda: tasks.is_complete(Path(first.out)), lambda: tasks.rung(make_trial(0), 1)):
        with pytest.raises(MachineError) as failed:
            look()
        assert f"{name} cannot be read: " in failed.value.what
        assert "the same command" in failed.value.fix
    assert (Path(first.out) / "weights.safetensors").exists()
    assert told == []


def test_a_state_of_a_training_that_the_machine_does_not_let_read_is_not_deleted(
    tasks: TaskBuilder, told: list[str], unreadable: Callable[[str], None]
) -> None:
    path = tasks.checkpoint(TrainingKey(0)) / "resume.safetensors"
    checkpoint = Checkpoint(path, "key", 0.0)
    checkpoint.save_if_due(3, {})
    unreadable(path.name)
    for look in (lambda: tasks.rung(make_trial(0, epochs=27), 0), lambda: checkpoint.resume({})):
        with pytest.raises(MachineError) as failed:
            look()
        assert "resume.safetensors cannot be read: " in failed.value.what
    assert path.exists()
    assert told == []
