"""Classify windows of sensor values with an artifact of lepton: onnxruntime and numpy are enough.

    python classify_signal.py model.int8.onnx window.npy

A window is an array (length, channels) of values as the sensor gives them; length, channels and
class names are in the ONNX file.
"""

import json
import os
import sys

import numpy as np

# ONNX Runtime 1.32 sends usage data to its maker unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime


def main(model: str, files: list[str]) -> None:
    """Print file, label and probability, a line each."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
    _, length, channels = session.get_inputs()[0].shape
    kind = np.int16 if session.get_inputs()[0].type == "tensor(int16)" else np.float32
    for file in files:
        window = np.load(file, allow_pickle=False).astype(kind)
        (probabilities,) = session.run(None, {"signal": window.reshape(1, length, channels)})[0]
        best = int(probabilities.argmax())
        print(f"{file}\t{labels[best]}\t{probabilities[best]:.4f}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
