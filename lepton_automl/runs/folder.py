"""The run folder: its paths, and the claim of the command that works in it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_automl.config import (
    RunConfig,
)
from lepton_automl.core import files, untrusted_files
from lepton_automl.core.files import real_path
from lepton_automl.core.untrusted_files import DEFINITION
from lepton_automl.errors import ConfigError, DataError, LeptonError
from lepton_automl.runs.definition import Definition, check_format
from lepton_automl.runs.ledger import LedgerView, not_begun
from lepton_automl.runs.ledger_check import without_ledger
from lepton_automl.runs.lock import LOCK_FILE, RunLock


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run folder."""

    path: Path
    cache_of: Path | None = None
    """Another run folder whose cache is used; None: its own."""

    @property
    def definition_file(self) -> Path:
        """`run.toml`, which makes a folder a run."""
        return self.path / "run.toml"

    @property
    def space_file(self) -> Path:
        """A copy of the search space, so that a change of the original does not matter."""
        return self.path / "space.toml"

    @property
    def board_file(self) -> Path:
        """A copy of the board of `--board`, if given."""
        return self.path / "board.toml"

    @property
    def latency_file(self) -> Path:
        """A copy of the latency table of `--latency-from`, if given."""
        return self.path / "latency_table.json"

    @property
    def ledger(self) -> Path:
        """The ledger, the only file that is changed in place."""
        return self.path / "ledger.db"

    @property
    def lock_file(self) -> Path:
        """Whoever changes the folder holds its lock (`runs.lock`)."""
        return self.path / LOCK_FILE

    @property
    def cache(self) -> Path:
        """Decoded pictures; may be deleted at any time."""
        return (self.cache_of or self.path) / "cache"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of trainings, and the lock files of the workers."""
        return self.path / "checkpoints"

    @property
    def models(self) -> Path:
        """The winner and the compressed nets."""
        return self.path / "models"

    @property
    def best(self) -> Path:
        """The float net of the winner."""
        return self.models / "best"

    @property
    def picks(self) -> Path:
        """Results of `lepton pick`, a folder each."""
        return self.path / "picks"

    @property
    def artifact(self) -> Path:
        """The artifact: files, card and verdict."""
        return self.path / "artifact"

    @property
    def quarantine(self) -> Path:
        """What `--skip-corrupt` left out, beside the folder: it is known before the run is."""
        path = self.path if self.path.name not in {"", ".."} else real_path(self.path)
        return path.parent / f"{path.name}.corrupt.txt"

    def definition(self) -> Definition:
        """Read the definition of this run.

        Raises
        ------
        ConfigError
            If `run.toml` cannot be read, or another version of lepton made the folder in another
            format.
        """
        fix = "start again with --fresh, which moves the old folder aside"
        place = self.definition_file
        text = untrusted_files.read_text(
            place, DEFINITION, fix=fix, error=ConfigError, errors="surrogateescape"
        )
        document = untrusted_files.parse_toml(text, place, fix=fix, error=ConfigError)
        check_format(self.path, document)
        try:
            return Definition.from_toml(text)
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{self.definition_file} does not define a run: {error}", fix=fix
            ) from error

    def results(self) -> list[str]:
        """Names of the folders that hold results of this run."""
        folders = (self.models, self.artifact, self.picks, self.checkpoints)
        return [path.name for path in folders if path.is_dir() and any(path.iterdir())]

    def read_ledger(self) -> LedgerView:
        """Open the ledger of this run for reading.

        Raises
        ------
        DataError
            If the run has not begun.
        ConfigError
            If the ledger is damaged, missing beside results, or that of another run.
        """
        beside = self.results()
        if not self.ledger.exists():
            raise without_ledger(self.ledger, beside) if beside else not_begun(self.path)
        try:
            return LedgerView(self.ledger, run_id=self.definition().run_id)
        except DataError as error:
            if not beside:
                raise
            raise without_ledger(self.ledger, beside, "holds no event") from error

    def check_winner(self) -> None:
        """Refuse a run whose search has saved no net yet.

        Raises
        ------
        DataError
            If `models/best` is not complete.
        """
        if not (self.best / "recipe.json").is_file():
            raise DataError(
                f"{self.path} has no winner yet: there is no {self.best}",
                fix="run `lepton search` into this folder first",
            )

    @contextmanager
    def claimed(self, wanted: Definition, *, fresh: bool, run_id: str = "") -> Iterator[RunLock]:
        """Create the run that `wanted` defines in this folder, or continue it.

        The lock of the folder is taken before anything is changed, and held until the block ends.
        A run that is begun elsewhere has `run_id` already.

        Raises
        ------
        ConfigError
            If another command works on the run, or the folder holds another run, or other files.
        MachineError
            If the folder cannot be written or locked.
        """
        self.check_claim(wanted, fresh=fresh)
        with self._locked(fresh=fresh) as lock:
            # Another command may have changed the folder before the lock was taken.
            self.check_claim(wanted, fresh=fresh)
            if self.definition_file.exists():
                self._update_paths(wanted)
            else:
                new = dataclasses.replace(wanted, run_id=run_id or uuid.uuid4().hex[:16])
                files.write(self.definition_file, new.to_toml())
            yield lock

    def check_claim(self, wanted: Definition, *, fresh: bool) -> None:
        """Whether `claimed` will succeed as the folder is now, changing nothing.

        Raises
        ------
        ConfigError
            If the folder holds another run or other files, or its data have changed.
        """
        if fresh:
            return
        if self.definition_file.exists():
            self.definition().check_same(
                wanted, str(self.path), "another --out", "--fresh, which moves the old folder aside"
            )
            return
        if not self._is_empty():
            raise ConfigError(
                f"{self.path} is not empty and not a run of lepton",
                fix="give a new folder with --out",
            )

    def discard(self) -> None:
        """Delete a run that has trained nothing; other files in the folder stay.

        The caller holds its lock.
        """
        for folder in (self.cache, self.checkpoints):
            files.remove_folder(folder)
        own = (self.definition_file, self.space_file, self.board_file, self.latency_file)
        lock = self.path / LOCK_FILE
        for file in (*own, *(set(self.path.glob("ledger.*")) - {lock}), lock):
            files.remove(file)
        with contextlib.suppress(OSError):  # The folder holds other files too.
            self.path.rmdir()

    def _update_paths(self, wanted: Definition) -> None:
        """Record the place of data that have moved, for later commands."""
        known = self.definition()
        names = ("data", "data_kind", "test", "test_kind")
        now = dataclasses.replace(known, **{name: getattr(wanted, name) for name in names})
        if now != known:
            files.write(self.definition_file, now.to_toml())

    def _locked(self, *, fresh: bool) -> RunLock:
        """Take the lock of this folder, if `fresh` after what is in it was moved aside."""
        while True:
            lock = RunLock(self.path)
            if not fresh or self._is_empty():
                return lock
            with lock:  # It moves with the folder.
                self._move_aside(lock)

    def _is_empty(self) -> bool:
        """Whether there is nothing but what a command that is killed at its start leaves."""
        if not self.path.is_dir():
            return True
        return all(files.is_leftover(p) or p.name == LOCK_FILE for p in self.path.iterdir())

    def _move_aside(self, lock: RunLock) -> None:
        path = real_path(self.path)
        if Path.cwd().is_relative_to(path):
            raise ConfigError(
                f"--fresh moves {self.path} aside, and it is or holds the working directory",
                fix="run the command in another directory, or give another folder with --out",
            )
        stamp, number = time.strftime("%Y%m%d-%H%M%S"), 1
        aside = path.with_name(f"{path.name}.{stamp}")
        while aside.exists():
            number += 1
            aside = path.with_name(f"{path.name}.{stamp}-{number}")
        with files.wrap_os_errors(path):
            path.rename(aside)
            if lock.is_new:
                (aside / LOCK_FILE).unlink()


def locate(path: Path) -> RunFolder:
    """Find the run folder from a path to it, to its `artifact/` or to an ONNX file in it.

    Raises
    ------
    DataError
        If there is no run.
    """
    for candidate in (path, path.parent, path.parent.parent, *real_path(path).parents[:4]):
        if (candidate / "run.toml").is_file():
            return RunFolder(candidate)
    raise _nothing_at(path, "a run of lepton", "run.toml")


def locate_artifact(path: Path) -> Path:
    """Find the artifact folder from a path to it, to its run folder or to a file in it.

    Raises
    ------
    DataError
        If there is no finished artifact.
    """
    folder = path.parent if path.is_file() else path
    for candidate in (folder, folder / "artifact"):
        if (candidate / "manifest.json").is_file():
            return candidate
    raise _nothing_at(path, "a finished artifact", "manifest.json")


def default_out(data: str) -> Path:
    """`runs/NAME` with the name of the data, or of its parent where the name is `train`."""
    if ":" in data and not Path(data).exists():  # MODULE:ATTRIBUTE of a data set in Python.
        return Path("runs") / data.replace(":", "-")
    path = real_path(data)
    named = path.parent if path.stem.lower() in {"train", "training"} else path
    return Path("runs") / (named.stem or "data")


def _nothing_at(path: Path, what: str, file: str) -> LeptonError:
    reason = "there is no such path" if not path.exists() else f"there is no {file}"
    if file == "manifest.json" and any((p / "run.toml").is_file() for p in (path, path.parent)):
        return DataError(
            f"{path} is not {what} yet: {reason}",
            fix="finish its run: the same `lepton run`, or `lepton compress` and `lepton export`",
        )
    return DataError(
        f"{path} is not {what}: {reason}",
        fix="give a folder that `lepton run` or `lepton search` made, or run one of them first",
    )


def configured(folder: RunFolder, **changes: Any) -> RunConfig:
    """Configuration that continues the run in `folder`, with `changes`."""
    known = folder.definition()
    if known.model:
        raise DataError(
            f"{folder.path} compresses a model made elsewhere: there is no search to continue",
            fix=f"`lepton verify {folder.path}` judges its file again; to compress the model with "
            "other limits run `lepton compress MODEL --data DATA --out FOLDER`",
        )
    known.find_data(f"lepton search DATA --out {folder.path}")
    if folder.board_file.is_file():
        changes = {"board": str(folder.board_file)} | changes
    return RunConfig(
        data=known.data,
        out=folder.path,
        test=Path(known.test) if known.test else None,
        skip_corrupt=known.skip_corrupt,
        group=known.group or None,
        time=known.time or None,
        parts=known.parts or None,
        columns=known.columns or None,
        root=Path(known.root) if known.root else None,
        channel_axis=known.channel_axis,
        window=known.window or None,
        stride=known.stride or None,
        rate=known.rate or None,
        mels=known.mels or None,
        band_mean=known.band_mean,
        flip=known.flip,
        refit=known.refit,
        temperature=known.temperature,
        judge=known.judge,
        balance="on" if known.balanced else "off",
        channels=known.channels,
        pixel_scale=known.pixel_scale,
        input_type=known.input_type,
        space=str(folder.space_file),
        limits=known.limits,
        objectives=known.objectives,
        seed=known.seed,
        sampler=known.sampler,
        target=known.target,
        prefer="latency" if known.prefer == "latency" else "size",
        latency_from=folder.latency_file if known.latency_from else None,
        warm_start=Path(known.warm_start) if known.warm_start else None,
        **changes,
    )
