"""Classify WAV files with an artifact of lepton: onnxruntime and numpy are enough.

    python classify_audio.py model.int8.onnx recording.wav

The ONNX file takes 16-bit samples and computes the features itself; sampling rate, window and
stride are in its metadata. The answers to the windows of a longer recording are joined: the mean of
their log probabilities.
"""

import json
import os
import sys
import wave

import numpy as np

# ONNX Runtime 1.32 sends usage data to its maker unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime


def windows(path: str, rate: int, window: int, stride: int) -> np.ndarray:
    """Samples of a WAV file (16 bits, at `rate`) as windows (n, window), zeros at the end."""
    with wave.open(path) as file:
        if (file.getsampwidth(), file.getframerate()) != (2, rate):
            sys.exit(f"{path}: give 16 bits at {rate} Hz, such as: sox IN -b 16 -r {rate} OUT.wav")
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        samples = samples.reshape(-1, file.getnchannels()).mean(1).round().astype(np.int16)
    count = 1 + max(0, -(-(len(samples) - window) // stride))
    padded = np.zeros((count - 1) * stride + window, np.int16)
    padded[: len(samples)] = samples
    return np.stack([padded[n * stride : n * stride + window] for n in range(count)])


def main(model: str, files: list[str]) -> None:
    """Print file, label and probability, a line each."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    words = session.get_modelmeta().custom_metadata_map
    labels, about = json.loads(words["labels"]), json.loads(words["front_end"])
    for file in files:
        audio = windows(file, about["rate"], about["window"], about["stride"])
        answers = session.run(None, {"audio": audio})[0].astype(np.float64)
        joined = np.exp(np.log(np.maximum(answers, 1e-6)).mean(0))
        probabilities = joined / joined.sum()
        best = int(probabilities.argmax())
        print(f"{file}\t{labels[best]}\t{probabilities[best]:.4f}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
