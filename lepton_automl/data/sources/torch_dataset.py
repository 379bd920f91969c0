"""A map-style data set of Python, as torch's: `MODULE:ATTRIBUTE`, or an object from Python."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lepton_automl.data.layouts import array_keys, named_arrays
from lepton_automl.data.layouts.named_arrays import MemoryArrays, converted
from lepton_automl.data.layouts.part_names import parts_named
from lepton_automl.data.pictures import decode
from lepton_automl.data.pictures.pixel_scale import RawArray
from lepton_automl.data.samples import PARTS, RawSamples, Samples
from lepton_automl.data.signals import MAX_CHANNELS
from lepton_automl.data.sources import Source
from lepton_automl.errors import DataError, first_line

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
"""`MODULE:ATTRIBUTE`, both with dots."""
_OBJECT = re.compile(r"<[\w.]+ object>")
"""What stands for an object that a program passed (`option_texts.object_name`)."""
_KEYS = {"train": "train", "validation": "val", "test": "test", "": ""}
"""Part -> its name in the keys of arrays."""
_MOST_BYTES = 8 << 30
"""Bytes of the values of one part; they are held in memory."""
_READ_TWICE = 16
"""Items that are read a second time, to see that the data set does not change them at random."""
_DEPTH = 8
"""Data sets in data sets, such as torch's `Subset`, in which class names are looked for."""
_RULE = (
    "give an object with __len__ and __getitem__ whose items are (picture, label), a dict or tuple "
    "of them as parts, or a function that returns one"
)
_TO_PARQUET = "data.cast_column('audio', Audio(decode=False)).to_parquet('sound.parquet')"
_ITEMS = "each item is (picture, label), or a dict with one of each"

Array = NDArray[Any]
T = TypeVar("T")


class TorchDataset(Source):
    """Items `(picture, label)` of an object with `__len__` and `__getitem__`.

    Pictures are PIL images, arrays or tensors; arrays of one shape are read as those of an `.npz`
    file. Items may be dicts, as those of Hugging Face, with one picture and one label. Class names
    come from `classes`, groups from `groups`, where the data set has them. Several parts are a
    dict, or a tuple (train, test) or (train, validation, test).

    Parameters
    ----------
    dataset : object, optional
        The data set; None: DATA names it.
    channel_axis : {"first", "last"}, optional
        Where the channels are; None: by the shape.
    """

    uses = frozenset({"dataset", "channel_axis"})

    def __init__(self, dataset: object | None = None, channel_axis: str | None = None) -> None:
        self._dataset, self._channel_axis = dataset, channel_axis

    def accepts(self, data: str) -> bool:
        is_name = _NAME.fullmatch(data) is not None or _OBJECT.fullmatch(data) is not None
        return is_name and not Path(data).exists()

    def read(self, data: str) -> Samples:
        return converted(data, self.read_raw(data))

    def read_raw(self, data: str) -> RawSamples | Samples:
        # Standard output is for results, not for what the user's code prints.
        with contextlib.redirect_stdout(io.StringIO()):
            dataset = self._dataset if self._dataset is not None else _load(data)
            return _read(data, dataset, self._channel_axis)


def _load(data: str) -> object:
    """The object that `MODULE:ATTRIBUTE` names; of a function what it returns."""
    if _OBJECT.fullmatch(data):
        raise DataError(
            f"the data were the Python object {data}, which only the program that made it has",
            fix="continue with the call that began the run, lepton_automl.run(DATASET, out=...), "
            "or give the object: api.compress(RUN, DATASET), api.export, api.pick; to use every "
            "command, name the data set as MODULE:ATTRIBUTE or save its arrays in an "
            ".npz file",
        )
    module, _, path = data.partition(":")
    with _importable_here():
        found: Any = _called(data, f"importing {module}", lambda: importlib.import_module(module))
        for name in path.split("."):
            if not hasattr(found, name):
                names = [each for each in dir(found) if not each.startswith("_")]
                raise DataError(
                    f"{data}: there is no {name!r}; {module} has {', '.join(names[:12]) or 'none'}",
                    fix="name the data set of the module as MODULE:ATTRIBUTE",
                )
            found = getattr(found, name)
        if callable(found) and not hasattr(found, "__getitem__") and not isinstance(found, type):
            function = found
            found = _called(data, "calling it", lambda: function())
    return found


