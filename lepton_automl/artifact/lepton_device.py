"""Verify, classify and measure with an artifact of lepton where lepton and torch are not installed.

    python lepton_device.py verify  ARTIFACT [--format NAME]
    python lepton_device.py predict ARTIFACT FILE ... [--format NAME] [--json]
    python lepton_device.py bench   ARTIFACT [OTHER.onnx ...] [--threads N] [--seconds S] [--json]

ARTIFACT is the folder that holds this file, or an ONNX file of lepton. It needs Python 3.9, numpy,
and what runs the format: onnxruntime (onnx, any_size), ai-edge-litert (litert), a C compiler (c).
Pictures are read with Pillow, .npy and .csv files and WAV recordings without it. This file runs on
trust as any program does: `lepton verify` and a signature say whether it is the one that was
written. The files beside it are checked by their digests before they are used, which whoever makes
the digests can choose: c/net.c is compiled and run as code.
Exit codes: 0; 2 if the command is wrong; 3 if a file cannot be read; 6 if `verify` finds a problem;
7 if something is missing.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ANY_SIZE = "any_size"
FORMATS = {
    "onnx": "model.int8.onnx",
    ANY_SIZE: "model.int8.any_size.onnx",
    "litert": "model.int8.tflite",
    "c": "c/net.c",
}
SIDE = 64
"""Pixels of a side of the picture that is timed where a file takes any."""
TOLERANCE = 0.05
"""Largest difference of a golden probability between machines and formats."""
LEAST_PROBABILITY = 1e-6
"""That counts where the predictions of windows of a recording are joined."""
MOST_BYTES, MOST_JSON_BYTES = 1 << 30, 16 << 20
"""Of a file of an artifact, and of its JSON files."""
MOST_WINDOWS = 100_000
"""Of a recording."""
AGAIN = "export the artifact again, or ask who made it"
C_SIZES = """#include "net.h"
int32_t sizes(int32_t n) { return n == 0 ? NET_ARENA_BYTES : NET_CLASSES; }
"""


class Problem(Exception):
    """Something is missing here; 7 is the exit code."""

    code = 7


def are_texts(value: Any) -> bool:
    """Whether a value of a JSON file is a list of texts."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def are_sizes(value: Any, most: int = 1 << 20) -> bool:
    """Whether it is a list of whole numbers from 1 to `most`."""
    return isinstance(value, list) and all(type(n) is int and 0 < n <= most for n in value)


def is_input(value: Any) -> bool:
    """Whether it is the shape of a sample: of sound, a signal or a picture."""
    if not are_sizes(value) or len(value) not in (1, 2, 3):
        return False
    return max(value) <= 4096 if len(value) == 3 else len(value) == 1 or value[1] <= 4096


def is_scale(value: Any) -> bool:
    """Whether it says what is black and white, as `to_8_bits` reads it."""
    return value == "" or bool(ends(value))


def is_share(value: Any) -> bool:
    """Whether it is a number from 0 to 1."""
    return type(value) in (int, float) and 0 <= value <= 1


def is_framing(value: Any) -> bool:
    """Whether it says how pictures are resized for a model made elsewhere."""
    if value is None:
        return True
    size, fill = value["size"], value["fill"]
    is_known = value["mode"] in ("stretch", "shortest", "longest")
    is_known = is_known and value["interpolation"] in FILTERS and "rounds_down" in value
    are_levels = len(fill) == 3 and all(type(n) is int and 0 <= n <= 255 for n in fill)
    return is_known and are_levels and are_sizes(size, 16_384) and len(size) == 2


def is_sound(value: Any) -> bool:
    """Whether it says what sound is read."""
    return value is None or are_sizes([value[name] for name in ("rate", "window", "stride")])


FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "class_names": (
        lambda v: are_texts(v) and all(map(str.strip, v)) and len(set(v)) == len(v),
        "a list of different texts",
    ),
    "input": (is_input, "1 to 3 sizes, those of pictures at most 4096"),
    "input_type": (lambda v: v in ("", "int16", "float32", "uint8", "uint16"), "a type"),
    "pixel_scale": (is_scale, "a scale such as 12bit or 0:3000"),
    "channel_names": (are_texts, "a list of texts"),
    "window_stride": (lambda v: type(v) is int and 0 <= v <= 1 << 20, "a number from 0"),
    "reject_below": (
        lambda v: is_share(v) or all(map(is_share, v.values())),
        "probabilities from 0 to 1",
    ),
    "front_end": (is_sound, "null, or a rate, window and stride"),
    "framing": (is_framing, "null, or a mode, size, interpolation and fill"),
    "ship": (lambda v: v in FORMATS, "the name of a format"),
    "primary": (lambda v: v in ("int8", "float"), "int8 or float"),
    "files": (
        lambda v: all(
            isinstance(f["sha256"], str) and ".." not in Path(n).parts and not Path(n).is_absolute()
            for n, f in v.items()
        ),
        "names of files inside the folder, each with its sha256",
    ),
}
"""What fields of `about.json`, `manifest.json` and of the metadata of an ONNX file are."""
WORDS = {
    "labels": "class_names",
    "channels": "channel_names",
    "stride": "window_stride",
    "pixel_scale": "pixel_scale",
    "framing": "framing",
    "front_end": "front_end",
    "reject_below": "reject_below",
}
"""Names in the metadata of an ONNX file -> those of the same in `about.json`."""


