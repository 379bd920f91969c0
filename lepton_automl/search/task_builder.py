"""Create the training tasks of a search and manage their checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lepton_automl.core import files
from lepton_automl.core.events import Event
from lepton_automl.data.dataset import LabelledFiles, Size
from lepton_automl.data.folds import fold_files
from lepton_automl.models.arch import Arch
from lepton_automl.models.quantization import Preprocessing
from lepton_automl.search.checkpoint_files import damage
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.rungs import cycles
from lepton_automl.search.seeds import seed_of
from lepton_automl.search.time_plan import work_of
from lepton_automl.search.training_key import Stage, TrainingKey
from lepton_automl.search.trials import Trial, Trials, recipe_of
from lepton_automl.search.workers.task import Task
from lepton_automl.training.checkpoint import RESUME_FILE
from lepton_automl.training.checkpoint import damage as training_damage
from lepton_automl.training.memory import micro_batches
from lepton_automl.training.recipe import Recipe

_WEIGHTS = "weights.safetensors"
"""The file of a checkpoint that is written last and deleted first."""
_PROBE_SAMPLES = 4096
"""Samples times epochs of a speed measurement."""


class TaskBuilder:
    """Creates tasks; where a checkpoint is missing, the task trains from an earlier one.

    Parameters
    ----------
    request : SearchRequest
        Data, folders, seed and device.
    trials : Trials
        The trials and their results.
    """

    def __init__(self, request: SearchRequest, trials: Trials) -> None:
        self._request, self._trials = request, trials
        self._folder = request.folder.checkpoints
        self._cycles_of: dict[int, tuple[int, ...]] = {}
        self._data: dict[tuple[Size, int], tuple[LabelledFiles, LabelledFiles, Preprocessing]] = {}

    @property
    def samples(self) -> int:
        """Number of training samples."""
        return self.samples_without(0)

    def samples_without(self, fold: int) -> int:
        """Number of samples that a training without `fold` uses; fold 0 is the validation part."""
        if not fold:
            return len(self._request.dataset.train)
        return len(self._request.folds.training_index(fold))

    def cycles(self, number: int) -> tuple[int, ...]:
        """Epochs of each rung of a trial."""
        epochs = self._trials.epochs_of(number)
        if epochs not in self._cycles_of:
            self._cycles_of[epochs] = cycles(epochs, self.samples)
        return self._cycles_of[epochs]

    def rung(self, trial: Trial, rung: int) -> Task:
        """Train `trial` to the end of `rung`."""
        key = TrainingKey(trial.number, round=rung)
        before = rung - 1 if rung else None
        return self._task(key, self._rung_cycles(trial, rung + 1), before=before)

    def continued(self, trial: Trial, rungs: int, epochs: int, key: TrainingKey) -> Task:
        """Train `trial` for more epochs after the last of `rungs` rungs.

        Parameters
        ----------
        trial : Trial
            A finalist.
        rungs : int
            Rungs that it has finished.
        epochs : int
            Epochs of this training.
        key : TrainingKey
            Of the final training; its label decides the seed.
        """
        cycles = self._rung_cycles(trial, rungs)
        cycles.append((epochs, seed_of(self._request.config.seed, trial.number, key.label)))
        recipe = recipe_of(trial.recipe, key).to_json() if key.flip else ""
        task = self._task(key, cycles, before=rungs - 1)
        return dataclasses.replace(task, last_recipe=recipe)

    def from_scratch(self, trial: Trial, epochs: int, key: TrainingKey) -> Task:
        """Train `trial` from new weights, with seeds that no rung has used.

        Parameters
        ----------
        trial : Trial
            A finalist.
        epochs : int
            Epochs of this training, with one learning-rate schedule.
        key : TrainingKey
            Of the training; its label decides the seeds.
        """
        seed = self._request.config.seed
        cycles = [(epochs, seed_of(seed, trial.number, key.label))]
        task = self._task(key, cycles, before=None)
        recipe = recipe_of(trial.recipe, key).to_json()
        weights = seed_of(seed, trial.number, f"{key.label} weights")
        return dataclasses.replace(task, start="", seed=weights, recipe=recipe)

    def work(self, number: int, epochs: int, fold: int = 0) -> float:
        """Size of a training without `fold` in units of `work_of`."""
        return work_of(self._trials[number].cost.macs, self.samples_without(fold), epochs)

    def probe(self, trial: Trial) -> Task:
        """Train briefly, in two cycles, to measure the speed of this machine."""
        samples = min(self.samples, _PROBE_SAMPLES)
        epochs = max(1, _PROBE_SAMPLES // samples)
        key = TrainingKey(trial.number, Stage.PROBE)
        task = self._task(key, [(1, 0), (epochs, 0)], before=None)
        return dataclasses.replace(task, start="", out="", samples=samples)

    def checkpoint(self, key: TrainingKey) -> Path:
        """Folder of the model that a training saves."""
        return self._folder / f"{key.trial:05d}-{key.label}"

    def delete_all_but(self, keep: set[Path]) -> None:
        """Delete all checkpoints except those in `keep`."""
        for folder in self._folder.glob("[0-9]*-*"):
            if folder not in keep:
                self._delete(folder)

    def delete(self, key: TrainingKey) -> None:
        """Delete the checkpoint of a training."""
        self._delete(self.checkpoint(key))

    @staticmethod
    def _delete(checkpoint: Path) -> None:
        # The weights first: after a kill in the middle the rest must not count as a model.
        files.remove(checkpoint / _WEIGHTS)
        files.remove_folder(checkpoint)

    @staticmethod
    def is_complete(checkpoint: Path) -> bool:
        """Whether a checkpoint is complete, its weights are written last, and not damaged."""
        return (checkpoint / _WEIGHTS).is_file() and not damage(checkpoint)

    def _delete_damaged(self, checkpoint: Path) -> None:
        """Delete what has changed since it was written; the training is then repeated."""
        if problem := damage(checkpoint):
            self._delete(checkpoint)
        elif problem := training_damage(checkpoint / RESUME_FILE):
            files.remove(checkpoint / RESUME_FILE)
        if problem:
            message = f"checkpoint {checkpoint.name}: {problem}; its training begins anew"
            self._request.emit(Event("search", message))

    def _rung_cycles(self, trial: Trial, count: int) -> list[tuple[int, int]]:
        seeds = [seed_of(self._request.config.seed, trial.number, index) for index in range(count)]
        return list(zip(self.cycles(trial.number), seeds, strict=False))

    def _task(self, key: TrainingKey, cycles: list[tuple[int, int]], before: int | None) -> Task:
        """`before`: the rung whose checkpoint the training starts from, if it exists."""
        trial = self._trials[key.trial]
        self._delete_damaged(self.checkpoint(key))
        micro_batches = self._micro_batches(key, len(cycles))
        start = ""
        if before is not None:
            checkpoint = self.checkpoint(TrainingKey(key.trial, round=before))
            self._delete_damaged(checkpoint)
            if self.is_complete(checkpoint):
                start, cycles, micro_batches = str(checkpoint), cycles[-1:], micro_batches[-1:]
        seed = seed_of(self._request.config.seed, trial.number, "weights")
        return dataclasses.replace(
            self._new_task(key, trial.arch, trial.recipe, tuple(cycles), seed),
            start=start,
            out=str(self.checkpoint(key)),
            micro_batches=tuple(micro_batches) if max(micro_batches) > 1 else (),
            work=self.work(key.trial, sum(epochs for epochs, _ in cycles), key.fold),
        )

    def _new_task(
        self,
        key: TrainingKey,
        arch: Arch,
        recipe: Recipe,
        cycles: tuple[tuple[int, int], ...],
        seed: int,
    ) -> Task:
        """A training from new weights of `seed` that saves nothing."""
        train, validation, preprocessing = self._files(arch.size, key.fold)
        quantization = preprocessing.input_quantization
        return Task(
            key=str(key),
            arch=arch.to_json(),
            recipe=recipe.to_json(),
            cycles=cycles,
            seed=seed,
            start="",
            out="",
            zero_point=preprocessing.zero_point,
            scale=preprocessing.scale,
            train=(str(train.pixels), str(train.labels)),
            validation=(str(validation.pixels), str(validation.labels)),
            device=str(self._request.device),
            is_balanced=train.is_balanced,
            train_states=train.states,
            validation_states=validation.states,
            input_offsets=() if quantization is None else quantization.offsets,
            input_scales=() if quantization is None else quantization.scales,
            input_type="float32" if quantization is None else quantization.dtype,
        )

    def _micro_batches(self, key: TrainingKey, count: int) -> list[int]:
        """Micro-batches per batch for each cycle: those of its rung, else those of the last one."""
        results = [r for r in self._trials.results.get(key.trial, []) if not r.failed]
        last_used = results[-1].micro_batches if results else self._least_micro_batches(key.trial)
        earlier = [result.micro_batches for result in results[: count - 1]]
        missing = count - 1 - len(earlier)
        same = next((result for result in results if result.key == key), None)
        same = same or self._trials.final_result(key)
        return [*earlier, *[last_used] * missing, same.micro_batches if same else last_used]

    def _least_micro_batches(self, number: int) -> int:
        """Micro-batches with which a training fits into the memory of a worker on the CPU."""
        request, trial = self._request, self._trials[number]
        if request.device.type != "cpu":
            return 1  # Of a GPU the memory is known only when it is used up.
        memory = request.config.training_memory
        return micro_batches(trial.arch.graph, trial.recipe.batch_size, memory)

    def _files(self, size: Size, fold: int) -> tuple[LabelledFiles, LabelledFiles, Preprocessing]:
        if (size, fold) not in self._data:
            data, cache = self._request.dataset, self._request.folder.cache
            if fold:
                train, evaluated = fold_files(data, self._request.folds, fold, size, cache)
            else:
                train = data.decoded_files("train", size, cache)
                evaluated = data.decoded_files("validation", size, cache)
            self._data[size, fold] = (train, evaluated, data.preprocessing(size))
        return self._data[size, fold]
