"""Quantizers beside each other on the same float nets: ours and those of other projects.

    NNCF_PYTHON=nncf/bin/python ONC_PYTHON=onc/bin/python \
        python benchmarks/quantizers.py cifar10=cifar10.npz fashion=fashion_mnist.npz --seeds 3

Each variable names the Python of an environment with that project (`pip install nncf onnx
onnxruntime`; `pip install onnx-neural-compressor onnxruntime prettytable scikit-learn`); without
one its rows are missing. All get our float file and the same 512 training pictures, and are judged
on validation pictures by onnxruntime; latencies are taken in the same rounds. Every net is one line
of the file; what is there is not trained again.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ablations import Bench
from int8 import each_net, measured

from lepton_automl.compress.quantization.equalization import fold
from lepton_automl.data.sampling import PICTURES, balanced
from lepton_automl.models import onnx_file
from lepton_automl.models.model import Model

USED = ("cifar10, resnet8", "cifar10, half", "fashion, quick")

NNCF = """
import sys, numpy as np, onnx, nncf
source, pictures, out = sys.argv[1:]
model, x = onnx.load(source), np.load(pictures)
name = model.graph.input[0].name
data = nncf.Dataset([x[i:i + 1] for i in range(len(x))], lambda each: {name: each})
made = nncf.quantize(model, data, subset_size=len(x))
onnx.save(made, out)
"""
ONC = """
import sys, numpy as np, onnx
from onnx_neural_compressor import data_reader
from onnx_neural_compressor.quantization import config, quantize
source, pictures, out = sys.argv[1:]
x, name = np.load(pictures), onnx.load(source).graph.input[0].name

class Pictures(data_reader.CalibrationDataReader):
    def __init__(self):
        self.rewind()

    def rewind(self):
        self.rest = iter([{name: x[i:i + 32]} for i in range(0, len(x), 32)])

    def get_next(self):
        return next(self.rest, None)

quantize(source, out, config.StaticQuantConfig(Pictures(), per_channel=True))
"""
OTHERS = {"NNCF": ("NNCF_PYTHON", NNCF), "onnx-neural-compressor": ("ONC_PYTHON", ONC)}


def made_by(python: str, script: str, file: bytes, pixels: np.ndarray) -> bytes:
    """What another project makes of the float net, with our nodes for uint8 pixels before it.

    It gets the net alone, with float input, as it would come from elsewhere.
    """
    whole = onnx.load_from_string(file)
    bare, value = without_pixels(whole)
    with tempfile.TemporaryDirectory() as folder:
        source, pictures, out = (Path(folder) / n for n in ("float.onnx", "x.npy", "int8.onnx"))
        onnx.save(bare, source)
        np.save(pictures, floats(whole, value, pixels))
        command = [python, "-c", script, *map(str, (source, pictures, out))]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return with_pixels(onnx.load(out), whole, value).SerializeToString()


def without_pixels(whole: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """The net from the first value in float and channels first on, and that value."""
    bare = onnx.ModelProto()
    bare.CopyFrom(whole)
    value = next(n.input[0] for n in whole.graph.node if n.op_type == "Conv")
    del bare.graph.node[: front(whole, value)]
    batch, height, width, channels = whole.graph.input[0].type.tensor_type.shape.dim
    shape = [batch.dim_param, channels.dim_value, height.dim_value, width.dim_value]
    made = onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, shape)
    bare.graph.input[0].CopyFrom(made)
    return bare, value


def front(whole: onnx.ModelProto, value: str) -> int:
    """How many nodes it takes until the value is there."""
    return next(n for n, node in enumerate(whole.graph.node, 1) if value in node.output)


def floats(whole: onnx.ModelProto, value: str, pixels: np.ndarray) -> np.ndarray:
    """What the float net sees of pixels."""
    seen = onnx.ModelProto()
    seen.CopyFrom(whole)
    made = onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None)
    seen.graph.output.append(made)
    session = onnx_file.open_session(seen.SerializeToString())
    (found,) = session.run([value], {whole.graph.input[0].name: pixels})
    return found


def with_pixels(made: onnx.ModelProto, whole: onnx.ModelProto, value: str) -> onnx.ModelProto:
    """A net with float input, given pixels as ours."""
    before = whole.graph.node[: front(whole, value)]
    nodes = [*before, *made.graph.node]
    read = {name for node in before for name in node.input}
    constants = [c for c in whole.graph.initializer if c.name in read]
    for constant in constants:
        made.graph.initializer.append(constant)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    made.graph.input[0].CopyFrom(whole.graph.input[0])
    return made


def compared(model: Model, bench: Bench, seed: int) -> dict[str, Any]:
    """Of every quantizer: points lost, agreement, bytes, speed, seconds."""
    del seed
    pixels = bench.train.pixels[balanced(bench.train.labels, PICTURES, 0)].numpy()

    def others(file: bytes) -> dict[str, Any]:
        known = {name: (os.environ.get(key), code) for name, (key, code) in OTHERS.items()}
        return {
            name: lambda python=python, code=code: made_by(python, code, file, pixels)
            for name, (python, code) in known.items()
            if python
        }

    return measured(fold(model), bench, others)


def main() -> None:
    """Quantize what is missing, then a table a net."""
    known = each_net(__doc__, "quantizers.jsonl", USED, compared)
    for task in USED:
        rows = [row for row in known if row["key"][0] == task]
        if not rows:
            continue
        before = statistics.mean(row["float"] for row in rows)
        print(f"\n{task}, {rows[0]['n']} pictures, {len(rows)} nets, float {before:.2%}\n")
        print("| by | points lost [least, most] | same class | bytes | times float | seconds |")
        print("|---|---|---|---|---|---|")
        for name in rows[0]["ways"]:
            each = [row["ways"][name] for row in rows if name in row["ways"]]
            lost = [e["drop"] for e in each]
            agreement, size, speed, seconds = (
                statistics.mean(e[k] for e in each)
                for k in ("agreement", "bytes", "speed", "seconds")
            )
            spread = f"{statistics.mean(lost):+.2f} [{min(lost):+.2f}, {max(lost):+.2f}]"
            print(
                f"| {name} | {spread} | {agreement:.2%} | {size:,.0f} | {speed:.2f} "
                f"| {seconds:.1f} |"
            )


if __name__ == "__main__":
    main()