def checked(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """These fields; an error that names the first of them that breaks its rule."""
    for name, (fits, rule) in RULES.items():
        try:
            is_right = name not in fields or fits(fields[name])
        except (TypeError, ValueError, KeyError, AttributeError):
            is_right = False
        if not is_right:
            found = ascii(fields[name])
            found = found if len(found) <= 60 else f"{found[:60]}..."
            raise ValueError(f"{path}: {name} is {found}, the rule is {rule}; {AGAIN}")
    return fields


def words_in(path: Path, words: dict[str, str]) -> dict[str, Any]:
    """What the metadata of an ONNX file say, by the names of `about.json`."""
    found: dict[str, Any] = {}
    for word, name in WORDS.items():
        if text := words.get(word):
            try:
                found[name] = text if name == "pixel_scale" else json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}: {word} in its metadata: {error}; {AGAIN}") from error
    return checked(path, found)


class OnnxNet:
    """An ONNX file in ONNX Runtime."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        # ONNX Runtime 1.32 sends usage data to its maker unless this is set before the import.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CPUExecutionProvider"]
        self.session = runtime.InferenceSession(str(path), options, providers=providers)
        (given,) = self.session.get_inputs()
        self.name, self.takes_any_size = given.name, isinstance(given.shape[1], str)
        self.shape = tuple(SIDE if isinstance(side, str) else side for side in given.shape[1:])
        self.dtype = np.dtype(given.type[7:-1].replace("float", "float32"))
        self.words = dict(self.session.get_modelmeta().custom_metadata_map)

    def predict(self, samples: np.ndarray) -> np.ndarray:
        """Probabilities (n, classes)."""
        parts = [samples[n : n + 64] for n in range(0, len(samples), 64)]
        return np.concatenate([self.session.run(None, {self.name: part})[0] for part in parts])

    def caller(self, sample: np.ndarray) -> Callable[[], object]:
        """A function that classifies this sample (1, *shape)."""
        return lambda: self.session.run(None, {self.name: sample})


class LitertNet:
    """A .tflite file in LiteRT."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        litert = importlib.import_module("ai_edge_litert.interpreter")
        self.net = litert.Interpreter(model_path=str(path), num_threads=threads)
        self.net.allocate_tensors()
        self.given, self.made = self.net.get_input_details()[0], self.net.get_output_details()[0]

    def predict(self, samples: np.ndarray) -> np.ndarray:
        """Probabilities (n, classes)."""
        found = []
        for sample in samples:
            self.caller(sample[None])()
            found.append(self.net.get_tensor(self.made["index"])[0])
        return np.stack(found)

    def caller(self, sample: np.ndarray) -> Callable[[], object]:
        """A function that classifies this sample (1, *shape)."""
        self.net.set_tensor(self.given["index"], sample)
        call: Callable[[], object] = self.net.invoke
        return call