@contextlib.contextmanager
def _importable_here() -> Iterator[None]:
    """Modules of the working directory can be imported, as by `python -m`."""
    here = str(Path.cwd())
    is_added = here not in sys.path and "" not in sys.path
    if is_added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if is_added and here in sys.path:
            sys.path.remove(here)


def _called(data: str, what: str, function: Callable[[], T]) -> T:
    """The result of the user's code; an error of it becomes one message with its place."""
    try:
        return function()
    except MemoryError:
        raise
    # Whatever the user's code raises is an error in the data.
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = (__file__, importlib.__file__, "<frozen")
        outside = [frame for frame in frames if not frame.filename.startswith(ours)]
        place = f" ({outside[-1].filename}, line {outside[-1].lineno})" if outside else ""
        raise DataError(
            f"{data}: {what} raised {type(error).__name__}: {first_line(error) or 'no text'}"
            f"{place}",
            fix="correct that code, or put its folder on PYTHONPATH where a module is missing",
        ) from error


@dataclass(frozen=True)
class _Part:
    """Values and labels of one part."""

    name: str
    """Of the array in messages: `x_train`."""
    part: str
    """`train`, `validation`, `test`, or empty."""
    values: Array | list[Array]
    """(N, ...), or an array a sample where their shapes differ."""
    labels: Array


def _read(data: str, dataset: object, channel_axis: str | None) -> RawSamples | Samples:
    sets = _parts(data, dataset)
    parts = [_items(data, part, each) for part, each in sets.items()]
    is_of_one_shape = all(isinstance(part.values, np.ndarray) for part in parts)
    arrays: dict[str, Array] = {}
    for part, each in zip(parts, sets.values(), strict=True):
        is_array = is_of_one_shape and isinstance(part.values, np.ndarray)
        # Where shapes differ one pixel stands for each picture, which keeps its own shape.
        one_pixel = np.zeros((len(part.labels), 1, 1), np.uint8)
        arrays[_key("x", part.part)] = np.asarray(part.values) if is_array else one_pixel
        arrays[_key("y", part.part)] = part.labels
        groups = getattr(each, "groups", None)
        if groups is not None and not callable(groups):
            arrays[_key("group", part.part)] = np.asarray(groups)
    if (names := _class_names(next(iter(sets.values())))) is not None:
        arrays["class_names"] = np.array(names)
    note = f"{data} is Python code, which has just run with your rights"
    raw = named_arrays.read_raw(
        data,
        MemoryArrays(arrays),
        None,
        channel_axis if is_of_one_shape else None,
        notes=() if _OBJECT.fullmatch(data) else (note,),
    )
    if is_of_one_shape or isinstance(raw, Samples):
        return raw
    return _of_several_shapes(data, raw, parts, channel_axis)


def _key(what: str, part: str) -> str:
    """Name of an array: `x_train`, or `x` of samples without a part."""
    return f"{what}_{_KEYS[part]}".rstrip("_")


def _parts(data: str, dataset: object) -> dict[str, Any]:
    """Part -> its data set; an empty name where there are no parts."""
    if isinstance(dataset, Mapping):
        names = parts_named(str(key) for key in dataset)
        if unknown := [str(key) for key in dataset if str(key) not in names]:
            raise DataError(
                f"{data} is a dict with the key {unknown[0]!r}, which names no part",
                fix="call the parts train, validation and test",
            )
        found = {names[str(key)]: each for key, each in dataset.items()}
        if len(found) < len(dataset) or not found:
            raise DataError(
                f"{data} is a dict with the keys {', '.join(map(repr, dataset))}, the rule is each "
                "of train, validation and test once",
                fix="call the parts train, validation and test",
            )
        found = {part: found[part] for part in PARTS if part in found}
    elif isinstance(dataset, tuple):
        if len(dataset) not in (2, 3):
            raise DataError(
                f"{data} is a tuple of {len(dataset)}, the rule is (train, test) or (train, "
                "validation, test)",
                fix="give samples as a list, and parts as such a tuple or as a dict",
            )
        names_of = PARTS if len(dataset) == 3 else (PARTS[0], PARTS[2])
        found = dict(zip(names_of, dataset, strict=True))
    else:
        found = {"": dataset}
    for part, each in found.items():
        _check_is_data_set(f"{data}[{part!r}]" if part else data, each)
    return found


