"""Describe the run in a store, and delete objects that it no longer uses."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_automl.core.object_storage import StorageError
from lepton_automl.errors import DataError
from lepton_automl.runs.store import Log, Manifest, Store, collect
from lepton_automl.runs.store_copy import FOREIGN_GRACE_SECONDS
from lepton_automl.runs.stored_run import START_SECONDS, read_definition


@dataclass(frozen=True)
class StoreState:
    """The run in a store."""

    store: str
    """Its URL or path."""
    data: str
    """The data that it was begun with."""
    generation: int
    at_work: str
    """Name of the machine whose command has not given the run free; empty where all have."""
    events: int
    files: int
    file_bytes: int
    """Bytes of the files of the run."""
    alive_seconds: float
    """Seconds that commands have worked on it."""
    objects: int
    object_bytes: int
    """Bytes of all objects, also of those that nothing names."""
    deleted: int = 0
    deleted_bytes: int = 0
    """Objects that were deleted, and their bytes."""


def store_state(url: str, *, gc: bool = False) -> StoreState:
    """Read what run a store holds; with `gc` delete what nothing names and is older than a day.

    Parameters
    ----------
    url : str
        As `RunConfig.store`.
    gc : bool
        Whether objects are deleted that neither the run nor one that `--fresh` has moved aside
        names, and that are older than a day by the clock of the store.

    Raises
    ------
    ConfigError
        If the run is damaged.
    DataError
        If the store holds no run.
    MachineError
        If the store cannot be used.
    """
    try:
        store = Store.at(url, START_SECONDS)
        manifest, log = store.latest_log()
        if manifest is None or not manifest.batches:
            raise DataError(
                f"{store.place} holds no run", fix="give the URL that --store of `lepton run` had"
            )
        made = _state(store, manifest, log)
        if gc:
            count, size = collect(store, FOREIGN_GRACE_SECONDS)
            made = StoreState(**(vars(made) | {"deleted": count, "deleted_bytes": size}))
    except StorageError as error:
        raise error.as_machine_error() from error
    return made


def _state(store: Store, manifest: Manifest, log: Log) -> StoreState:
    definition = read_definition(store, log)
    objects = store.storage.objects("objects")
    return StoreState(
        store=store.place,
        data=definition.data,
        generation=manifest.generation,
        at_work=manifest.host if manifest.owner else "",
        events=manifest.events,
        files=len(log.files),
        file_bytes=sum(entry.size for entry in log.files.values()),
        alive_seconds=manifest.alive_seconds,
        objects=len(objects),
        object_bytes=sum(each.size for each in objects),
    )
