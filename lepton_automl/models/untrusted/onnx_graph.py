"""Parse, check and run an ONNX file from outside, in this process.

Only child processes with limits (`models.untrusted.session`, `artifact.verify`,
`compress.external.load`) call these functions: no check of a graph can tell how much memory and
time it takes, nor whether it crashes ONNX Runtime. What can be seen is refused here:

- operators of other domains, sub-graphs (If, Loop, Scan) and recursive functions,
- weights in other files, except plain ones in the folder of the model, which are read here: ONNX
  Runtime would look for them in the working directory,
- more operators or stored tensors than any classifier has,
- inputs and outputs other than those of lepton's files, results that are not probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, SparseTensorProto, TensorProto

from lepton_automl.core import untrusted_files
from lepton_automl.core.files import real_path
from lepton_automl.core.untrusted_files import MODEL, FileKind, Source
from lepton_automl.errors import DataError, first_line
from lepton_automl.models.onnx_file import (
    AUDIO_NAME,
    INPUT_NAME,
    OUTPUT_NAME,
    SIGNAL_NAME,
    UNLOADABLE,
    input_of,
    input_type,
    open_session,
)

MIN_OPSET, MAX_OPSET = 7, 25
MAX_PARTS = 50_000
"""Operators, and stored tensors, of a graph; image classifiers have some thousand."""
MAX_SIDE = 4096
"""Pixels of a side of a picture."""
MAX_LENGTH = 1 << 20
"""Values of a channel of a signal."""
MAX_CHANNELS = 16
"""Channels of a signal."""
MAX_WORDS = 4 << 20
"""Bytes of an entry of the metadata that is read."""
MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    *UNLOADABLE,
)
"""Exceptions that ONNX's code and ours raise for malformed files."""
_SUM_TOLERANCE, _RANGE_TOLERANCE = 1e-2, 1e-4
_FIX = "give an ONNX file that lepton wrote"
_EXPORT = "export it with standard ONNX operators"


STANDARD = ("", "ai.onnx")
"""Names of the domain of ONNX's own operators."""
WITH_ONNX_RUNTIME = (*STANDARD, "com.microsoft")
"""Domains of files that are only run, and may have been quantized by ONNX Runtime."""

OnWeights = Callable[[int], None]
"""Receives the bytes of a file of weights before it is read."""


def _ignore(_: int) -> None:
    pass


def parse(
    source: Source,
    content: bytes,
    folder: Path,
    *,
    fix: str = _FIX,
    on_weights: OnWeights = _ignore,
    domains: tuple[str, ...] = STANDARD,
) -> ModelProto:
    """Parse a model of standard operators; local functions are inlined, external weights read.

    Parameters
    ----------
    source : Path or str
        Its path, in messages.
    content : bytes
        Of the file.
    folder : Path
        In which the file is.
    fix : str
        The way out where it is not an ONNX file at all.
    on_weights : callable, optional
        Receives the size of each file of weights, so that a limit on memory can grow by it.
    domains : tuple of str
        Of the operators that are read.

    Raises
    ------
    DataError
        If it is not an ONNX file, or has parts that are not read.
    """
    try:
        model: ModelProto = ModelProto.FromString(content)
    except (DecodeError, ValueError) as error:
        raise _refused(source, f"not an ONNX file: {error or 'damaged'}", fix) from error
    model = _inlined(source, model)
    _check_graph(source, model, fix, domains)
    _fetch_external(source, model.graph, folder, on_weights)
    return model


def opset_of(model: ModelProto) -> int:
    """Version of the standard operators."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def _inlined(source: Source, model: ModelProto) -> ModelProto:
    """Local functions, which torch's exporter writes, replaced by their operators."""
    if not model.functions:
        return model
    names = {(function.domain, function.name) for function in model.functions}
    inner = [node for function in model.functions for node in function.node]
    if any((node.domain, node.op_type) in names for node in inner):
        # Nested functions can expand to exponentially many operators.
        raise _refused(source, "it has nested functions", "export it with dynamo=False")
    try:
        return onnx.inliner.inline_local_functions(model)
    except MALFORMED as error:
        raise _refused(
            source, f"its functions are malformed: {first_line(error)}", _EXPORT
        ) from error


def _check_graph(source: Source, model: ModelProto, fix: str, domains: tuple[str, ...]) -> None:
    opset, graph = opset_of(model), model.graph
    if not graph.node:
        raise _refused(source, "it has no operators", fix)
    for what, count in (
        ("operators", len(graph.node)),
        ("stored tensors", len(graph.initializer) + len(graph.sparse_initializer)),
        ("inputs", len(graph.input)),
        ("outputs", len(graph.output)),
    ):
        if count > MAX_PARTS:
            raise _refused(source, f"it has {count} {what}, at most {MAX_PARTS} are read", fix)
    unknown = {f"{n.domain}.{n.op_type}" for n in graph.node if n.domain not in domains}
    if unknown:
        way_out = _EXPORT
        if any(name.startswith("com.microsoft") for name in unknown):
            way_out = "give the file before ONNX Runtime optimized or quantized it"
        listed = ", ".join(sorted(unknown)[:3])
        raise _refused(
            source, f"it uses {listed}, only standard ONNX operators are supported", way_out
        )
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise _refused(
            source,
            f"it has opset {opset}, supported are {MIN_OPSET} to {MAX_OPSET}",
            "export it with opset 17 (torch.onnx.export(..., opset_version=17))",
        )
    if any(_has_graph(node.attribute) for node in graph.node):
        raise _refused(
            source,
            "it has control flow (If, Loop, Scan), which is not supported",
            "export it in evaluation mode from a forward function without if and for over tensors",
        )


