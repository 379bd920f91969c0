"""Models made elsewhere: read with care, given our interface, quantized and proven like ours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Foreign:
    """A float classifier in the form our own files have."""

    file: bytes
    """ONNX: uint8 `pixels` (n, H, W, C) in, float32 `probabilities` (n, classes) out."""
    shape: tuple[int, int, int]
    """Height, width, channels of the pictures."""
    class_names: tuple[str, ...]
    """In the order of the outputs."""
    kept_float: tuple[str, ...]
    """Nodes that are never quantized: what was put around the model."""
    seen_as: str
    """How its pictures are prepared, in words."""
