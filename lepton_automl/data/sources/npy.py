"""Arrays in `.npy` files of one folder: `x.npy` beside `y.npy`, or `x_train.npy` and so on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lepton_automl.core import untrusted_arrays
from lepton_automl.core.untrusted_arrays import Header
from lepton_automl.data.layouts.folder_kinds import folder_kind
from lepton_automl.data.layouts.named_arrays import converted, read_raw
from lepton_automl.data.sources import RawSamples, Samples, Source
from lepton_automl.errors import DataError

_REWRITE = "write it again with np.save(path, array)"


class Npy(Source):
    """Pictures and labels in files whose names say what they hold (`data.layouts.named_arrays`).

    Parameters
    ----------
    columns : mapping of str to str, optional
        What a file holds (`x`, `y_test`, `class_names`, ...) -> its name without `.npy`.
    channel_axis : {"first", "last"}, optional
        Where the channels are; None: by the shape.
    """

    uses = frozenset({"columns", "channel_axis"})

    def __init__(
        self, columns: Mapping[str, str] | None = None, channel_axis: str | None = None
    ) -> None:
        self._columns, self._channel_axis = columns, channel_axis

    def accepts(self, data: str) -> bool:
        is_file = data.lower().endswith(".npy") and Path(data).is_file()
        return is_file or folder_kind(data) == "npy"

    def read(self, data: str) -> Samples:
        return converted(data, self.read_raw(data))

    def read_raw(self, data: str) -> RawSamples | Samples:
        path = Path(data)
        folder = path if path.is_dir() else path.parent
        return read_raw(data, _Files(folder), self._columns, self._channel_axis)


class _Files:
    """The `.npy` files of a folder, under their names without the suffix."""

    def __init__(self, folder: Path) -> None:
        self._paths = {
            path.stem: path
            for path in sorted(folder.iterdir())
            if path.suffix.lower() == ".npy" and not path.name.startswith(".")
        }

    @property
    def files(self) -> list[str]:
        return list(self._paths)

    def headers(self) -> dict[str, Header]:
        found = {}
        for name, path in self._paths.items():
            try:
                found[name] = untrusted_arrays.read_npy_header(path, fix=_REWRITE)
            except DataError:
                continue
        return found

    def read(self, key: str) -> NDArray[Any]:
        return untrusted_arrays.read_npy(self._paths[key], fix=_REWRITE)