def _check_is_data_set(name: str, dataset: object) -> None:
    kind = type(dataset).__name__
    if isinstance(dataset, type):
        raise DataError(
            f"{name} is the class {dataset.__name__}, not a data set",
            fix="name an object of it, or a function that returns one",
        )
    if isinstance(dataset, (np.ndarray, str, bytes)) or _is_tensor(dataset):
        raise DataError(
            f"{name} is of the type {kind}, not a data set of pictures with labels",
            fix="give (picture, label) items: list(zip(x, y)), or TensorDataset(x, y) of torch",
        )
    for method in ("__len__", "__getitem__"):
        if not hasattr(dataset, method):
            raise DataError(f"{name} is of the type {kind}, which has no {method}", fix=_RULE)


def _items(data: str, part: str, dataset: Any) -> _Part:
    """All samples of a part, read one after the other."""
    key = _key("x", part)
    count = _called(data, "its length", lambda: len(dataset))
    if not count:
        raise DataError(f"{data}: {key} holds no samples", fix="give labelled pictures")
    labels: list[object] = []
    values: Array | list[Array] = []
    for place in range(count):
        value, label = _item(data, key, dataset, place)
        labels.append(label)
        if not place:
            _check_size(data, key, count, value)
            values = np.empty((count, *value.shape), value.dtype)
        if isinstance(values, np.ndarray):
            if (value.shape, value.dtype) == (values.shape[1:], values.dtype):
                values[place] = value
                continue
            values = list(values[:place])
        values.append(value)
    _check_is_fixed(data, key, dataset, values)
    return _Part(key, part, values, _label_array(data, part, labels))


def _item(data: str, key: str, dataset: Any, place: int) -> tuple[Array, object]:
    name = f"{data}: {key}[{place}]"
    item = _called(data, f"item {place} of {key}", lambda: dataset[place])
    if isinstance(item, Mapping):
        found: dict[str, list[str]] = {"x": [], "y": []}
        for field in item:
            what = array_keys.meaning(str(field))
            found.get(what, []).append(field)
        if any(len(fields) != 1 for fields in found.values()):
            shown = ", ".join(map(repr, list(item)[:12]))
            fix = f"{_ITEMS}: image, label"
            if "audio" in item:
                fix = f"of a Hugging Face data set with sound give the file of {_TO_PARQUET}; {fix}"
            raise DataError(f"{name} is a dict with {shown}", fix=fix)
        item = item[found["x"][0]], item[found["y"][0]]
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        length = f" of {len(item)}" if isinstance(item, (tuple, list)) else ""
        raise DataError(f"{name} is of the type {type(item).__name__}{length}", fix=_ITEMS)
    return _values(name, item[0]), _label(name, item[1])


def _values(name: str, picture: Any) -> Array:
    """Pixels or values of a sample; of PIL images always (H, W, C)."""
    if isinstance(picture, Image.Image):
        return decode.image_pixels(picture)
    found = _array_of(picture)
    if found is None or found.dtype.kind not in "buif" or not found.ndim:
        shown = type(picture).__name__ if found is None else f"{found.dtype} {found.shape}"
        raise DataError(
            f"{name} has a picture of the type {shown}",
            fix="give a PIL image, an array or a tensor of numbers",
        )
    return found


def _array_of(value: Any) -> Array | None:
    """An array, or a tensor of torch or another package as an array; None of other objects."""
    if isinstance(value, np.ndarray):
        return value
    if not _is_tensor(value):
        return None
    value = value.detach().cpu() if hasattr(value, "detach") else value
    if "bfloat16" in str(value.dtype):  # numpy has no such type.
        value = value.float()
    return np.asarray(value)


def _is_tensor(value: object) -> bool:
    return hasattr(value, "dtype") and (hasattr(value, "detach") or hasattr(value, "__array__"))


def _label(name: str, label: Any) -> object:
    """A number, a text, or a one-hot row."""
    if isinstance(label, (bool, int, str, np.integer, np.bool_)):
        return label
    found = np.asarray(label) if isinstance(label, np.generic) else _array_of(label)
    if found is not None and found.size == 1:  # Also a row of one number, as MedMNIST has it.
        return found.item()
    if found is not None and found.ndim == 1 and len(found) > 1:
        return found
    raise DataError(
        f"{name} has a label of the type {type(label).__name__}",
        fix="give the number or the name of a class, or a one-hot row",
    )


