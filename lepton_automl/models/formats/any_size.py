"""ONNX for pictures of any size: the int8 file with the resizing of pictures in its graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper
from PIL import Image

from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_files import MODEL
from lepton_automl.errors import ArchError, DataError, first_line
from lepton_automl.models.formats import FileFormat, Golden, Session, Sizes, Words
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.onnx_file import (
    INPUT_NAME,
    open_session,
    predict_probabilities,
    read_metadata,
)
from lepton_automl.models.quantization import QuantizedNet
from lepton_automl.models.untrusted.onnx_graph import MALFORMED, open_checked

_FIX = "make the file again: lepton export RUN --format any_size"
_OPSET = 18
"""First version of Resize with antialiasing; the other operators of int8 files are as in 17."""
_WIDE, _RESIZED = "wide", "resized"
_SIDES = ("height", "width")
_MOST_LEVELS = 2
"""Largest difference from Pillow's pixels. Both round width and height one after the other, so that
each is at most 1 from the exact value; Pillow 13 begins with the height where that is faster."""
_TRIED_SIZES = ((1, 1), (7, 90), (61, 33), (150, 200))
"""Heights and widths of generated pictures whose resizing is compared with Pillow's."""


class AnySize(FileFormat):
    """One file for ONNX Runtime that resizes pictures of any size itself: uint8 pixels in."""

    main = "model.int8.any_size.onnx"
    max_difference = 0.0
    takes_any_size = True

    def files(self, net: QuantizedNet, words: Words, golden: Golden) -> dict[str, bytes]:
        """The int8 file behind two Resize operators; golden samples are not part of it."""
        del golden
        if len(net.arch.file_input) != 3 or net.preprocessing.input_type != "uint8":
            raise ArchError(
                "it resizes 8-bit pictures, and the net reads "
                + ("16-bit pictures" if len(net.arch.file_input) == 3 else "no pictures"),
                fix="leave any_size out of --format",
            )
        return {self.main: with_resizing(int8_onnx(net, words.class_names, words.metadata))}

    def session(self, folder: Path) -> Session:
        """Open the file in ONNX Runtime on one thread, once its resizing is seen to be Pillow's."""
        path = folder / self.main
        content = untrusted_files.read_bytes(path, MODEL, fix=_FIX)
        return _AnySizeSession(path, content, folder)

    def sizes(self, folder: Path) -> Sizes:
        """The bytes of the file; ONNX Runtime plans its memory itself."""
        return Sizes((folder / self.main).stat().st_size)

    def differences(self, net: QuantizedNet) -> tuple[str, ...]:
        """Roundings of the resizing."""
        del net
        return (
            "pictures of another size are resized in the graph, each pixel at most "
            f"{_MOST_LEVELS} of 255 levels from Pillow's bilinear resize",
        )


class _AnySizeSession(Session):
    def __init__(self, path: Path, content: bytes, folder: Path) -> None:
        fixed = without_resizing(path, content)
        open_checked(path, fixed, folder)
        try:
            self._session = open_session(content)
            resizing = open_session(resizing_of(content))
        except MALFORMED as error:
            text = f"{path} does not run in ONNX Runtime: {first_line(error)}"
            raise DataError(text, fix=_FIX) from error
        _check_resizing(path, resizing, _input_shape(ModelProto.FromString(fixed)))
        self._labels = _labels(path, content)

    def predict(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = predict_probabilities(self._session, samples)
        return found

    def labels(self) -> tuple[str, ...]:
        return self._labels


def _labels(path: Path, content: bytes) -> tuple[str, ...]:
    """Class names in the metadata, line breaks as spaces."""
    text = read_metadata(content).get("labels", "")
    names = untrusted_files.parse_json(text, f"labels in {path}", fix=_FIX, top=list)
    return tuple(" ".join(str(name).splitlines()) for name in names)


def with_resizing(file: bytes) -> bytes:
    """The int8 file of a net for pictures, which takes any height and width.

    Width and height are resized one after the other and rounded to uint8 in between: antialiased
    triangles, without the weights that fall outside of the picture, as Pillow's bilinear resize.

    Parameters
    ----------
    file : bytes
        As `int8_onnx` writes it, for uint8 pixels (n, H, W, C).
    """
    model = ModelProto.FromString(file)
    graph, shape = model.graph, _input_shape(model)
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == INPUT_NAME:
                node.input[place] = _RESIZED
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*_resizing_nodes(), *nodes])
    graph.initializer.extend(_side_constants(shape))
    for dim, name in zip(graph.input[0].type.tensor_type.shape.dim[1:3], _SIDES, strict=True):
        dim.dim_param = name
    model.opset_import[0].version = _OPSET
    return bytes(model.SerializeToString(deterministic=True))