class CNet:
    """c/net.c, compiled to a library of this process; it has one thread."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        del threads
        cc = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
        if cc is None:
            raise Problem("not run here: there is no C compiler; see --format")
        with tempfile.TemporaryDirectory() as folder:
            extra, library = Path(folder, "sizes.c"), Path(folder, "net.so")
            extra.write_text(C_SIZES, encoding="utf-8")
            command = [cc, "-std=c99", "-ffp-contract=off", "-O3", "-shared", "-fPIC", "-I"]
            command += [str(path.parent), str(path), str(extra), "-o", str(library)]
            for fast in (["-march=native"], []):
                done = subprocess.run(command + fast, capture_output=True, text=True, check=False)
                if not done.returncode:
                    self.net = ctypes.CDLL(str(library))
                    break
            else:
                raise ValueError(f"{path} does not compile")
        self.arena = np.zeros(self.net.sizes(0), np.uint8)
        self.output = np.zeros(self.net.sizes(1), np.float32)

    def predict(self, samples: np.ndarray) -> np.ndarray:
        """Probabilities (n, classes)."""
        found = []
        for sample in samples:
            self.caller(sample)()
            found.append(self.output.copy())
        return np.stack(found)

    def caller(self, sample: np.ndarray) -> Callable[[], object]:
        """A function that classifies this sample."""
        sample, run = np.ascontiguousarray(sample), self.net.net_probabilities
        given = [ctypes.c_void_p(a.ctypes.data) for a in (sample, self.arena, self.output)]
        return lambda: (run(*given), sample, self)  # Pointers do not keep what they point to.


NETS: dict[str, Any] = {"onnx": OnnxNet, ANY_SIZE: OnnxNet, "litert": LitertNet, "c": CNet}


class Bundle:
    """A net that is open, and what it reads: of an artifact folder, or one ONNX file."""

    def __init__(self, place: Path, name: str = "", threads: int = 1) -> None:
        self.path, about = place, {}
        if place.is_dir():
            about, sealed = read_json(place / "about.json"), read_json(place / "manifest.json")
            ships = "model.fp32.onnx" if sealed.get("primary") == "float" else FORMATS["onnx"]
            name = name or about.get("ship", "onnx").replace("onnx", "")
            self.path = place / (FORMATS[name] if name else ships)
        if not self.path.is_file():
            raise ValueError(f"there is no {self.path}")
        try:
            self.net = NETS[name or "onnx"](self.path, threads)
        except ImportError as error:
            raise Problem(f"{self.path} is not run here: {error}; see --format") from error
        words = words_in(self.path, getattr(self.net, "words", {}))
        stated = about.get("reject_below", {})
        stated = stated.get(self.path.name if not name else FORMATS["onnx"])
        about = {**about, "reject_below": stated}
        known = {**words, **{key: value for key, value in about.items() if value}}
        for key in words:
            if known[key] != words[key]:
                raise ValueError(
                    f"{place}: about.json and {self.path.name} contradict each other: {key} is "
                    f"{ascii(known[key])[:60]} and {ascii(words[key])[:60]}; {AGAIN}"
                )
        self.labels = known.get("class_names", [])
        self.shape = tuple(known.get("input") or self.net.shape)
        if not is_input(list(self.shape)):
            raise ValueError(f"{self.path} reads {self.shape}, the rule is {RULES['input'][1]}")
        self.takes_any_size = getattr(self.net, "takes_any_size", False)
        usual = ("int16", "float32", "uint8")[len(self.shape) - 1]
        kind = about.get("input_type") or usual if about.get("input") else self.net.dtype
        self.dtype = np.dtype(kind)
        self.scale = known.get("pixel_scale", "")
        self.framing = known.get("framing")
        self.channels = known.get("channel_names", [])
        self.stride = known.get("window_stride", 0)
        self.below = float(known.get("reject_below") or 0)
        self.sound = known.get("front_end")

    def samples(self, path: Path) -> np.ndarray:
        """Samples (n, *shape) of a file; windows of a recording are several."""
        if path.exists() and not path.is_file():
            raise ValueError("it is not a regular file: a folder, a pipe or a device")
        if len(self.shape) == 1:
            if self.sound is None:
                raise ValueError(f"{self.path} does not say what sound it reads; {AGAIN}")
            return audio_windows(path, self.sound)
        if len(self.shape) == 2:
            return self.signal_windows(path)
        if self.dtype == np.uint16:
            return pixels_16_bit_of(path, *self.shape)[None]
        shape = (0, 0, self.shape[2]) if self.takes_any_size else self.shape
        return pixels_of(path, shape, self.scale, self.framing)[None]

    def predict(self, path: Path) -> tuple[str, float, int]:
        """Label and probability of a file, and the number of its windows."""
        found = self.net.predict(np.ascontiguousarray(self.samples(path)))
        sums = found.sum(1)
        if found.min() < 0 or not (np.abs(sums - 1) < 1e-3).all():  # NaN is not a sum of 1.
            raise ValueError(f"{self.path} gives no probabilities: they add up to {sums[0]:g}")
        if found.shape[1] != len(self.labels):
            raise ValueError(
                f"{self.path} gives {found.shape[1]} probabilities, {len(self.labels)} classes are "
                f"named; {AGAIN}"
            )
        row = found[0]
        if len(found) > 1:
            logs = np.log(np.maximum(found.astype(np.float64), LEAST_PROBABILITY)).mean(0)
            row = np.exp(logs - logs.max()) / np.exp(logs - logs.max()).sum()
        return self.labels[int(row.argmax())], float(row.max()), len(found)

    def signal_windows(self, path: Path) -> np.ndarray:
        """Windows (n, length, channels) of a .npy or .csv file: a recording, or windows."""
        length, channels = self.shape
        is_array = path.suffix.lower() == ".npy"
        values = np.load(path, allow_pickle=False) if is_array else table(path, self.channels)
        if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise ValueError(f"it holds {values.dtype} {values.shape}, the rule is finite numbers")
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim == 2 and values.shape in ((channels, length), (length, channels)):
            values = values[None]
        if values.ndim == 2 and channels in values.shape:
            whole = values if values.shape[1] == channels else values.T
            values = cut(whole, length, self.stride or max(1, length // 2))
        if values.shape[1:] == (channels, length) != (length, channels):
            values = values.transpose(0, 2, 1)
        if values.shape[1:] != (length, channels) or not len(values):
            raise ValueError(f"{path} holds {values.shape}, the net reads ({length}, {channels})")
        return to_int16(values) if self.dtype.kind == "i" else values.astype(self.dtype)


def cut(whole: np.ndarray, length: int, stride: int) -> np.ndarray:
    """Windows (n, length, channels) of a recording; the recording if it is shorter."""
    starts = range(0, len(whole) - length + 1, stride)
    if len(starts) > MOST_WINDOWS:
        raise ValueError(f"it has {len(starts)} windows, at most {MOST_WINDOWS} are read")
    return np.stack([whole[n : n + length] for n in starts]) if starts else whole


def to_int16(values: np.ndarray) -> np.ndarray:
    """Values that are whole numbers of 16 bits, in this type."""
    odd = (values != np.rint(values)) | (values < -32768) | (values > 32767)
    if odd.any():
        raise ValueError(f"it has values such as {values[odd][0]:g}, the net reads int16")
    return values.astype(np.int16)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of an artifact."""
    if not path.is_file():
        raise ValueError(f"{path.parent} is not an artifact of lepton: it has no {path.name}")
    if path.stat().st_size > MOST_JSON_BYTES:
        raise ValueError(f"{path} has more than {MOST_JSON_BYTES} bytes")
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}; {AGAIN}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object; {AGAIN}")
    return checked(path, found)