def _has_graph(attributes: object) -> bool:
    kinds = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
    return any(
        item.type in kinds or item.HasField("g") or item.graphs
        for item in attributes  # type: ignore[attr-defined]
    )


def tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every stored tensor of a graph without sub-graphs: initializers, attributes of nodes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from _dense(sparse)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from _dense(attribute.sparse_tensor)
            for sparse in attribute.sparse_tensors:
                yield from _dense(sparse)


def _dense(sparse: SparseTensorProto) -> tuple[TensorProto, TensorProto]:
    return sparse.values, sparse.indices


def _fetch_external(source: Source, graph: GraphProto, folder: Path, on_weights: OnWeights) -> None:
    """Load external weights, from plain files in the model's own folder only."""
    contents: dict[str, bytes] = {}
    left = MODEL.max_bytes
    for tensor in tensors(graph):
        if not tensor.external_data and tensor.data_location != TensorProto.EXTERNAL:
            continue
        fields = {item.key: item.value for item in tensor.external_data}
        name = fields.get("location", "")
        if name not in contents:
            place = _weights_file(source, folder, name)
            on_weights(min(left, place.stat().st_size))
            kind = FileKind(f"weights of an ONNX file, {MODEL.max_bytes} bytes in all, now", left)
            contents[name] = untrusted_files.read_bytes(place, kind, fix="give a smaller model")
            left -= len(contents[name])
        try:
            start = int(fields.get("offset", 0))
            length = int(fields.get("length", len(contents[name]) - start))
        except ValueError as error:
            raise _refused(
                source, f"its weights cannot be read: {error}", "export it again"
            ) from error
        if start < 0 or length < 0 or start + length > len(contents[name]):
            raise _refused(
                source,
                f"its weights in {name!r} end before byte {start + length}",
                "copy that file again, it is cut off",
            )
        tensor.raw_data = contents[name][start : start + length]
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT


def _weights_file(source: Source, folder: Path, name: str) -> Path:
    """Path of a file beside the model, which the untrusted model names.

    A symbolic link must lead to the folder in which the model's own file is: in the cache of
    Hugging Face both are links to files of one folder.
    """
    model, place = Path(source), folder / name
    if not name or "\0" in name or Path(name).name != name or not place.is_file():
        raise _refused(
            source,
            f"its weights are in {name!r}; only files in the same folder are read",
            f"put {Path(name).name or 'that file'} beside {model.name}",
        )
    real = real_path(place)
    if real.parent not in (real_path(folder), real_path(folder / model.name).parent):
        raise _refused(
            source,
            f"its weights {name!r} are a link to {real}, outside the folder of the model",
            f"copy the file itself beside {model.name} (cp -L)",
        )
    return real


