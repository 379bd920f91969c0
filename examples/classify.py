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
from PIL import Image, ImageOps, UnidentifiedImageError


def pixels_of(
    file: str, height: int, width: int, channels: int, scale: str = "16bit"
) -> np.ndarray:
    """One picture as the net was trained on it: uint8 (1, height, width, channels)."""
    if file.endswith(".npy"):  # pixels of the net's size, of any number of channels
        values = np.load(file)
        pixels = values if values.dtype == np.uint8 else to_8_bits(values, scale)
        return pixels.reshape(1, height, width, channels)
    with open_picture(file) as opened:
        picture = ImageOps.exif_transpose(opened)
    is_grey = picture.mode.startswith("I") or picture.mode == "F"
    if is_grey or (scale not in FULL and sixteen_bit_colour(file) is not None):
        picture = Image.fromarray(to_8_bits(values_of(file), scale))
    if picture.has_transparency_data:  # transparent pixels are laid over white
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    picture = picture.convert("RGB").convert("L" if channels == 1 else "RGB")
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8).reshape(1, height, width, channels)


def open_picture(file: str) -> Image.Image:
    """A picture file, open in Pillow."""
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        sys.exit(
            f"{file}: no picture that Pillow reads. Of TIFF files with floating-point pixels only "
            "grey ones of 32 bits are read here: give their pixels in a .npy file of the net's size"
        )


FULL = ("16bit", "unit", "symmetric")
"""Scales with which whole numbers reach from 0 to 65535."""


def to_8_bits(values: np.ndarray, scale: str) -> np.ndarray:
    """Values of more than 8 bits by what is black and white: `12bit`, `unit`, `0:3000`."""
    is_whole = values.dtype.kind != "f"
    scale = "16bit" if is_whole and scale in FULL else scale
    bits = f"0:{2 ** int(scale[:-3]) - 1}" if scale.endswith("bit") else scale
    ends = {"unit": "0:1", "symmetric": "-1:1"}.get(scale, bits)
    black, white = map(float, ends.split(":"))
    levels = (values.astype(np.float64 if is_whole else np.float32) - black) * (
        255 / (white - black)
    )
    return np.rint(levels.clip(0, 255)).astype(np.uint8)


def values_of(file: str) -> np.ndarray:
    """The stored values of a picture, upright: (height, width) or (height, width, channels)."""
    if file.endswith(".npy"):
        return np.load(file)
    values = sixteen_bit_colour(file)
    with open_picture(file) as picture:
        picture.load()  # turns a TIFF by itself
        turn = picture.getexif().get(0x0112, 1)  # EXIF orientation
        values = np.asarray(picture) if values is None else values
    values = values.swapaxes(0, 1) if turn >= 5 else values
    values = values[::-1] if turn in (3, 4, 7, 8) else values
    return np.ascontiguousarray(values[:, ::-1] if turn in (2, 3, 6, 7) else values)


def sixteen_bit_colour(file: str) -> np.ndarray | None:
    """Stored values (height, width, 3 or 4) of 16-bit colour; None for other pictures.

    Pillow keeps the upper byte of each value, so the file is read again with its bytes swapped.
    """
    halves = []
    for is_swapped in (False, True):
        with open_picture(file) as picture:
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


def pixels_16_bit_of(file: str, height: int, width: int, channels: int) -> np.ndarray:
    """One 16-bit picture as it is stored: uint16 (1, height, width, channels)."""
    stored = values_of(file)
    values = stored.reshape(*stored.shape[:2], channels)
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(values, 2, 0)]
    planes = [plane.resize((width, height), Image.Resampling.BILINEAR) for plane in planes]
    return np.rint(np.stack(planes, axis=2)).astype(np.uint16)[None]


def main(model: str, files: list[str]) -> None:
    """Print file, label and probability, a line each."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    labels, scale = json.loads(about["labels"]), about.get("pixel_scale", "16bit")
    _, height, width, channels = session.get_inputs()[0].shape
    is_16_bit = session.get_inputs()[0].type == "tensor(uint16)"
    for file in files:
        if is_16_bit:
            pixels = pixels_16_bit_of(file, height, width, channels)
        else:
            pixels = pixels_of(file, height, width, channels, scale)
        (probabilities,) = session.run(None, {"pixels": pixels})[0]
        best = int(probabilities.argmax())
        print(f"{file}\t{labels[best]}\t{probabilities[best]:.4f}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
