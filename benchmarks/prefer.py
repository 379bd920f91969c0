"""Whether `--prefer latency` ever ships a file that is slower than its float twin.

    python benchmarks/prefer.py --nets 50

Random nets of three spaces with random weights, as float32 and int8 files, timed and chosen between
as the verdict does. Then both are timed again by a loop that knows onnxruntime alone: in each of 25
rounds the two take turns; the shipped file is slower if the lower 95 % bound of the median ratio
lies above 1. int8 files that are slower than float are counted beside it: what would ship unasked.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import onnxruntime
import torch

from lepton_automl.artifact.limits import ships
from lepton_automl.artifact.measurements import ROUNDS, SECONDS
from lepton_automl.artifact.verdict import Figures
from lepton_automl.compress.evaluation import int8_file
from lepton_automl.compress.quantization.calibration import calibrate
from lepton_automl.compress.quantization.equalization import fold
from lepton_automl.compress.quantization.rounding import quantize
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.cost.cost import static_cost
from lepton_automl.cost.latency import Stopwatch
from lepton_automl.models.model import Model, Preprocessing
from lepton_automl.models.onnx_export import float_onnx
from lepton_automl.search.space import loader
from lepton_automl.search.space.draw import RandomTrial
from lepton_automl.training.loop import initial_model

SHAPES = {"tiny": ((28, 28), 1), "residual": ((32, 32), 3), "mobile": ((64, 64), 3)}
JUDGED, JUDGED_SECONDS, OUTSIDE = 25, 0.02, 7
"""Rounds; seconds of a file in each; ordered ratios outside the interval at each end (95.7 %)."""


def net(number: int) -> Model:
    """A random net of one of the spaces, folded."""
    name = list(SHAPES)[number % len(SHAPES)]
    size, channels = SHAPES[name]
    draw, target = RandomTrial(number), targets.load()
    arch, _ = loader.load(name).sample(
        draw, size=size, channels=channels, classes=10, target=target
    )
    return fold(initial_model(arch, Preprocessing(zero_point=128, scale=0.0135), number))


def figures(name: str, interval: tuple[float, float], model: Model) -> Figures:
    """What a choice between two files looks at."""
    cost = static_cost(model.arch, 64)
    return Figures(
        file=name,
        sha256="",
        accuracy=0.0,
        accuracy_interval=(0.0, 1.0),
        n_samples=1,
        size_bytes=cost.size_bytes,
        weight_bytes=cost.weight_bytes,
        parameter_bytes=cost.parameter_bytes,
        macs=cost.macs,
        peak_ram_bytes=cost.peak_ram_bytes,
        latency_ms=sum(interval) / 2,
        latency_interval=interval,
        float_nodes=(),
    )


def shipped(files: dict[str, bytes], model: Model) -> str:
    """The file that ships, by lepton's own measurement and rule."""
    timed = Stopwatch().measure(files, rounds=ROUNDS, seconds=SECONDS)
    found = {k: figures(k, (t.ratio_low, t.ratio_high), model) for k, t in timed.items()}
    return ships(found["int8"], found["float"], Limits(), "latency")


def ratios(files: dict[str, bytes], shape: tuple[int, ...]) -> list[float]:
    """int8 time over float time, a number a round."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    pixels = np.random.default_rng(0).integers(0, 256, (1, *shape), dtype=np.uint8)
    sessions = {k: onnxruntime.InferenceSession(f, options) for k, f in files.items()}

    def milliseconds(name: str) -> float:
        runs, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < JUDGED_SECONDS:
            sessions[name].run(None, {"pixels": pixels})
            runs += 1
        return 1000 * (time.perf_counter() - begun) / runs

    for name in files:
        milliseconds(name)
    return sorted(milliseconds("int8") / milliseconds("float") for _ in range(JUDGED))


def main() -> None:
    """A line a net whose int8 file is slower, then the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", type=int, default=50)
    given = parser.parse_args()
    torch.set_num_threads(1)
    slower, unasked, floats = 0, 0, 0
    for number in range(given.nets):
        model = net(number)
        draws = torch.Generator().manual_seed(number)
        pixels = torch.randint(0, 256, (64, *model.arch.input), generator=draws).to(torch.uint8)
        made = quantize(model, calibrate(model, pixels), targets.load().weight_limit)
        names = [str(n) for n in range(10)]
        files = {"int8": int8_file(made), "float": float_onnx(model, names, {})}
        choice = shipped(files, model)
        each = ratios(files, model.arch.input)
        low, middle = each[OUTSIDE], each[JUDGED // 2]
        is_slower = low > 1
        unasked += is_slower
        floats += choice == "float"
        slower += (is_slower and choice == "int8") or (choice == "float" and each[-1 - OUTSIDE] < 1)
        if is_slower:
            print(f"net {number}: int8 takes {middle:.2f} of float's time, {choice} ships")
    print(f"of {given.nets}: int8 slower {unasked}, float ships {floats}, shipped slower {slower}")


if __name__ == "__main__":
    main()
