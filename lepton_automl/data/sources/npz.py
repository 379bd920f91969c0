"""A `.npz` file of numpy arrays: `x_train y_train [x_val y_val] [x_test y_test]` or `x y`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lepton_automl.core import untrusted_arrays
from lepton_automl.data.layouts.named_arrays import converted, read_raw
from lepton_automl.data.sources import RawSamples, Samples, Source

_REWRITE = "write it again with np.savez(path, x_train=..., y_train=...)"


class Npz(Source):
    """Pictures and labels as arrays, found by their keys (`data.layouts.named_arrays`).

    Parameters
    ----------
    columns : mapping of str to str, optional
        What an array holds (`x`, `y_test`, `class_names`, ...) -> its key.
    channel_axis : {"first", "last"}, optional
        Where the channels are; None: by the shape.
    """

    uses = frozenset({"columns", "channel_axis"})

    def __init__(
        self, columns: Mapping[str, str] | None = None, channel_axis: str | None = None
    ) -> None:
        self._columns, self._channel_axis = columns, channel_axis

    def accepts(self, data: str) -> bool:
        return data.lower().endswith(".npz")

    def read(self, data: str) -> Samples:
        return converted(data, self.read_raw(data))

    def read_raw(self, data: str) -> RawSamples | Samples:
        with untrusted_arrays.open_npz(Path(data), fix=_REWRITE) as archive:
            return read_raw(data, archive, self._columns, self._channel_axis)