def without_resizing(path: Path, content: bytes) -> bytes:
    """The int8 file that `with_resizing` gives `content` for.

    Raises
    ------
    DataError
        If there is none.
    """
    try:
        model = ModelProto.FromString(content)
        graph = model.graph
        sides = {each.name: numpy_helper.to_array(each) for each in graph.initializer[-2:]}
        height, width = (int(sides[name].item()) for name in _SIDES)
        del graph.node[:2], graph.initializer[-2:]
        for node in graph.node:
            for place, name in enumerate(node.input):
                if name == _RESIZED:
                    node.input[place] = INPUT_NAME
        dims = graph.input[0].type.tensor_type.shape.dim
        dims[1].dim_value, dims[2].dim_value = height, width
        model.opset_import[0].version = _OPSET - 1
        fixed = bytes(model.SerializeToString(deterministic=True))
        if with_resizing(fixed) == content:
            return fixed
    except (DecodeError, *MALFORMED) as error:
        text = f"{path} is not an int8 file with resizing: {first_line(error)}"
        raise DataError(text, fix=_FIX) from error
    raise DataError(f"{path} is not an int8 file with the resizing of this format", fix=_FIX)


def _input_shape(model: ModelProto) -> tuple[int, int, int]:
    """Height, width and channels of the input of an int8 file."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    height, width, channels = (dim.dim_value for dim in dims[1:4])
    return height, width, channels


def _resizing_nodes() -> list[NodeProto]:
    how: dict[str, Any] = {
        "mode": "linear",
        "antialias": 1,
        "exclude_outside": 1,
        "coordinate_transformation_mode": "half_pixel",
    }
    names = (INPUT_NAME, _WIDE, _RESIZED)
    return [
        helper.make_node("Resize", [x, "", "", side], [y], f"resize_{side}", axes=[axis], **how)
        for x, y, side, axis in zip(names, names[1:], ("width", "height"), (2, 1), strict=False)
    ]


def _side_constants(shape: tuple[int, int, int]) -> list[Any]:
    return [
        numpy_helper.from_array(np.array([value], np.int64), name)
        for name, value in zip(_SIDES, shape[:2], strict=True)
    ]


def resizing_of(content: bytes) -> bytes:
    """The resizing of a file, without its net."""
    model = ModelProto.FromString(content)
    graph = model.graph
    del graph.node[2:], graph.output[:]
    graph.output.append(helper.make_empty_tensor_value_info(_RESIZED))
    kept = [each for each in graph.initializer if each.name in _SIDES]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return bytes(model.SerializeToString())


def _check_resizing(
    path: Path, session: onnxruntime.InferenceSession, shape: tuple[int, int, int]
) -> None:
    """Compare the resizing of generated pictures with Pillow's.

    Raises
    ------
    DataError
        If a pixel is further from Pillow's than the format promises.
    """
    height, width, channels = shape
    generator = np.random.default_rng(0)
    for size in _TRIED_SIZES:
        picture = generator.integers(0, 256, (*size, channels), np.uint8)
        (found,) = session.run(None, {INPUT_NAME: picture[None]})
        planes = [
            np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
            for plane in np.moveaxis(picture, 2, 0)
        ]
        apart = int(np.abs(found[0].astype(int) - np.stack(planes, axis=2)).max())
        if apart > _MOST_LEVELS:
            raise DataError(
                f"{path}: this ONNX Runtime ({onnxruntime.__version__}) resizes a picture of "
                f"{size[0]}x{size[1]} pixels by up to {apart} levels otherwise than Pillow "
                f"(at most {_MOST_LEVELS})",
                fix="use model.int8.onnx, and resize pictures before it",
            )
