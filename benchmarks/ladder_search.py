"""Whether Optuna finds better cuts than the greedy ladder, with as many recoveries.

    python benchmarks/ladder_search.py fashion=fashion_mnist.npz cifar10=cifar10.npz --seeds 3

The ladder takes the cheapest offer for 40 % of the cost, from what it kept last, and halves that
wherever the cut is put back, six times at most. Optuna's TPE chooses the size of every width
(multiples of the target's step, channels by the same importance), as often; it begins with the
ladder's first cut by channels. Every cut is refitted by least squares, learns from the whole net
for 400 batches and counts only if at most 0.25 points are lost on validation. Given is the share of
bytes and multiply-accumulates saved.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import optuna
import torch
from ablations import Bench
from importances import USED
from int8 import each_net

from lepton_automl.compress.context import Work
from lepton_automl.compress.evaluation import validation_accuracy
from lepton_automl.compress.loop import FIRST_SHARE, ROUNDS, SMALLEST_SHARE
from lepton_automl.compress.pruning.candidates import channel_steps, chosen
from lepton_automl.compress.pruning.cut import cut
from lepton_automl.compress.pruning.importance import importance
from lepton_automl.compress.pruning.prune import Prune
from lepton_automl.compress.pruning.refit import refit
from lepton_automl.compress.pruning.savings import Savings, smaller
from lepton_automl.compress.recovery import LEAST_BATCHES, Effort, recover
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.data.sampling import PICTURES, balanced
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model
from lepton_automl.models.random_weights import random_int8_onnx

ALLOWED = 0.25
"""Points on validation: half of what may be lost in all, as in the ladder."""


def greedy(model: Model, work: Work) -> tuple[float, int]:
    """What the ladder saves, and the recoveries it took."""
    now, share, recoveries = model, FIRST_SHARE, 0
    known: set[str] = set()
    while len(known) < ROUNDS and share >= SMALLEST_SHARE:
        attempt = Prune(share, frozenset(known)).attempt(now, work)
        if attempt.model is None:
            break
        recoveries += attempt.recoveries
        known.add(attempt.model.arch.hash)
        if attempt.is_accepted:
            now = attempt.model
        else:
            share /= 2
    return saved(model.arch, now.arch), recoveries


def saved(before: Arch, after: Arch) -> float:
    """Of bytes and multiply-accumulates, half and half; layers may be gone."""
    limit = targets.load().weight_limit
    sizes = [len(random_int8_onnx(arch, limit)) for arch in (after, before)]
    return 1 - (sizes[0] / sizes[1] + after.graph.macs / before.graph.macs) / 2


def searched(model: Model, work: Work, count: int) -> float:
    """What the best of `count` cuts that TPE chose saves."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    saves, steps = (
        Savings(model.arch, 0.5, 0.5),
        channel_steps(model.arch, work.target.channel_step),
    )
    scores = importance(model, work.train, work.seed)
    before, best = validation_accuracy(model, work), [0.0]
    pixels = work.train.pixels[balanced(work.train.labels, PICTURES, work.seed)]
    epochs = math.ceil(LEAST_BATCHES * work.recipe.batch_size / len(work.train))
    whole = {w.name: w.size for w in model.arch.graph.widths}

    def objective(trial: optuna.Trial) -> float:
        less, kept = model, {}
        for name, size in whole.items():
            choices = [size, *smaller(size, steps[name])]
            wanted = trial.suggest_categorical(name, choices)
            if wanted < size:
                kept[name] = torch.topk(scores[name], wanted).indices.sort().values
                less = cut(less, name, kept[name].tolist())
        gain = saved(model.arch, less.arch)
        fitted = refit(less, model, kept, pixels)
        mended = recover(fitted, work, Effort(work.train, epochs))
        lost = 100 * (before - validation_accuracy(mended, work))
        if lost <= ALLOWED:
            best[0] = max(best[0], gain)
        return gain if lost <= ALLOWED else -lost

    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=work.seed)
    )
    first = chosen(model.arch, scores, steps, FIRST_SHARE, saves)
    study.enqueue_trial(whole | first)
    study.optimize(objective, n_trials=count)
    return best[0]


def compared(model: Model, bench: Bench, seed: int) -> dict[str, Any]:
    """Both on one net."""
    work = Work(
        *(bench.train, bench.validation, model, Limits(), targets.load(), bench.recipe),
        seed=seed,
        epochs=1,
    )
    ladder, tried = greedy(model, work)
    return {"ladder": ladder, "tried": tried, "optuna": searched(model, work, max(tried, 1))}


def main() -> None:
    """Compare on what is missing, then a table."""
    known = each_net(__doc__, "ladder_search.jsonl", USED, compared)
    print("| task | ladder saves | Optuna saves | recoveries |\n|---|---|---|---|")
    for task in USED:
        mine = [row for row in known if row["key"][0] == task]
        if mine:
            ladder, other, tried = (
                statistics.mean(row[k] for row in mine) for k in ("ladder", "optuna", "tried")
            )
            print(f"| {task} ({len(mine)}) | {ladder:.0%} | {other:.0%} | {tried:.1f} |")


if __name__ == "__main__":
    main()
