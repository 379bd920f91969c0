"""How much faster two processes train one net than one does (`--final-jobs 2`).

    python benchmarks/together.py --rounds 3

ResNet-8, `half` and `quick` on random pictures, one thread a process, one process and two in turns;
pictures a second of all of them together after the first batches, and the ratio with its spread.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

NETS = {
    "resnet8, 32x32x3": ("residual", 1, (32, 32, 3), 64),
    "half, 32x32x3": ("residual", 0, (32, 32, 3), 64),
    "quick, 28x28x1": ("tiny", 0, (28, 28, 1), 64),
}
"""Space, which of its known-good candidates, picture, batch."""
WARM, TIMED = 20, 150
"""Batches before and while it is timed."""

MEMBER = """
import dataclasses, sys, time
import optuna, torch
from lepton_automl.search import space, targets
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.models.model import Preprocessing
from lepton_automl.training.distributed import ProcessGroup, init_process_group
from lepton_automl.training.loop import train_loop, initial_model

torch.set_num_threads(1)
optuna.logging.set_verbosity(optuna.logging.WARNING)
rank, count, meeting, name, place, h, w, c, batch, warm, timed = sys.argv[1:]
found, shape, batch = space.load(name), (int(h), int(w), int(c)), int(batch)
study = optuna.create_study()
study.enqueue_trial(dict(found.candidates[int(place)]))
arch, recipe = found.sample(
    study.ask(), size=shape[:2], channels=shape[2], classes=10, target=targets.load()
)
recipe = dataclasses.replace(recipe, batch_size=batch)
steps = int(warm) + int(timed)
pixels = torch.randint(0, 256, (steps * batch, *shape), dtype=torch.uint8)
data = LabelledTensors(pixels, torch.randint(0, 10, (len(pixels),)))
times = []
with init_process_group(meeting, ProcessGroup(int(rank), int(count))) as process_group:
    model = initial_model(arch, Preprocessing(128, 1 / 64), 0)
    train_loop(
        model.network(), data, model.preprocessing, recipe, epochs=1, seed=0,
        process_group=process_group,
        on_batch=lambda done, total: times.append(time.perf_counter()),
    )
if rank == "0":
    print(int(timed) * batch / (times[-1] - times[int(warm) - 1]))
"""


def pictures_per_second(name: str, count: int) -> float:
    """Of `count` processes together."""
    space, place, shape, batch = NETS[name]
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        words = [meeting, space, place, *shape, batch, WARM, TIMED]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", MEMBER, *map(str, (rank, count, *words))],
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]
        said = [process.communicate()[0] for process in processes]
    return float(said[0])


def main() -> None:
    """A row a net."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print("| net | one process, pictures/s | two | ratio [least, most] |\n|---|---|---|---|")
    for name in NETS:
        pairs = [
            (pictures_per_second(name, 1), pictures_per_second(name, 2))
            for _ in range(given.rounds)
        ]
        ratios = [two / one for one, two in pairs]
        one, two = (statistics.median(column) for column in zip(*pairs, strict=True))
        spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        print(f"| {name} | {one:.0f} | {two:.0f} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
