"""Write `net.h` and `net.c`: constants of a net and the calls of its operations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.version import __version__
from lepton_automl.errors import ArchError
from lepton_automl.models.c_export.arithmetic import (
    FloatAddition,
    Quantized,
    WholeAddition,
    float_addition,
    gate_table,
    product_factor,
    swish_table,
    whole_addition,
)
from lepton_automl.models.c_export.log_mel import tables
from lepton_automl.models.front_end import LogMel
from lepton_automl.models.graph import Add, Conv, Gate, GlobalPool, Linear, MaxPool, Mul, Value
from lepton_automl.models.memory_plan import MemoryPlan, Step, Swish, plan_memory, steps
from lepton_automl.models.quantization import QParams, QuantizedNet

PREFIX = re.compile(r"[a-z][a-z0-9_]{0,30}")
"""Rule for the prefix of all public names."""
_LARGEST = (1 << 31) - 1
_BLOCK = 4
"""Output channels that kernels compute at once; arrays of fewer are filled up with zeros."""
_WIDTH = 110
_RING = "const net_band bands[NET_FRAMES * NET_BANDS], int32_t oldest"
"""Parameters of what takes frames of sound."""
_TYPES = {"uint8": "uint8_t", "uint16": "uint16_t", "int16": "int16_t", "float32": "float"}


@dataclass
class _Source:
    """Parts of `net.c` while operations are appended."""

    net: QuantizedNet
    qparams: QParams
    plan: MemoryPlan
    constants: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    front_call: str = ""
    """Of the front end of a net for sound."""
    kernels: list[str] = field(default_factory=lambda: ["common", "nearest", "products"])
    float_additions: int = 0
    taps: int = 0
    """Of the largest window of a depthwise convolution."""
    is_depthwise_of_few: bool = False
    """Whether one has fewer channels than kernels compute at once."""

    def needs(self, kernel: str) -> None:
        if kernel not in self.kernels:
            self.kernels.append(kernel)

    def quantized(self, value: Value) -> Quantized:
        """Scale and zero point of a value, as the ONNX file has them."""
        graph = self.net.arch.graph
        if value.name == graph.input.name:
            about = self.net.preprocessing
            return Quantized(np.float32(about.scale), int(about.zero_point))
        op = next(op for op in graph.ops if op.y.name == value.name)
        if isinstance(op, MaxPool):
            return self.quantized(op.x)
        if isinstance(op, Gate) and op.kind == "hard_sigmoid":
            return Quantized(np.float32(1 / 255), 0)
        values = self.qparams
        return Quantized(np.float32(values.scales[value.name]), int(values.zero_points[value.name]))

    def place(self, value: Value) -> str:
        """Where a value lies, as a C expression."""
        if value.name == self.net.arch.graph.input.name and not self.is_input_computed:
            return "pixels"
        return _at(self.plan.offsets[value.name])

    @property
    def is_quantized_here(self) -> bool:
        """Whether the net reads values that it quantizes itself."""
        return self.net.preprocessing.input_quantization is not None

    @property
    def is_input_computed(self) -> bool:
        """Whether the input of the first layer is made of what the caller gives."""
        return self.is_quantized_here or self.net.arch.front_end is not None


@dataclass(frozen=True)
class NetSource:
    """The two files, and what a caller may want to tell."""

    header: str
    source: str
    float_additions: int
    """Additions that need double arithmetic, which is slow without a floating-point unit."""


def net_source(net: QuantizedNet, class_names: Sequence[str], prefix: str = "net") -> NetSource:
    """Write the C source of a quantized net.

    Parameters
    ----------
    net : QuantizedNet
        With quantization parameters.
    class_names : sequence of str
        Any text; it becomes escaped UTF-8.
    prefix : str
        Of all names: letters a to z, digits and `_`, at most 31.

    Raises
    ------
    ArchError
        If the net is not quantized, or has sums that 32 bits do not hold.
    """
    arch = net.arch
    if net.qparams is None:
        raise ArchError("the model is not quantized", fix="quantize it before writing C")
    if len(class_names) != arch.classes:
        raise ArchError(
            f"{len(class_names)} class names for a net with {arch.classes} classes",
            fix="give one name for each class",
        )
    if not PREFIX.fullmatch(prefix):
        raise ArchError(
            f"{prefix!r} cannot be the prefix of C names",
            fix="use letters a to z, digits and _, at most 31, with a letter first",
        )
    scratch_bytes = 0 if arch.front_end is None else arch.front_end.scratch_bytes
    source = _Source(net, net.qparams, plan_memory(arch.graph, scratch_bytes))
    if arch.front_end is not None:
        _append_front_end(source, arch.front_end)
    _append_input(source)
    for step in steps(arch.graph):
        _append(source, step)
    source.needs("softmax")
    header = _renamed(_header(net, source), prefix)
    body = _renamed(_body(source, class_names), prefix)
    return NetSource(header, body, source.float_additions)


def c_string(text: str) -> str:
    """A C string literal of any text: printable ASCII, the rest as octal bytes of UTF-8."""
    shown = []
    for byte in text.encode("utf-8", "replace"):
        character = chr(byte)
        if character in '"\\?' or not 32 <= byte < 127:
            shown.append(f"\\{byte:03o}")
        else:
            shown.append(character)
    return f'"{"".join(shown)}"'


def c_array(values: NDArray[np.generic] | Sequence[int]) -> str:
    """Numbers of an initializer in lines of equal length."""
    flat = np.asarray(values).ravel()
    texts = [_real(v) if flat.dtype.kind == "f" else str(int(v)) for v in flat]
    lines, line = [], "   "
    for text in texts:
        if len(line) + len(text) + 2 > _WIDTH:
            lines.append(line)
            line = "   "
        line += f" {text},"
    return "\n".join([*lines, line])


def _real(value: float | np.generic) -> str:
    """A float literal that is read back exactly."""
    text = f"{float(value):.9g}"
    return (text if any(c in text for c in ".en") else f"{text}.0") + "f"


def _renamed(text: str, prefix: str) -> str:
    """The text with another prefix of all names."""
    text = re.sub(r"\bnet_(?=\w)", f"{prefix}_", text)
    return re.sub(r"\bNET_(?=\w)", f"{prefix.upper()}_", text)


def _identifier(name: str) -> str:
    return "net_" + re.sub(r"\W", "_", f"layer{name}" if name[:1].isdigit() else name)


def _shape(value: Value) -> str:
    sizes = (value.width,) if value.spatial_axes == 1 else (value.height, value.width)
    return "x".join(map(str, (*sizes, value.channels)))


def _at(offset: int) -> str:
    """A place in the arena, as a C expression."""
    return f"arena + {offset}" if offset else "arena"


def _append_front_end(source: _Source, front_end: LogMel) -> None:
    """Append the tables and the call of what computes features of sound."""
    made = tables(front_end)
    kernel = "features_centred" if front_end.is_centred else "features"
    source.needs("log_mel")
    source.needs(kernel)
    for c_type, name, values in (
        ("float", "cosines", made.cosines),
        ("float", "lines", made.lines),
        ("uint16_t", "spans", made.spans),
    ):
        source.constants.append(
            f"static const {c_type} net_sound_{name}[] = {{\n{c_array(values)}\n}};\n"
        )
    numbers = [front_end.frames, front_end.frame, front_end.hop, front_end.mels]
    fields = [*numbers, front_end.zero_point, _real(np.float32(front_end.step))]
    names = [f"net_sound_{name}" for name in ("cosines", "lines", "spans")]
    values_text = ", ".join(map(str, [*fields, *names]))
    source.constants.append(
        f"/* {front_end} */\nstatic const struct net_log_mel net_sound = {{\n"
        f"    {values_text}\n}};\n"
    )
    scratch, features = _at(source.plan.scratch), source.place(source.net.arch.graph.input)
    source.front_call = f"    net_{kernel}(&net_sound, samples, {scratch}, {features});"


def _append_input(source: _Source) -> None:
    """Append the quantization of values that are not stored pixels."""
    quantization = source.net.preprocessing.input_quantization
    if quantization is None:
        return
    source.needs("quantize")
    value = source.net.arch.graph.input
    for name, numbers in (("offsets", quantization.offsets), ("steps", quantization.scales)):
        source.constants.append(
            f"static const float net_input_{name}[] = {{\n"
            f"{c_array(np.array(numbers, np.float32))}\n}};\n"
        )
    source.calls.append(
        f"    net_quantize(values, {value.height * value.width}, {value.channels}, "
        f"net_input_offsets, net_input_steps, {source.place(value)});"
    )


def _append(source: _Source, step: Step) -> None:
    """Append the constants and the call of one step."""
    name = _identifier(step.name)
    shapes = f"{_shape(step.inputs[0])} -> {_shape(step.y)}"
    kind, fields = _structure(source, step, name)
    source.needs(kind)
    target = "logits" if isinstance(step, Linear) else source.place(step.y)
    about = f"&{name}"
    if isinstance(step, (Gate, Swish)):
        table = c_array(_table(source, step))
        source.constants.append(
            f"/* {shapes} */\nstatic const uint8_t {name}[256] = {{\n{table}\n}};\n"
        )
        about = f"{name}, {step.y.size}"
    else:
        values = ", ".join(map(str, fields))
        source.constants.append(
            f"/* {shapes} */\nstatic const struct net_{kind} {name} = {{\n    {values}\n}};\n"
        )
    places = ", ".join(source.place(value) for value in step.inputs)
    call = f"    net_{kind}({about}, {places}, {target});"
    source.calls.append(f"{call:<70} /* {shapes} */")


def _structure(source: _Source, step: Step, name: str) -> tuple[str, list[int | str]]:
    """Name of the kernel of a step, and the fields of its structure."""
    match step:
        case Conv(depthwise=True):
            return "depthwise", _depthwise(source, step, name)
        case Conv():
            return "conv", _conv(source, step, name)
        case Linear():
            return "linear", _linear(source, step, name)
        case MaxPool():
            return "max_pool", [*_sizes(step.x), step.y.height, step.y.width, *_window(step)]
        case GlobalPool():
            return "mean", _mean(source, step)
        case Add():
            return _add(source, step)
        case Mul():
            return "mul", _mul(source, step)
    return "lookup", []


def _sizes(x: Value) -> list[int | str]:
    return [x.height, x.width, x.channels]


def _window(op: Conv | MaxPool) -> list[int | str]:
    """Rows, columns, stride, rows and columns that it reaches beyond the input.

    A signal has one row, and the stride acts along its columns only.
    """
    return [*op.window, op.stride, *op.padding]


def _products(
    source: _Source, op: Conv | Linear, name: str, factors: NDArray[np.float32], kind: str
) -> list[int | str]:
    """Append weights in quads, biases and factors; the last fields of a structure."""
    x = source.quantized(op.x)
    weights = source.qparams.weights[op.name].astype(np.int64)
    if weights.ndim == 2:
        weights = weights[:, :, None, None]
    out, channels, rows, columns = weights.shape
    biases = source.qparams.biases[op.name].astype(np.int64)
    totals = weights.sum((1, 2, 3))
    _check_sums(op, x, weights.reshape(out, -1), biases)
    filled = max(out, _BLOCK)
    pad = (-columns * channels) % 4
    # (out, channels, rows, columns) -> (rows, columns * channels, out), in quads.
    ordered = weights.transpose(2, 3, 1, 0).reshape(rows, columns * channels, out)
    ordered = np.pad(ordered, ((0, 0), (0, pad), (0, filled - out)))
    quads = ordered.reshape(rows, -1, 4, filled).transpose(0, 1, 3, 2)
    _append_arrays(
        source,
        name,
        quads,
        np.pad(biases - x.zero * totals, (0, filled - out)),
        np.pad(factors, (0, filled - out)),
        kind,
    )
    return [f"{name}_weights", f"{name}_biases", f"{name}_{kind}"]


def _append_arrays(
    source: _Source,
    name: str,
    weights: NDArray[np.int64],
    biases: NDArray[np.int64],
    factors: NDArray[np.float32],
    kind: str,
) -> None:
    for of, c_type, values in (
        ("weights", "int8_t", weights),
        ("biases", "int32_t", biases),
        (kind, "float", factors),
    ):
        words = "NET_ALIGNED " if of == "weights" else ""
        source.constants.append(
            f"static const {c_type} {words}{name}_{of}[] = {{\n{c_array(values)}\n}};\n"
        )


def _check_sums(
    op: Conv | Linear, x: Quantized, weights: NDArray[np.int64], biases: NDArray[np.int64]
) -> None:
    """Refuse sums that could leave 32 bits, with and without the zero point taken out."""
    spread = np.abs(weights).sum(1) * 255 + np.abs(biases) + x.zero * np.abs(weights.sum(1))
    if spread.max() > _LARGEST:
        raise ArchError(
            f"{op.name}: a sum of products may exceed 32 bits",
            fix="quantize the model again: a bias is far outside of its range",
        )


def _factors(source: _Source, op: Conv | Linear) -> NDArray[np.float32]:
    """Input scale times weight scale of each output channel."""
    scales = source.qparams.weight_scales[op.name].astype(np.float32)
    return np.asarray(source.quantized(op.x).scale * scales, np.float32)


def _conv(source: _Source, op: Conv, name: str) -> list[int | str]:
    y = source.quantized(op.y)
    arrays = _products(source, op, name, _factors(source, op) / y.scale, "factors")
    pitch = 4 * max(op.y.channels, _BLOCK)
    zeros = [source.quantized(op.x).zero, y.zero]
    return [*_sizes(op.x), *_sizes(op.y), *_window(op), *zeros, pitch, *arrays]


def _depthwise(source: _Source, op: Conv, name: str) -> list[int | str]:
    x, y = source.quantized(op.x), source.quantized(op.y)
    weights = source.qparams.weights[op.name].astype(np.int64)[:, 0]
    biases = source.qparams.biases[op.name].astype(np.int64)
    _check_sums(op, x, weights.reshape(len(weights), -1), biases)
    source.taps = max(source.taps, weights[0].size)
    source.is_depthwise_of_few |= len(weights) < _BLOCK
    factors = np.asarray(_factors(source, op) / y.scale, np.float32)
    _append_arrays(source, name, weights.transpose(1, 2, 0), biases, factors, "factors")
    sizes = [*_sizes(op.x), op.y.height, op.y.width]
    arrays = [f"{name}_{of}" for of in ("weights", "biases", "factors")]
    return [*sizes, *_window(op), x.zero, y.zero, *arrays]


def _linear(source: _Source, op: Linear, name: str) -> list[int | str]:
    arrays = _products(source, op, name, _factors(source, op), "scales")
    return [op.x.channels, op.y.channels, 4 * max(op.y.channels, _BLOCK), *arrays]


def _mean(source: _Source, op: GlobalPool) -> list[int | str]:
    x, y = source.quantized(op.x), source.quantized(op.y)
    places = op.x.height * op.x.width
    factor = np.float32(x.scale / (y.scale * np.float32(places)))
    return [places, op.x.channels, x.zero, y.zero, _real(factor)]


def _add(source: _Source, op: Add) -> tuple[str, list[int | str]]:
    exact = float_addition(*(source.quantized(value) for value in (op.a, op.b, op.y)))
    whole: WholeAddition | FloatAddition = whole_addition(exact) or exact
    if isinstance(whole, FloatAddition):
        source.float_additions += 1
        factors = (whole.factor_a, whole.factor_b, whole.offset)
        return "add_exact", [op.y.size, *map(_real, factors)]
    numbers = (whole.factor_a, whole.factor_b, whole.offset, whole.ties)
    return "add", [op.y.size, *(f"{n}u" for n in numbers), whole.shift, whole.base]


def _mul(source: _Source, op: Mul) -> list[int | str]:
    x, gate, y = (source.quantized(value) for value in (op.x, op.gate, op.y))
    places = op.x.height * op.x.width
    step = op.gate.channels if op.gate.size == op.x.size else 0
    factor = product_factor(x, gate, y)
    numbers: list[int | str] = [places, op.x.channels, x.zero, gate.zero, step]
    return [*numbers, _real(factor), _real(np.float32(y.zero))]


def _table(source: _Source, step: Gate | Swish) -> NDArray[np.uint8]:
    if isinstance(step, Gate):
        return gate_table(step.kind, source.quantized(step.x), source.quantized(step.y))
    gate, mul = step.gate, step.mul
    return swish_table(gate.kind, *(source.quantized(v) for v in (gate.x, gate.y, mul.y)))


def input_dtype(net: QuantizedNet) -> np.dtype[Any]:
    """Type of the values that a net reads."""
    is_sound = net.arch.front_end is not None
    return np.dtype("int16" if is_sound else net.preprocessing.input_type)


def _signature(net: QuantizedNet) -> tuple[str, str, str]:
    """Type and name of the input, and what it holds."""
    arch, about = net.arch, net.preprocessing
    if arch.front_end is not None:
        rate = f"{arch.front_end.rate} Hz"
        return "int16_t", "samples", f"samples[{arch.front_end.window}] of sound, PCM at {rate}"
    shape = "[" + "][".join(map(str, arch.input)) + "]"
    if about.input_quantization is None:
        return "uint8_t", "pixels", f"pixels{shape}, rows from the top, channels last"
    what = "values" if arch.is_signal else "stored pixel values"
    return _TYPES[about.input_type], "values", f"{what} {shape}, channels last"


def _header(net: QuantizedNet, source: _Source) -> str:
    arch, (c_type, name, what) = net.arch, _signature(net)
    if arch.front_end is not None:
        front_end = arch.front_end
        sizes = [
            ("LENGTH", front_end.window, "samples of a window"),
            ("RATE", front_end.rate, "hertz"),
            ("FRAMES", front_end.frames, "of a window"),
            ("FRAME", front_end.frame, "samples of a frame"),
            ("HOP", front_end.hop, "samples from the start of a frame to that of the next one"),
            ("BANDS", front_end.mels, "of a frame"),
        ]
    elif arch.is_signal:
        sizes = [("LENGTH", arch.input[0], "places of a signal"), ("CHANNELS", arch.channels, "")]
    else:
        sizes = [("HEIGHT", arch.input[0], ""), ("WIDTH", arch.input[1], "")]
        sizes += [("CHANNELS", arch.channels, "")]
    sizes += [("CLASSES", arch.classes, "")]
    defines = "\n".join(
        f"#define NET_{key} {value}" + (f" /* {text} */" if text else "")
        for key, value, text in sizes
    )
    offset = source.plan.offsets[arch.graph.input.name]
    inside = (
        """
   The pixels may lie in the arena, from arena + NET_INPUT_OFFSET on, or anywhere outside of it;
   there they are not changed."""
        if not source.is_input_computed
        else ""
    )
    equal = "bit for bit those of the ONNX int8 file"
    if arch.front_end is not None:
        equal += " wherever features of sound are its ones"
    offset_line = f"#define NET_INPUT_OFFSET {offset}\n" if not source.is_input_computed else ""
    return f"""/* Written by lepton_automl {__version__}. A classifier in C99 that needs no library.

   const {c_type} *{name} is {what}.
   uint8_t *arena is NET_ARENA_BYTES bytes of any alignment, used during a call only.{inside}
   Functions share no state: calls with arenas of their own may run at once. */