def table(path: Path, names: list[str]) -> np.ndarray:
    """Numbers of a .csv file, a row each time; only the columns `names` where it has them."""
    lines = [line for line in path.read_text("utf-8-sig").splitlines() if line.strip(" ,;\t")]
    mark = max(",;\t", key=lines[0].count) if lines else ","
    head = [cell.strip(' "') for cell in lines[0].split(mark)] if lines else []
    has_head = not any(map(is_number, head))
    if len(lines) <= has_head:
        raise ValueError("it holds no numbers")
    columns, rows = places(head, names) if has_head else None, lines[has_head:]
    return np.loadtxt(rows, delimiter=mark, usecols=columns, ndmin=2, comments=None)


def places(head: list[str], names: list[str]) -> list[int] | None:
    """Columns of these names; None where names say nothing, so that all columns are meant."""
    if not names or len(set(names)) < len(names):
        return None
    if odd := [name for name in names if head.count(name) != 1]:
        known = {name.casefold() for name in head}
        if not any(name.casefold() in known for name in names):
            return None
        raise ValueError(
            f"it has {head.count(odd[0])} columns {odd[0]!r}, of which the net reads one"
        )
    return [head.index(name) for name in names]


def is_number(cell: str) -> bool:
    """Whether a cell of a table is a number, such as `-1.5e+00`."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def pillow(name: str = "Image") -> Any:
    """A module of Pillow."""
    try:
        return importlib.import_module(f"PIL.{name}")
    except ImportError as error:
        raise Problem("Pillow is missing: pip install pillow, or give .npy files") from error


def open_picture(path: Path) -> Any:
    """A picture file, open in Pillow."""
    image = pillow()
    try:
        return image.open(path)
    except importlib.import_module("PIL").UnidentifiedImageError as error:
        hint = "no picture that Pillow reads"
        if path.suffix.lower() in (".tif", ".tiff"):
            hint += (
                "; of TIFF files with floating-point pixels only grey ones of 32 bits are read "
                "here: give their pixels in a .npy file, or use `lepton predict`"
            )
        raise ValueError(hint) from error


def pixels_of(
    path: Path, shape: tuple[int, ...], scale: str = "", framing: dict[str, Any] | None = None
) -> np.ndarray:
    """One picture: uint8 (height, width, channels), of its own size where `shape` has none."""
    if path.suffix.lower() == ".npy":
        values = stored_array(path, shape[2])
        if not scale and values.dtype != np.uint8:
            raise ValueError(f"{path} holds {values.dtype}, and black and white are not stated")
        pixels = to_8_bits(values, scale) if scale else values
        wanted = shape if shape[0] else (*pixels.shape[:2], shape[2])
        if pixels.shape == wanted and framing is None:
            return pixels
    else:
        picture = upright(path, scale or "16bit", shape[2])
        if shape[2] != 4:
            picture = picture.convert("L" if shape[2] == 1 else "RGB")
            return framed(picture, shape, framing)
        pixels = np.asarray(picture.convert("RGBA"))
    parts = [pixels] if shape[2] == 3 else np.moveaxis(pixels, 2, 0)
    pictures = [pillow().fromarray(np.ascontiguousarray(part)) for part in parts]
    return np.concatenate([framed(each, shape, framing) for each in pictures], axis=2)


def upright(path: Path, scale: str, channels: int) -> Any:
    """A picture file as an image of 8 bits, turned as its EXIF says, transparency over white."""
    image = pillow()
    with open_picture(path) as opened:
        picture = pillow("ImageOps").exif_transpose(opened)
    is_16_bit = picture.mode.startswith("I") or picture.mode == "F"
    is_full = scale in ("16bit", "unit", "symmetric") or channels == 4
    if is_16_bit or (not is_full and sixteen_bit_colour(path) is not None):
        usual = "16bit" if is_full and picture.mode != "F" else scale
        picture = image.fromarray(to_8_bits(values_of(path), usual))
    if picture.has_transparency_data and channels != 4:
        white = image.new("RGBA", picture.size, "white")
        picture = image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    if channels == 4 or picture.mode in ("1", "L"):
        return picture
    return picture.convert("RGB")


def framed(picture: Any, shape: tuple[int, ...], framing: dict[str, Any] | None) -> np.ndarray:
    """A picture in the size of the net: stretched, or as a model made elsewhere wants it."""
    image, (height, width) = pillow(), shape[:2]
    if not height:
        return np.asarray(picture, np.uint8).reshape(*picture.size[::-1], -1)
    picture = picture if framing is None else without_far_ends(picture)
    how = image.Resampling[(framing or {"interpolation": "bilinear"})["interpolation"].upper()]
    high, wide = (height, width) if framing is None else framing["size"]
    if framing is not None and framing["mode"] != "stretch":
        own_wide, own_high = picture.size
        if framing["mode"] == "shortest" and high == wide:
            other = int(high * max(picture.size) / min(picture.size))
            high, wide = (high, other) if own_high <= own_wide else (other, high)
        else:
            fits = min if framing["mode"] == "shortest" else max
            ratio = fits(own_high / high, own_wide / wide)
            high, wide = max(1, round(own_high / ratio)), max(1, round(own_wide / ratio))
    if picture.size != (wide, high):
        picture = picture.resize((wide, high), how)
    if framing is not None and (high, wide) != (height, width):
        fill = framing["fill"][0] if picture.mode == "L" else tuple(framing["fill"])
        cut, rest = image.new(picture.mode, (width, height), fill), (wide - width, high - height)
        corner = [-(n // 2 if framing["rounds_down"] else round(n / 2)) for n in rest]
        cut.paste(picture, tuple(corner))
        picture = cut
    return np.asarray(picture, np.uint8).reshape(height, width, -1)


def without_far_ends(picture: Any) -> Any:
    """The picture, or its middle where it is more than 16 times as long as wide."""
    wide, high = picture.size
    most = 16 * min(wide, high)
    if max(wide, high) <= most:
        return picture
    left, top = max(0, (wide - most) // 2), max(0, (high - most) // 2)
    return picture.crop((left, top, left + min(wide, most), top + min(high, most)))


def ends(scale: str) -> tuple[float, float]:
    """Black and white of a scale; ValueError where it is none."""
    bits = f"0:{2 ** int(scale[:-3]) - 1}" if re.fullmatch("[0-9]{1,2}bit", scale) else scale
    named = {"unit": "0:1", "symmetric": "-1:1"}.get(scale, bits if ":" in bits else f"0:{bits}")
    black, white = map(float, named.split(":"))
    if not (max(abs(black), abs(white)) <= 1e30 and white - black >= 1e-30):
        raise ValueError(f"{scale} is not a scale: black is below white, both are at most 1e+30")
    return black, white


def to_8_bits(values: Any, scale: str) -> np.ndarray:
    """Values by what is black and white: `12bit`, `unit`, `0:3000`."""
    is_whole = values.dtype.kind in "ui"
    black, white = ends(scale)
    if values.dtype.kind == "b" and scale in ("8bit", "unit"):
        levels = values * 255
    elif is_whole and black == 0 and white.is_integer() and white <= 1 << 54:
        top = int(white)
        levels = (np.clip(values, 0, top).astype(np.int64) * 255 + top // 2) // top
    else:
        reals = values.astype(np.float32 if values.dtype.kind == "f" else np.float64)
        levels = np.rint(np.clip((reals - black) * (255 / (white - black)), 0, 255))
    return np.asarray(levels, np.uint8)


def stored_array(path: Path, channels: int) -> np.ndarray:
    """A picture in a .npy file: (height, width, channels)."""
    values: np.ndarray = np.load(path, allow_pickle=False)
    if values.dtype.kind not in "buif" or not values.size or not np.isfinite(values).all():
        raise ValueError(f"it holds {values.dtype} {values.shape}, the rule is finite numbers")
    found = values[0] if values.ndim == 4 and len(values) == 1 else values
    found = found[..., None] if found.ndim == 2 and channels == 1 else found
    if found.ndim == 3 and found.shape[2] == channels:
        return found
    if found.ndim != 3 or found.shape[0] != channels:
        raise ValueError(f"{path} holds {values.shape}, the net reads {channels} channels")
    return np.moveaxis(found, 0, 2)


def values_of(path: Path) -> np.ndarray:
    """The stored values of a picture file, upright: (height, width), with channels if it has."""
    values = sixteen_bit_colour(path)
    with open_picture(path) as picture:
        picture.load()  # turns a TIFF by itself
        turn = picture.getexif().get(0x0112, 1)  # EXIF orientation
        values = np.asarray(picture) if values is None else values
    values = values.swapaxes(0, 1) if turn >= 5 else values
    values = values[::-1] if turn in (3, 4, 7, 8) else values
    return np.ascontiguousarray(values[:, ::-1] if turn in (2, 3, 6, 7) else values)


def sixteen_bit_colour(path: Path) -> np.ndarray | None:
    """Stored values (height, width, 3 or 4) of 16-bit colour; None for other pictures.

    Pillow keeps the upper byte of each value, so the file is read again with its bytes swapped.
    """
    halves = []
    for is_swapped in (False, True):
        with open_picture(path) as picture:
            args = picture.tile[0].args if picture.tile else ""
            first, *rest = args if isinstance(args, tuple) else (args,)
            mode, _, order = str(first).replace("N", sys.byteorder[0].upper()).partition(";16")
            if mode not in ("RGB", "RGBA") or order not in ("B", "L"):
                return None
            if is_swapped:
                raw = f"{mode};16{'B' if order == 'L' else 'L'}"
                args = (raw, *rest) if isinstance(args, tuple) else raw
                picture.tile = [tile._replace(args=args) for tile in picture.tile]
            halves.append(np.asarray(picture).astype(np.uint16))
    return halves[0] * np.uint16(256) + halves[1]


def pixels_16_bit_of(path: Path, height: int, width: int, channels: int) -> np.ndarray:
    """One 16-bit picture as it is stored: uint16 (height, width, channels)."""
    if path.suffix.lower() == ".npy":
        values = stored_array(path, channels)
    else:
        stored = values_of(path)
        values = stored.reshape(*stored.shape[:2], channels)
    if values.dtype.kind not in "ui" or values.dtype == np.uint8:
        raise ValueError(f"it holds {values.dtype}, the net reads uint16 as its data are stored")
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"it has values {values.min()} to {values.max()}, 0 to 65535 are read")
    if path.suffix.lower() == ".npy" and values.shape[:2] == (height, width):
        return values.astype(np.uint16)
    planes = [pillow().fromarray(p.astype(np.float32)) for p in np.moveaxis(values, 2, 0)]
    planes = [p.resize((width, height), pillow().Resampling.BILINEAR) for p in planes]
    return np.asarray(np.rint(np.stack(planes, axis=2)).clip(0, 65535), np.uint16)


def audio_windows(path: Path, sound: dict[str, int]) -> np.ndarray:
    """Windows (n, window) int16 of a WAV file of PCM samples; zeros at the end."""
    rate, window, stride = sound["rate"], sound["window"], sound["stride"]
    with wave.open(str(path)) as file:
        width, count, there = file.getsampwidth(), file.getnchannels(), file.getframerate()
        content = file.readframes(file.getnframes())
    if there != rate:
        raise ValueError(
            f"{path} has {there} Hz, the net reads {rate}: sox IN.wav -r {rate} OUT.wav"
        )
    if width == 3:
        parts = np.frombuffer(content, np.uint8).reshape(-1, 3)
        stored = np.pad(parts, ((0, 0), (1, 0))).view("<i4") / 65536.0
    elif width == 1:
        stored = (np.frombuffer(content, np.uint8).astype(np.float64) - 128) * 256
    else:
        stored = np.frombuffer(content, f"<i{width}") / (1.0 if width == 2 else 65536.0)
    mean = np.rint(stored.reshape(-1, count).mean(1))
    samples = mean.clip(-32768, 32767).astype(np.int16)
    number = 1 + max(0, -(-(len(samples) - window) // stride))
    if not len(samples) or number > MOST_WINDOWS:
        raise ValueError(
            f"it has {len(samples)} samples, the rule is 1 to {MOST_WINDOWS} windows of {window}"
        )
    padded = np.zeros((number - 1) * stride + window, np.int16)
    padded[: len(samples)] = samples
    return np.stack([padded[n * stride : n * stride + window] for n in range(number)])


def damage(folder: Path) -> list[str]:
    """Files that are missing, changed or not listed in the manifest."""
    body, found = read_json(folder / "manifest.json"), []
    if "files" not in body:
        return ["manifest.json names no files"]
    rest = {key: value for key, value in body.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    if body.get("sha256") not in (None, hashlib.sha256(text.encode()).hexdigest()):
        found.append("manifest.json has changed since it was written")
    for name, file in body["files"].items():
        path = folder / name
        is_there = path.is_file() and path.stat().st_size <= MOST_BYTES
        content = path.read_bytes() if is_there else b""
        if not is_there or hashlib.sha256(content).hexdigest() != file["sha256"]:
            found.append(f"{name} is missing or has changed since it was written")
    known = {*body["files"], "manifest.json", "manifest.json.sig"}
    there = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    extra = sorted(name for name in set(there) - known if "__pycache__" not in name)
    return found + [f"{name} is not listed in manifest.json" for name in extra]


def verify(folder: Path, name: str) -> int:
    """Compare digests, and golden predictions of every format that runs here; the exit code."""
    problems, ran = damage(folder), 0
    for each in formats_in(folder, name) if not problems else []:
        try:
            problems += golden_problems(folder, each)
            ran += 1
        except Problem as problem:
            say(f"{each}: {problem}")
        except (OSError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 (runtimes raise classes of their own)
            problems.append(f"{each}: {described(error)}")
    for text in problems:
        say(f"problem: {text}")
    say(f"verdict: {'broken' if problems else 'holds' if ran else 'not run'}")
    return 6 if problems else 0 if ran else 7


def formats_in(place: Path, name: str = "") -> list[str]:
    """Formats whose files are in an artifact; one without a name of an ONNX file."""
    if not place.is_dir():
        return [""]
    if name and not (place / FORMATS[name]).is_file():
        raise ValueError(f"there is no {place / FORMATS[name]}")
    return [name] if name else [n for n, path in FORMATS.items() if (place / path).is_file()]


def golden_problems(folder: Path, name: str) -> list[str]:
    """How predictions for golden samples differ from those of the machine that made the files."""
    samples, expected = (
        np.load(folder / "golden" / file, allow_pickle=False) for file in ("pixels.npy", "int8.npy")
    )
    found = Bundle(folder, name).net.predict(samples)
    if found.shape != expected.shape or not len(found):
        return [
            f"{name} gives {found.shape} predictions of golden samples, {expected.shape} are kept"
        ]
    apart, order = float(np.abs(found - expected).max()), np.sort(expected, axis=1)
    clear = order[:, -1] - order[:, -2] > 2 * TOLERANCE
    same = int((found.argmax(1) == expected.argmax(1))[clear].sum())
    about = f"at most {apart:.3g} on {len(samples)} golden samples, the same class for {same} of "
    say(f"{name}: differs by {about}{clear.sum()} clear ones")
    is_same = apart <= TOLERANCE and same == clear.sum()
    return [] if is_same else [f"{name} predicts otherwise than on the machine that made it"]


def predict(place: Path, files: list[str], name: str, as_json: bool) -> int:
    """Print label and probability of each file; the exit code."""
    if place.is_dir() and (found := damage(place)):
        raise ValueError(f"{place}: {found[0]}")
    bundle, code, rows = Bundle(place, name), 0, []
    for file in files:
        try:
            label, probability, windows = bundle.predict(Path(file))
        except Problem:
            raise
        except Exception as error:  # noqa: BLE001 (readers and runtimes raise classes of their own)
            say(f"{file}: {described(error)}", sys.stderr)
            code = 3
            continue
        rejected = probability < bundle.below
        row = {"file": file, "label": "" if rejected else label, "probability": probability}
        rows.append({**row, "windows": windows, **({"rejected": True} if rejected else {})})
        if not as_json:
            say(f"{file}\t{'none of these' if rejected else label}\t{probability:.4f}")
    if as_json:
        sys.stdout.write(json.dumps({"predictions": rows}, indent=2) + "\n")
    return code


def described(error: Exception) -> str:
    """What an error says, on one line, with its kind where that is not a usual one."""
    text = " ".join(str(error).split())[:1000]
    is_plain = type(error) in (ValueError, Problem) or isinstance(error, OSError)
    return text if text and is_plain else f"{type(error).__name__}: {text}".rstrip(": ")


def say(text: str, stream: Any = None) -> None:
    """Write one line without codes that a terminal obeys."""
    safe = "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in text)
    (stream or sys.stdout).write(safe + "\n")


def bench(places: list[Path], name: str, threads: int, seconds: float, as_json: bool) -> int:
    """Time one sample in every file, in rounds that take turns; the exit code."""
    for place in places:
        if place.is_dir() and (found := damage(place)):
            raise ValueError(f"{place}: {found[0]}")
    timed = [net for place in places for net in opened(place, name, threads)]
    for _ in range(20):
        for net in timed:
            net.round(seconds / 20)
    rows: list[dict[str, Any]] = []
    for net in timed:
        p50, p95, p99 = (float(np.quantile(net.times, share)) for share in (0.5, 0.95, 0.99))
        ratio = p50 / (rows[0]["p50_us"] if rows else p50)
        row = {"file": str(net.path), "p50_us": p50, "p95_us": p95, "p99_us": p99}
        rows.append({**row, "ratio": ratio, "opening_ms": net.opening_ms})
        if not as_json:
            text = f"{net.path}: p50 {p50:.1f} us, p95 {p95:.1f} us, p99 {p99:.1f} us, {ratio:.2f} "
            say(f"{text}of the first; first prediction after {net.opening_ms:.0f} ms")
    if as_json:
        sys.stdout.write(json.dumps({"threads": threads, "files": rows}, indent=2) + "\n")
    return 0 if rows else 7


def opened(place: Path, name: str, threads: int) -> list[Timed]:
    """The files of a place that run here."""
    found = []
    for each in formats_in(place, name):
        try:
            found.append(Timed(place, each, threads))
        except Problem as problem:
            say(f"{place} {each}: {problem}", sys.stderr)
    return found


class Timed:
    """A net with the times of its calls, microseconds."""

    def __init__(self, place: Path, name: str, threads: int) -> None:
        start, self.times = time.perf_counter(), list[float]()
        bundle = Bundle(place, name, threads)
        self.path = bundle.path
        self.call = bundle.net.caller(np.zeros((1, *bundle.shape), bundle.dtype))
        self.call()
        self.opening_ms = 1e3 * (time.perf_counter() - start)

    def round(self, seconds: float) -> None:
        """Call it for some time, at least once."""
        now = time.perf_counter()
        end = now + seconds
        while True:
            self.call()
            before, now = now, time.perf_counter()
            self.times.append(1e6 * (now - before))
            if now >= end:
                return


def main() -> int:
    """Read the command line; the exit code."""
    usage = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=usage)
    parser.add_argument("command", choices=("verify", "predict", "bench"))
    parser.add_argument("artifact", type=Path)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--format", choices=sorted(FORMATS), default="", dest="name")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.command == "predict" and not given.files:
        parser.error("predict needs files: predict ARTIFACT FILE ...")
    if not (0 < given.seconds <= 86_400 and 1 <= given.threads <= 1024):
        parser.error("the rule is 1 to 1024 --threads and more than 0, at most 86400 --seconds")
    try:
        if given.command == "verify":
            return verify(given.artifact, given.name)
        if given.command == "predict":
            return predict(given.artifact, given.files, given.name, given.json)
        places = [given.artifact, *map(Path, given.files)]
        return bench(places, given.name, given.threads, given.seconds, given.json)
    except MemoryError:
        say("error: the machine lacks memory", sys.stderr)
        return Problem.code
    except Exception as error:  # noqa: BLE001 (readers and runtimes raise classes of their own)
        say(f"error: {described(error)}", sys.stderr)
        return int(getattr(error, "code", 3))


if __name__ == "__main__":
    sys.exit(main())
