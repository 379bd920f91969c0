"""Tasks of a search: what is trained from which checkpoint, and where checkpoints lie."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from lepton_automl import durable
from lepton_automl.arch import Arch
from lepton_automl.dataset import LabelledFiles, Size
from lepton_automl.model import Preprocessing
from lepton_automl.recipe import Recipe
from lepton_automl.search.plan import work_of
from lepton_automl.search.rungs import cycles
from lepton_automl.search.sampler import seed_of
from lepton_automl.search.strategy import recipe_of
from lepton_automl.search.task import Task
from lepton_automl.search.trials import Candidate, Trials, parsed
from lepton_automl.search.work import SearchWork
from lepton_automl.shares import TEACHER

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

    def rung(self, candidate: Candidate, rung: int) -> Task:
        """Train `candidate` to the end of `rung`."""
        each = self._cycles(candidate, rung + 1)
        return self._task(candidate, str(rung), each, before=str(rung - 1))

    def final(self, candidate: Candidate, done: int, more: int, label: str) -> Task:
        """Train `candidate`, which has finished `done` rungs, for `more` epochs.

        Parameters
        ----------
        candidate : Candidate
            The winner, or one of the few that may be.
        done : int
            Rungs it has finished.
        more : int
            Epochs of this training.
        label : str
            Name of the last training, such as "final-0"; a longer budget makes another one.
        """
        each = self._cycles(candidate, done)
        each.append((more, seed_of(self._work.config.seed, candidate.number, label)))
        return self._task(candidate, label, each, before=str(done - 1))

    def fresh(
        self, candidate: Candidate, epochs: int, label: str, teachers: Sequence[str] = ()
    ) -> Task:
        """Train `candidate` from nothing, with weights and order that no rung has seen.

        Parameters
        ----------
        candidate : Candidate
            One of the few best.
        epochs : int
            Of this training, one schedule from start to end.
        label : str
            Name of the last training, such as "final-0"; it decides the seeds.
        teachers : sequence of str, optional
            Whose answers count beside the labels: numbers and rungs, such as "3-final-0".
        """
        seed = self._work.config.seed
        each = [(epochs, seed_of(seed, candidate.number, label))]
        task = self._task(candidate, label, each, before="none")
        recipe = recipe_of(candidate.recipe, label).to_json()
        weights = seed_of(seed, candidate.number, f"{label} weights")
        task = dataclasses.replace(task, start="", seed=weights, recipe=recipe)
        folders = tuple(str(self.checkpoint(*parsed(key))) for key in teachers)
        work = self.work(candidate.number, epochs, teachers)
        return dataclasses.replace(task, teachers=folders, work=work)

    def work(self, number: int, epochs: int, teachers: Sequence[str] = ()) -> float:
        """Size of a training in units of `work_of`, the answers of teachers included."""
        macs = self._trials.candidates[number].cost.macs
        answers = sum(self._trials.candidates[parsed(key)[0]].cost.macs for key in teachers)
        return work_of(macs + round((TEACHER - 1) * answers), self.samples, epochs)

    def mirror(self, arch: Arch, recipe: Recipe) -> Task:
        """Train briefly, twice, saving nothing; answer validation pictures mirrored as well."""
        samples = min(self.samples, PROBE_SAMPLES)
        epochs = max(1, PROBE_SAMPLES // samples)
        seed = seed_of(self._work.config.seed, "mirror")
        task = self._afresh("mirror-0", arch, recipe, ((1, 0), (epochs, 1)), seed)
        return dataclasses.replace(task, samples=samples, mirrors=True)

    def probe(self, candidate: Candidate) -> Task:
        """Train briefly, twice, saving nothing, to learn how fast this machine is."""
        samples = min(self.samples, PROBE_SAMPLES)
        epochs = max(1, PROBE_SAMPLES // samples)
        task = self._task(candidate, "probe", [(1, 0), (epochs, 0)], before="none")
        return dataclasses.replace(task, start="", out="", samples=samples)

    def checkpoint(self, number: int, rung: str) -> Path:
        """Folder of the model a candidate was at the end of a rung."""
        return self._folder / f"{number:05d}-{rung}"

    def collect(self, keep: set[Path]) -> None:
        """Delete all checkpoints but these."""
        for folder in self._folder.glob("[0-9]*-*"):
            if folder not in keep:
                self._delete(folder)

    def discard(self, number: int, rung: str) -> None:
        """Delete a checkpoint that a later one has replaced."""
        self._delete(self.checkpoint(number, rung))

    @staticmethod
    def _delete(checkpoint: Path) -> None:
        # First what makes it whole: killed half-way, it must not be taken for a model.
        with durable.writable(checkpoint):
            (checkpoint / WEIGHTS).unlink(missing_ok=True)
        shutil.rmtree(checkpoint, ignore_errors=True)

    @staticmethod
    def is_whole(checkpoint: Path) -> bool:
        """Whether a model was saved there to the end; its weights are written last."""
        return (checkpoint / WEIGHTS).is_file()

    def _cycles(self, candidate: Candidate, count: int) -> list[tuple[int, int]]:
        seeds = [seed_of(self._work.config.seed, candidate.number, index) for index in range(count)]
        return list(zip(self.cycles(candidate.number), seeds, strict=False))

    def _task(
        self, candidate: Candidate, rung: str, each: list[tuple[int, int]], before: str
    ) -> Task:
        start = self.checkpoint(candidate.number, before)
        is_there = self.is_whole(start)
        parts = self._parts(candidate.number, rung, len(each))
        each, parts = (each[-1:], parts[-1:]) if is_there else (each, parts)
        seed = seed_of(self._work.config.seed, candidate.number, "weights")
        key = f"{candidate.number}-{rung}"
        return dataclasses.replace(
            self._afresh(key, candidate.arch, candidate.recipe, tuple(each), seed),
            start=str(start) if is_there else "",
            out=str(self.checkpoint(candidate.number, rung)),
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

    def _parts(self, number: int, rung: str, count: int) -> list[int]:
        """In how many pieces the batches of each cycle go, or went when its rung was trained.

        A candidate for which memory ran out keeps to small pieces.
        """
        known = [score for score in self._trials.scores.get(number, []) if not score.failed]
        usual = known[-1].parts if known else 1
        earlier = [score.parts for score in known[: count - 1]]
        same = [score for score in known if score.rung == rung]
        last = same[0] if same else self._trials.final(number, rung)
        return earlier + [usual] * (count - 1 - len(earlier)) + [last.parts if last else usual]

    def _files(self, size: Size) -> tuple[LabelledFiles, LabelledFiles, Preprocessing]:
        if size not in self._data:
            data, cache = self._work.dataset, self._work.folder.cache
            train = data.files("train", size, cache)
            validation = data.files("validation", size, cache)
            self._data[size] = (train, validation, data.preprocessing(size))
        return self._data[size]