#ifndef NET_H
#define NET_H

#include <stdint.h>

{defines}
#define NET_INPUT_BYTES {int(np.prod(arch.file_input)) * input_dtype(net).itemsize}
#define NET_ARENA_BYTES {source.plan.size}
{offset_line}
#ifdef __cplusplus
extern "C" {{
#endif

/* Names of the classes, UTF-8. */
extern const char *const net_labels[NET_CLASSES];

/* One number a class, the larger the more probable; {equal}. */
void net_logits(const {c_type} *{name}, uint8_t *arena, float logits[NET_CLASSES]);

/* Probabilities of the classes, which sum to 1. */
void net_probabilities(const {c_type} *{name}, uint8_t *arena, float probabilities[NET_CLASSES]);
{_frames_declared(arch.front_end)}
#ifdef __cplusplus
}}
#endif

#endif
"""


def _frames_declared(front_end: LogMel | None) -> str:
    """Functions of nets for sound that take a frame at a time."""
    if front_end is None:
        return ""
    c_type = "int32_t" if front_end.is_centred else "uint8_t"
    return f"""
/* The same a frame at a time, for a device that listens all the time: no window of samples is kept.
   net_frame computes the bands of a frame. NET_FRAMES frames in a ring, of which number `oldest` is
   the first of the window, give its logits, which are those of net_logits. */