@dataclass(frozen=True)
class CheckedModel:
    """A file with lepton's input and output, open in ONNX Runtime."""

    source: Source
    session: onnxruntime.InferenceSession
    shape: tuple[int, ...]
    """Height, width and channels of its pictures; length and channels of its signals."""
    classes: int

    def words(self, keys: list[str]) -> dict[str, str]:
        """Entries of its metadata.

        Raises
        ------
        DataError
            If one has more than `MAX_WORDS` bytes, or any is not UTF-8.
        """
        try:
            found = self.session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise _refused(self.source, f"its metadata are not UTF-8: {error}", _FIX) from error
        for key in keys:
            size = len(found.get(key, "").encode(errors="surrogateescape"))
            if size > MAX_WORDS:
                raise _refused(
                    self.source,
                    f"{key} in its metadata has {size} bytes, at most {MAX_WORDS} are read",
                    _FIX,
                )
        return {key: found[key] for key in keys if key in found}

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the samples."""
        return input_type(self.session)

    def probabilities(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        """Class probabilities (n, classes) of samples (n, *shape), all at once.

        Raises
        ------
        DataError
            If it does not run, or its results are not probabilities.
        """
        try:
            (found,) = self.session.run([OUTPUT_NAME], {input_of(self.shape)[0]: samples})
        except MALFORMED as error:
            raise _refused(
                self.source, f"it does not run in ONNX Runtime: {first_line(error)}", _FIX
            ) from error
        problem = problem_of(found, len(samples), self.classes)
        if problem:
            raise _refused(self.source, f"its results are not probabilities: {problem}", _FIX)
        probabilities: NDArray[np.float32] = found
        return probabilities


def problem_of(found: object, count: int, classes: int) -> str:
    """Why an output is no float32 array of probabilities (count, classes); empty if it is one."""
    if not isinstance(found, np.ndarray) or found.dtype != np.float32:
        kind = found.dtype if isinstance(found, np.ndarray) else type(found).__name__
        return f"they are {kind}, not float32"
    if found.shape != (count, classes):
        return f"{count} samples of {classes} classes give an array {found.shape}"
    if not np.isfinite(found).all():
        return "they are not finite"
    low, high = float(found.min(initial=0.0)), float(found.max(initial=0.0))
    if low < -_RANGE_TOLERANCE or high > 1 + _RANGE_TOLERANCE:
        return f"they reach from {low:.6g} to {high:.6g}"
    sums = found.sum(axis=1, dtype=np.float64)
    far = float(sums[np.abs(sums - 1).argmax()]) if count else 1.0
    if abs(far - 1) > _SUM_TOLERANCE:
        return f"those of a sample add up to {far:.6g}"
    return ""


def open_checked(
    source: Source, content: bytes, folder: Path, *, on_weights: OnWeights = _ignore
) -> CheckedModel:
    """Open a file that has lepton's input and output; parameters as of `parse`.

    Raises
    ------
    DataError
        If it cannot be used; the message says why.
    """
    try:
        model = parse(source, content, folder, on_weights=on_weights)
        shape, classes = _ends(source, model.graph)
        session = open_session(model.SerializeToString())
    except MALFORMED as error:
        raise _refused(
            source, f"it does not run in ONNX Runtime: {first_line(error)}", _FIX
        ) from error
    return CheckedModel(source, session, shape, classes)


def _ends(source: Source, graph: GraphProto) -> tuple[tuple[int, ...], int]:
    """Shape of the samples and number of classes."""
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    names = [value.name for value in inputs], [value.name for value in graph.output]
    if names[0] not in ([INPUT_NAME], [SIGNAL_NAME], [AUDIO_NAME]) or names[1] != [OUTPUT_NAME]:
        shown = [name[:40] for side in names for name in side[:3]]
        raise _refused(
            source,
            f"its inputs and outputs are {', '.join(shown) or 'none'}; the rule is one input "
            f"{INPUT_NAME}, {SIGNAL_NAME} or {AUDIO_NAME} and one output {OUTPUT_NAME}",
            "give an ONNX file that lepton wrote, or make one: lepton compress MODEL --data DATA",
        )
    (given, made) = inputs[0].type.tensor_type, graph.output[0].type.tensor_type
    dims, classes = ([dim.dim_value for dim in side.shape.dim] for side in (given, made))
    is_right, rule = _INPUTS[names[0][0]]
    if not is_right(given.elem_type, dims):
        kind = _type_name(given.elem_type)
        raise _refused(source, f"its input is {kind} {_dims(dims)}; the rule is {rule}", _FIX)
    if made.elem_type != TensorProto.FLOAT or len(classes) != 2 or classes[1] < 1:
        kind = _type_name(made.elem_type)
        raise _refused(
            source, f"its output is {kind} {_dims(classes)}; the rule is FLOAT (n, classes)", _FIX
        )
    return tuple(dims[1:]), classes[1]


def _is_picture(kind: int, dims: list[int]) -> bool:
    sides_fit = len(dims) == 4 and all(0 < side <= MAX_SIDE for side in dims[1:3])
    is_known = kind in (TensorProto.UINT8, TensorProto.UINT16)
    return is_known and sides_fit and 0 < dims[3] <= MAX_CHANNELS


def _is_signal(kind: int, dims: list[int]) -> bool:
    fits = len(dims) == 3 and 0 < dims[1] <= MAX_LENGTH and 0 < dims[2] <= MAX_CHANNELS
    return kind in (TensorProto.FLOAT, TensorProto.INT16) and fits


def _is_audio(kind: int, dims: list[int]) -> bool:
    return kind == TensorProto.INT16 and len(dims) == 2 and 0 < dims[1] <= MAX_LENGTH


_INPUTS: dict[str, tuple[Callable[[int, list[int]], bool], str]] = {
    INPUT_NAME: (
        _is_picture,
        f"UINT8 or UINT16 (n, height, width, 1 to {MAX_CHANNELS}), sides up to {MAX_SIDE}",
    ),
    SIGNAL_NAME: (
        _is_signal,
        f"FLOAT or INT16 (n, length, 1 to {MAX_CHANNELS}), length up to {MAX_LENGTH}",
    ),
    AUDIO_NAME: (_is_audio, f"INT16 (n, window), a window up to {MAX_LENGTH}"),
}
"""Name of an input -> whether its type and dimensions are legal, and the rule."""


def _type_name(number: int) -> str:
    known = number in TensorProto.DataType.values()
    return TensorProto.DataType.Name(number) if known else f"type {number}"


def _dims(dims: list[int]) -> str:
    shown = [str(dim or "n") for dim in dims[:6]]
    return f"({', '.join(shown)}{', ...' if len(dims) > 6 else ''})"


def _refused(source: Source, why: str, fix: str) -> DataError:
    return DataError(f"{source}: {why}", fix=fix)