def _label_array(data: str, part: str, labels: Sequence[object]) -> Array:
    key = _key("y", part)
    kinds = {str if isinstance(each, str) else getattr(each, "shape", ()) for each in labels}
    if len(kinds) > 1:
        raise DataError(
            f"{data}: labels of {key} are of several kinds",
            fix="give numbers, texts or one-hot rows throughout",
        )
    return np.array(labels)


def _check_size(data: str, key: str, count: int, first: Array) -> None:
    if count * first.nbytes > _MOST_BYTES:
        smaller = "" if first.dtype == np.uint8 else ": uint8 pixels as they are stored"
        raise DataError(
            f"{data}: {key} takes {count * first.nbytes / 2**30:.1f} GiB ({count} samples "
            f"{first.dtype} {first.shape}), at most {_MOST_BYTES >> 30} GiB are read into memory",
            fix=f"give smaller pictures{smaller}; or a folder or table of picture files, which are "
            "read one by one",
        )


def _check_is_fixed(data: str, key: str, dataset: Any, values: Array | list[Array]) -> None:
    """Refuse a data set that gives other values at a second reading."""
    places = np.unique(np.linspace(0, len(values) - 1, _READ_TWICE).round().astype(np.int64))
    for place in places.tolist():
        again, known = _item(data, key, dataset, place)[0], values[place]
        if again.shape != known.shape or not np.array_equal(again, known, equal_nan=True):
            raise DataError(
                f"{data}: {key}[{place}] has other values at a second reading, as after random "
                "augmentation",
                fix="leave random transforms out: lepton augments pictures itself, and a run can "
                "only be continued and verified on the same data",
            )


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    """Names of the classes, where the data set or one that it is a part of has them."""
    for _ in range(_DEPTH):
        names = getattr(dataset, "classes", None)
        for key in ("label", "labels"):  # Hugging Face.
            feature = (getattr(dataset, "features", None) or {}).get(key)
            names = names or getattr(feature, "names", None)
        if isinstance(names, (list, tuple)) and names:
            return tuple(str(name) for name in names)
        if not hasattr(dataset, "dataset"):
            return None
        dataset = dataset.dataset
    return None


def _of_several_shapes(
    data: str, raw: RawSamples, parts: Sequence[_Part], channel_axis: str | None
) -> RawSamples:
    """Pictures that keep their own shapes, but share one pixel scale."""
    pictures = [[np.asarray(value) for value in part.values] for part in parts]
    axis = channel_axis or _shared_axis([x for each in pictures for x in each])
    flat, shapes = [], []
    for part, each in zip(parts, pictures, strict=True):
        upright = []
        for place, x in enumerate(each):
            name = f"{data}: {part.name}[{place}]"
            if x.ndim not in (2, 3):
                raise DataError(
                    f"{name} has shape {x.shape}, and samples differ in shape",
                    fix="give pictures (H, W) or (H, W, C), or signals of one length",
                )
            upright.append(
                named_arrays.to_pictures(name, x[None], axis if x.ndim == 3 else None)[0]
            )
            if x.dtype.kind == "f" and not np.isfinite(x).all():
                raise DataError(
                    f"{name} has NaN or infinite pixels", fix="repair this picture or remove it"
                )
        shapes += [x.shape for x in upright]
        values = np.concatenate([x.reshape(-1) for x in upright])
        flat.append(RawArray(part.name, part.part, values.reshape(-1, 1, 1, 1)))
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])

    def samples(pixels: NDArray[np.uint8]) -> Samples:
        rows = np.split(pixels.reshape(-1), ends[:-1])
        made = raw.samples(np.zeros((len(shapes), 1, 1, 1), np.uint8))
        own = tuple(row.reshape(shape) for row, shape in zip(rows, shapes, strict=True))
        return dataclasses.replace(made, pictures=own)

    return RawSamples(tuple(flat), samples)


def _shared_axis(pictures: Sequence[Array]) -> str | None:
    """Where the channels of pictures of several shapes are, by all of them together."""
    shapes = {x.shape for x in pictures if x.ndim == 3}
    for most in ((1, 3), range(1, MAX_CHANNELS + 1)):
        is_first, is_last = (all(shape[n] in most for shape in shapes) for n in (0, 2))
        if is_first != is_last:
            return "first" if is_first else "last"
    return None
