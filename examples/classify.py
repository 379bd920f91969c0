"""Classify picture files with an artifact of lepton: onnxruntime, numpy and Pillow are enough.

    python classify.py model.int8.onnx cat.jpg dog.png

The ONNX file takes raw pixels and gives probabilities; size, channels and class names are in it.
"""

import json
import os
import sys

import numpy as np

# ONNX Runtime 1.32 sends usage data to its maker unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime
from PIL import Image, ImageOps


def pixels_of(file: str, height: int, width: int, channels: int) -> np.ndarray:
    """One picture as the net was trained on it: uint8 (1, height, width, channels)."""
    if file.endswith(".npy"):  # pixels of the net's size, of any number of channels
        return np.load(file).astype(np.uint8).reshape(1, height, width, channels)
    with Image.open(file) as opened:
        picture = ImageOps.exif_transpose(opened)
    if picture.mode.startswith("I"):  # 16-bit grey
        values = np.asarray(picture).astype(np.uint32)
        picture = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if picture.has_transparency_data:  # transparent pixels are laid over white
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    picture = picture.convert("RGB").convert("L" if channels == 1 else "RGB")
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8).reshape(1, height, width, channels)


def deep_pixels_of(file: str, height: int, width: int, channels: int) -> np.ndarray:
    """One 16-bit picture as it is stored: uint16 (1, height, width, channels)."""
    stored = np.load(file) if file.endswith(".npy") else ImageOps.exif_transpose(Image.open(file))
    values = np.asarray(stored).reshape(*np.shape(stored)[:2], channels)
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(values, 2, 0)]
    planes = [plane.resize((width, height), Image.Resampling.BILINEAR) for plane in planes]
    return np.rint(np.stack(planes, axis=2)).astype(np.uint16)[None]


def main(model: str, files: list[str]) -> None:
    """Print file, label and probability, a line each."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
    _, height, width, channels = session.get_inputs()[0].shape
    is_deep = session.get_inputs()[0].type == "tensor(uint16)"
    for file in files:
        pixels = (deep_pixels_of if is_deep else pixels_of)(file, height, width, channels)
        (probabilities,) = session.run(None, {"pixels": pixels})[0]
        best = int(probabilities.argmax())
        print(f"{file}\t{labels[best]}\t{probabilities[best]:.4f}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
