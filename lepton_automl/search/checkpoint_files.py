"""The files of a finished training in RUN/checkpoints, with digests by which damage is noticed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_automl.core import files, untrusted_files
from lepton_automl.core.untrusted_files import WEIGHTS, may_be_whole
from lepton_automl.errors import DataError, MachineError
from lepton_automl.training.checkpoint import UNREADABLE_FIX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_automl.models.model import Model

MODEL_FILES = ("arch.json", "model.json", "weights.safetensors")
"""Files of a saved net; the weights are written last (`Model.save`)."""
_DIGESTS = "digests.json"
_FIX = "delete it: it is trained again"


def save_model(model: Model, folder: Path) -> None:
    """Write a model and the digests of its files.

    Raises
    ------
    MachineError
        If the folder cannot be written.
    """
    files.remove(folder / _DIGESTS)  # Those of other files must not stay after a kill.
    model.save(folder)
    files.write_json(folder / _DIGESTS, {name: _sha256(folder / name) for name in MODEL_FILES})


def write_model_files(content: Mapping[str, bytes], folder: Path) -> None:
    """As `save_model`, of the content of its files."""
    files.remove(folder / _DIGESTS)
    for name in MODEL_FILES:
        files.write(folder / name, content[name])
    digests = {name: hashlib.sha256(content[name]).hexdigest() for name in MODEL_FILES}
    files.write_json(folder / _DIGESTS, digests)


def damage(folder: Path) -> str:
    """What is wrong with a model in a few words; empty where its files are those that were written.

    Of models without digests, which earlier versions wrote, nothing is known.

    Raises
    ------
    MachineError
        If the machine does not let a file be read, which may be whole.
    """
    try:
        if not (folder / _DIGESTS).exists():
            return ""
        stated = untrusted_files.read_json(folder / _DIGESTS, fix=_FIX, top=dict)
        changed = [name for name in MODEL_FILES if stated.get(name) != _sha256(folder / name)]
    except DataError as error:
        if may_be_whole(error):
            raise MachineError(error.what, fix=f"{UNREADABLE_FIX} {folder}") from error
        return error.what
    return f"{changed[0]} has changed since it was written" if changed else ""


def _sha256(path: Path) -> str:
    return hashlib.sha256(untrusted_files.read_bytes(path, WEIGHTS, fix=_FIX)).hexdigest()
