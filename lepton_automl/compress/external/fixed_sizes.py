"""Refuse graphs in which the size of a value depends on the values of the pixels.

The child process that opens a model runs it on random pictures within limits on memory and time.
That says something of other pictures only if all sizes follow from the size of the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnx import GraphProto

from lepton_automl.errors import DataError

_SIZE_INPUTS: Mapping[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "DFT": (1, 2),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
"""Operator -> inputs whose values determine the size of its output."""
_SELECTING = {"Compress", "ImageDecoder", "NonMaxSuppression", "NonZero", "StringSplit", "Unique"}
"""Operators the size of whose output depends on the values of any input."""
_RANDOM = {
    *("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"),
    *("RandomUniform", "RandomUniformLike"),
}


def check_fixed_sizes(path: Path, graph: GraphProto) -> None:
    """Check that no size depends on the values of an input, or on random ones.

    Parameters
    ----------
    path : Path
        For messages.
    graph : GraphProto
        Its nodes are sorted and have no sub-graphs.

    Raises
    ------
    DataError
        If one does.
    """
    stored = {tensor.name for tensor in graph.initializer}
    varying = {value.name for value in graph.input} - stored
    for node in graph.node:
        places = _SIZE_INPUTS.get(node.op_type, ())
        if node.op_type in _SELECTING:
            places = tuple(range(len(node.input)))
        if any(place < len(node.input) and node.input[place] in varying for place in places):
            raise DataError(
                f"{path}: the size of the output of {node.name or node.op_type} ({node.op_type}) "
                "depends on the values of the pixels",
                fix="export only the part that gives the scores, for pictures of one size",
            )
        # Shapes are the same for all pictures, since all sizes so far are.
        if node.op_type in _RANDOM or (
            node.op_type not in ("Shape", "Size") and any(name in varying for name in node.input)
        ):
            varying.update(node.output)
