"""A checkpoint of a training in progress, from which it continues bit for bit."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lepton_automl.core import files, untrusted_files
from lepton_automl.core.untrusted_files import JSON, WEIGHTS, may_be_whole
from lepton_automl.errors import DataError, MachineError, first_line
from lepton_automl.training.distributed import SINGLE_PROCESS, ProcessGroup

_INTERVAL_SECONDS = 20.0
"""Seconds between two checkpoints: the most that a killed training loses."""

RESUME_FILE = "resume.safetensors"
"""Name of the file, in the folder of the future model."""
_STEP_BYTES = 8
_HEAD_BYTES = 8
"""Of the size of the header, at the beginning of a file of safetensors' format."""

UNREADABLE_FIX = (
    "check the disk and the rights, then run the same command; or, to train anew, delete"
)
_FIX = "delete it: the training begins anew"

_DIGEST = "sha256"
"""Key of the digest over the other metadata and all tensors."""

StateDict = dict[str, Tensor]


class Stateful(Protocol):
    """A part of a training with state that changes from step to step (a module, an optimizer)."""

    def state_dict(self) -> Mapping[str, Any]:
        """All tensors that decide the steps to come, by name."""

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> object:
        """Restore the state that `state_dict` returned."""


class Checkpoint:
    """A file with the state of one training.

    Parameters
    ----------
    path : Path
        The file, in safetensors' format; replaced as a whole.
    key : str
        Hash of everything that decides the training. A file with another key, a damaged one, and
        one of a version with other state are ignored.
    interval_seconds : float, optional
        Seconds between two writes.
    process_group : ProcessGroup
        This process in a data-parallel training; only the first one reads and writes the file.
    """

    def __init__(
        self,
        path: Path,
        key: str,
        interval_seconds: float | None = None,
        *,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.path, self.key, self._process_group = path, key, process_group
        self._interval = _INTERVAL_SECONDS if interval_seconds is None else interval_seconds
        self._last_save = time.monotonic()

    def save_if_due(self, step: int, parts: Mapping[str, Stateful], *, share: float = 0.0) -> None:
        """Write the state after `step` batches if the interval has passed.

        `share` of the training, 0 to 1, is done by then; `saved_share` reads it.

        Raises
        ------
        MachineError
            If the file cannot be written.
        """
        now = time.monotonic()
        if self._process_group.rank or now - self._last_save < self._interval:
            return
        tensors = {
            f"{name}/{key}": tensor.detach().cpu().contiguous()
            for name, part in parts.items()
            for key, tensor in part.state_dict().items()
        }
        metadata = {"key": self.key, "step": str(step), "share": f"{share:.6f}"}
        metadata[_DIGEST] = _digest(metadata, tensors)
        files.write(self.path, save(tensors, metadata))
        self._last_save = time.monotonic()

    def resume(self, parts: Mapping[str, Stateful]) -> int:
        """Load the state into all parts; the batches done by then, 0 without a valid file.

        All processes of a training call it: those on other machines have no file.
        """
        saved = b"" if self._process_group.rank else self._read()
        saved = self._process_group.broadcast_bytes(saved)
        if not saved:
            return 0
        step, tensors = int.from_bytes(saved[:_STEP_BYTES]), load(saved[_STEP_BYTES:])
        states = {
            name: {
                key.removeprefix(f"{name}/"): tensor
                for key, tensor in tensors.items()
                if key.startswith(f"{name}/")
            }
            for name in parts
        }
        # Of a version whose trainings had another state.
        is_known = len(tensors) == sum(map(len, states.values()))
        if not is_known or not all(_suits(states[name], part) for name, part in parts.items()):
            return 0
        for name, part in parts.items():
            part.load_state_dict(states[name])
        return step

    def _read(self) -> bytes:
        """The step in `_STEP_BYTES` bytes, then the file; nothing without a valid file."""
        if not self.path.is_file() or damage(self.path):
            return b""
        content = _content(self.path)
        try:
            metadata = _metadata(content)
            if metadata["key"] != self.key:
                return b""
            return int(metadata["step"]).to_bytes(_STEP_BYTES) + content
        except (KeyError, TypeError, ValueError, OverflowError):
            return b""


def _suits(found: StateDict, part: Stateful) -> bool:
    """Whether these are finite tensors of the names, types and shapes that a part has."""
    wanted = part.state_dict()
    return found.keys() == wanted.keys() and all(
        found[name].dtype == tensor.dtype
        and _grown(found[name].shape, tensor) == tensor.shape
        and bool(torch.isfinite(found[name]).all())
        for name, tensor in wanted.items()
    )


def _grown(shape: torch.Size, now: Tensor) -> torch.Size:
    """A shape without the entries of a list that is empty at the beginning of a training."""
    is_list = now.ndim and not len(now) and len(shape) == now.ndim
    return torch.Size((0, *shape[1:])) if is_list else shape


def _digest(metadata: Mapping[str, str], tensors: StateDict) -> str:
    """SHA-256 over all that a file holds."""
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def damage(path: Path) -> str:
    """What is wrong with the file of a training in a few words; empty if it is missing or whole.

    Raises
    ------
    MachineError
        If the machine does not let it be read; it may be whole.
    """
    if not path.exists():
        return ""
    if not path.is_file():
        return f"{path.name} is not a file"
    try:
        content = _content(path)
        metadata, tensors = _metadata(content), load(content)
    except (DataError, SafetensorError, ValueError) as error:
        return f"{path.name} cannot be read: {first_line(error)}"
    if _DIGEST not in metadata:
        return f"{path.name} has no digest; another version wrote it"
    if metadata.pop(_DIGEST) != _digest(metadata, tensors):
        return f"{path.name} has changed since it was written"
    return ""


def saved_share(path: Path) -> float:
    """Share of a training that the checkpoint at `path` holds; 0.0 without a valid file."""
    try:
        with untrusted_files.open_file(path, WEIGHTS, fix=_FIX) as file:
            head = file.read(_HEAD_BYTES)
            size = min(int.from_bytes(head, "little"), JSON.max_bytes)
            share = float(_metadata(head + file.read(size))["share"])
    except (OSError, DataError, KeyError, TypeError, ValueError):
        return 0.0
    return share if 0 <= share <= 1 else 0.0


def _content(path: Path) -> bytes:
    """Content of a file; MachineError where it may be whole and cannot be read."""
    try:
        return untrusted_files.read_bytes(path, WEIGHTS, fix=_FIX)
    except DataError as error:
        if may_be_whole(error):
            raise MachineError(error.what, fix=f"{UNREADABLE_FIX} {path}") from error
        raise


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata in the header of a file of safetensors' format.

    Raises
    ------
    ValueError
        If there is no such header.
    """
    size = int.from_bytes(content[:_HEAD_BYTES], "little")
    header = content[_HEAD_BYTES : _HEAD_BYTES + size]
    try:
        found = untrusted_files.parse_json(header, "its header", fix=_FIX, top=dict)
    except DataError as error:
        raise ValueError(error.what) from error
    metadata = found.get("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError("its metadata are not an object")
    return metadata


class _NoCheckpoint(Checkpoint):
    """Never writes and never resumes."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull), "", math.inf)

    def resume(self, parts: Mapping[str, Stateful]) -> int:
        del parts
        return 0


NO_CHECKPOINT = _NoCheckpoint()
"""For trainings that start from their beginning when they are run again."""
