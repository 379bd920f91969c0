"""Tasks of a search: what is trained from which checkpoint, and where checkpoints lie."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from lepton_automl.core import files
from lepton_automl.data.dataset import LabelledFiles, Size
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Preprocessing
from lepton_automl.search.request import SearchWork
from lepton_automl.search.rungs import cycles
from lepton_automl.search.space.draw import seed_of
from lepton_automl.search.time_plan import work_of
from lepton_automl.search.training_key import Stage, TrainingKey
from lepton_automl.search.trials import Trial, Trials, recipe_of
from lepton_automl.search.workers.task import Task
from lepton_automl.training.recipe import Recipe

WEIGHTS = "weights.safetensors"
"""Written last of a checkpoint and deleted first."""
PROBE_SAMPLES = 4096
"""Sample-epochs of a speed measurement."""


class Tasks:
    """Makes tasks for candidates; a missing checkpoint only makes a task longer.

    Parameters
    ----------
    work : SearchWork
        Data, folders, seed and device.
    trials : Trials
        Knows the epochs of every candidate.
    """

    def __init__(self, work: SearchWork, trials: Trials) -> None:
        self._work, self._trials = work, trials
        self._folder = work.folder.checkpoints
        self._cycles_of: dict[int, tuple[int, ...]] = {}
        self._data: dict[Size, tuple[LabelledFiles, LabelledFiles, Preprocessing]] = {}

    @property
    def samples(self) -> int:
        """Of the training part."""
        return len(self._work.dataset.train)

    def cycles(self, number: int) -> tuple[int, ...]:
        """Epochs of each rung of a candidate."""
        epochs = self._trials.epochs_of(number)
        if epochs not in self._cycles_of:
            self._cycles_of[epochs] = cycles(epochs, self.samples)
        return self._cycles_of[epochs]

    def rung(self, candidate: Trial, rung: int) -> Task:
        """Train `candidate` to the end of `rung`."""
        each = self._cycles(candidate, rung + 1)
        return self._task(
            TrainingKey(candidate.number, round=rung), each, before=rung - 1 if rung else None
        )

    def final(self, candidate: Trial, done: int, more: int, key: TrainingKey) -> Task:
        """Train `candidate`, which has finished `done` rungs, for `more` epochs.

        Parameters
        ----------
        candidate : Trial
            The winner, or one of the few that may be.
        done : int
            Rungs it has finished.
        more : int
            Epochs of this training.
        key : TrainingKey
            Of the final training; its label decides the seed.
        """
        each = self._cycles(candidate, done)
        each.append((more, seed_of(self._work.config.seed, candidate.number, key.label)))
        return self._task(key, each, before=done - 1)

    def fresh(self, candidate: Trial, epochs: int, key: TrainingKey) -> Task:
        """Train `candidate` from nothing, with weights and order that no rung has seen.

        Parameters
        ----------
        candidate : Trial
            One of the few best.
        epochs : int
            Of this training, one schedule from start to end.
        key : TrainingKey
            Of the training; its label decides the seeds.
        """
        seed = self._work.config.seed
        each = [(epochs, seed_of(seed, candidate.number, key.label))]
        task = self._task(key, each, before=None)
        recipe = recipe_of(candidate.recipe, key).to_json()
        weights = seed_of(seed, candidate.number, f"{key.label} weights")
        return dataclasses.replace(task, start="", seed=weights, recipe=recipe)

    def work(self, number: int, epochs: int) -> float:
        """Size of a training in units of `work_of`."""
        return work_of(self._trials[number].cost.macs, self.samples, epochs)

    def mirror(self, arch: Arch, recipe: Recipe) -> Task:
        """Train briefly, twice, saving nothing; answer validation pictures mirrored as well."""
        samples = min(self.samples, PROBE_SAMPLES)
        epochs = max(1, PROBE_SAMPLES // samples)
        seed = seed_of(self._work.config.seed, "mirror")
        task = self._afresh("flip check", arch, recipe, ((1, 0), (epochs, 1)), seed)
        return dataclasses.replace(task, samples=samples, mirrors=True)

    def probe(self, candidate: Trial) -> Task:
        """Train briefly, twice, saving nothing, to learn how fast this machine is."""
        samples = min(self.samples, PROBE_SAMPLES)
        epochs = max(1, PROBE_SAMPLES // samples)
        task = self._task(
            TrainingKey(candidate.number, Stage.PROBE), [(1, 0), (epochs, 0)], before=None
        )
        return dataclasses.replace(task, start="", out="", samples=samples)

    def checkpoint(self, key: TrainingKey) -> Path:
        """Folder of the model that a training ends with."""
        return self._folder / f"{key.trial:05d}-{key.label}"

    def collect(self, keep: set[Path]) -> None:
        """Delete all checkpoints but these."""
        for folder in self._folder.glob("[0-9]*-*"):
            if folder not in keep:
                self._delete(folder)

    def discard(self, key: TrainingKey) -> None:
        """Delete a checkpoint that a later one has replaced."""
        self._delete(self.checkpoint(key))

    @staticmethod
    def _delete(checkpoint: Path) -> None:
        # First what makes it whole: killed half-way, it must not be taken for a model.
        with files.wrap_os_errors(checkpoint):
            (checkpoint / WEIGHTS).unlink(missing_ok=True)
        shutil.rmtree(checkpoint, ignore_errors=True)

    @staticmethod
    def is_whole(checkpoint: Path) -> bool:
        """Whether a model was saved there to the end; its weights are written last."""
        return (checkpoint / WEIGHTS).is_file()

    def _cycles(self, candidate: Trial, count: int) -> list[tuple[int, int]]:
        seeds = [seed_of(self._work.config.seed, candidate.number, index) for index in range(count)]
        return list(zip(self.cycles(candidate.number), seeds, strict=False))

    def _task(self, key: TrainingKey, each: list[tuple[int, int]], before: int | None) -> Task:
        """`before`: the rung whose checkpoint the training starts from, if it exists."""
        candidate = self._trials[key.trial]
        start = None if before is None else self.checkpoint(TrainingKey(key.trial, round=before))
        is_there = start is not None and self.is_whole(start)
        parts = self._parts(key, len(each))
        each, parts = (each[-1:], parts[-1:]) if is_there else (each, parts)
        seed = seed_of(self._work.config.seed, candidate.number, "weights")
        return dataclasses.replace(
            self._afresh(str(key), candidate.arch, candidate.recipe, tuple(each), seed),
            start=str(start) if is_there else "",
            out=str(self.checkpoint(key)),
            parts=tuple(parts) if max(parts) > 1 else (),
            work=work_of(candidate.cost.macs, self.samples, sum(epochs for epochs, _ in each)),
        )

    def _afresh(
        self, key: str, arch: Arch, recipe: Recipe, each: tuple[tuple[int, int], ...], seed: int
    ) -> Task:
        """A training of these data that starts from weights of `seed` and saves nothing."""
        train, validation, preprocessing = self._files(arch.input[:2])
        return Task(
            key=key,
            arch=arch.to_json(),
            recipe=recipe.to_json(),
            cycles=each,
            seed=seed,
            start="",
            out="",
            zero_point=preprocessing.zero_point,
            scale=preprocessing.scale,
            train=(str(train.pixels), str(train.labels)),
            validation=(str(validation.pixels), str(validation.labels)),
            device=str(self._work.device),
            is_balanced=train.is_balanced,
        )

    def _parts(self, key: TrainingKey, count: int) -> list[int]:
        """In how many pieces the batches of each cycle go, or went when its rung was trained.

        A candidate for which memory ran out keeps to small pieces.
        """
        known = [score for score in self._trials.results.get(key.trial, []) if not score.failed]
        usual = known[-1].parts if known else 1
        earlier = [score.parts for score in known[: count - 1]]
        same = [score for score in known if score.key == key]
        last = same[0] if same else self._trials.final_result(key)
        return earlier + [usual] * (count - 1 - len(earlier)) + [last.parts if last else usual]

    def _files(self, size: Size) -> tuple[LabelledFiles, LabelledFiles, Preprocessing]:
        if size not in self._data:
            data, cache = self._work.dataset, self._work.folder.cache
            train = data.decoded_files("train", size, cache)
            validation = data.decoded_files("validation", size, cache)
            self._data[size] = (train, validation, data.preprocessing(size))
        return self._data[size]