typedef {c_type} net_band;

void net_frame(const int16_t samples[NET_FRAME], uint8_t *arena, net_band bands[NET_BANDS]);

void net_frames_logits({_RING}, uint8_t *arena, float logits[NET_CLASSES]);

void net_frames_probabilities({_RING}, uint8_t *arena, float probabilities[NET_CLASSES]);
"""


def _frames_defined(source: _Source) -> str:
    """Of the same functions; the layers are those of `net_logits`."""
    if not source.front_call:
        return ""
    features = source.place(source.net.arch.graph.input)
    return f"""
void net_frame(const int16_t samples[NET_FRAME], uint8_t *arena, net_band bands[NET_BANDS])
{{
    net_frame_bands(&net_sound, samples, {_at(source.plan.scratch)}, bands);
}}

void net_frames_logits({_RING}, uint8_t *arena, float logits[NET_CLASSES])
{{
    net_ring_features(&net_sound, bands, oldest, {features});
    net_layers(arena, logits);
}}

void net_frames_probabilities({_RING}, uint8_t *arena, float probabilities[NET_CLASSES])
{{
    net_frames_logits(bands, oldest, arena, probabilities);
    net_softmax(probabilities, NET_CLASSES);
}}
"""


def _body(source: _Source, class_names: Sequence[str]) -> str:
    sections = _sections()
    kernels = "\n".join(sections[name].strip("\n") + "\n" for name in source.kernels)
    c_type, name, _ = _signature(source.net)
    labels = "\n".join(f"    {c_string(label)}," for label in class_names)
    calls = "\n".join(source.calls)
    layers = ""
    if source.front_call:
        layers = f"static void net_layers(uint8_t *arena, float *logits)\n{{\n{calls}\n}}\n\n"
        calls = f"{source.front_call}\n    net_layers(arena, logits);"
    defined = f"#define NET_INPUT {c_type}\n\n" if source.is_quantized_here else ""
    if source.taps:
        defined += f"#define NET_TAPS {source.taps}\n"
        defined += f"#define NET_DEPTHWISE_FEW {int(source.is_depthwise_of_few)}\n\n"
    return f"""/* Written by lepton_automl {__version__}: kernels, constants, calls. See net.h. */

#include "net.h"

{defined}{kernels}
{chr(10).join(source.constants)}
const char *const net_labels[NET_CLASSES] = {{
{labels}
}};

{layers}void net_logits(const {c_type} *{name}, uint8_t *arena, float logits[NET_CLASSES])
{{
{calls}
}}

void net_probabilities(const {c_type} *{name}, uint8_t *arena, float probabilities[NET_CLASSES])
{{
    net_logits({name}, arena, probabilities);
    net_softmax(probabilities, NET_CLASSES);
}}
{_frames_defined(source)}"""


def _sections() -> dict[str, str]:
    """Parts of `kernels.c` by name."""
    text = resources.files(__package__).joinpath("kernels.c").read_text()
    parts = re.split(r"^//@ (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
