"""What a cut net is to learn from: labels, or the whole net's answers, at which temperature.

    python benchmarks/distilling.py fashion=fashion_mnist.npz cifar10=cifar10.npz --seeds 3

Nets are trained on a part of the training pictures; the cheapest offer for 40 % of the cost is cut
and refitted as the ladder does it, and recovers for 400 batches from the whole net: with each
share of its answers in the loss, the rest being the labels, and each temperature; and from the mean
answer of the whole net and of two others of the same kind, as a net that was taught has. Judged on
validation pictures; no test part is opened. Every net is one line of the file; what is there is not
done again.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any

from ablations import Bench
from importances import SHARE, USED
from int8 import each_net, trained

from lepton_automl.compress.context import Work
from lepton_automl.compress.pruning.candidates import offers
from lepton_automl.compress.recovery import LEAST_BATCHES, LR_SHARE
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.models.model import Model
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.loop import fit

USUAL = (0.9, 4.0)
WAYS = ((0.0, 1.0), (0.5, 4.0), (0.9, 1.0), (0.9, 2.0), USUAL, (0.9, 8.0), (1.0, 4.0))
"""Weight of the whole net's answers, temperature."""
OTHERS = "usual, two more teachers"


def recovered(model: Model, bench: Bench, seed: int) -> dict[str, Any]:
    """Share of validation pictures that are right: whole, cut, and recovered each way."""
    target = targets.load()
    work = Work(bench.train, bench.validation, model, Limits(), target, bench.recipe, seed=seed)
    less = min(offers(model, work, SHARE, frozenset()), key=lambda offer: offer.price).model
    recipe = dataclasses.replace(bench.recipe, lr=LR_SHARE * bench.recipe.lr)
    epochs = math.ceil(LEAST_BATCHES * recipe.batch_size / len(bench.train))
    nets = {"whole": model, "cut": less}
    others = [trained(bench, (seed + more) % 3) for more in (1, 2)]
    teachers = {f"{weight}, {t}": ((model,) if weight else (), weight, t) for weight, t in WAYS}
    teachers[OTHERS] = ((model, *others), *USUAL)
    for name, (guides, weight, temperature) in teachers.items():
        nets[name] = fit(
            *(less, bench.train, recipe),
            epochs=epochs,
            seed=seed,
            teachers=guides,
            distill_weight=weight,
            temperature=temperature,
        )
    return {name: float(is_correct(net, bench.validation).mean()) for name, net in nets.items()}


def main() -> None:
    """Recover what is missing, then a table: points lost against the whole net."""
    known = each_net(__doc__, "distilling.jsonl", USED, recovered)
    tasks = [task for task in USED if any(row["key"][0] == task for row in known)]
    print(f"| answers' share, temperature | {' | '.join(tasks)} | mean against the usual |")
    print(f"|---|{'---|' * (len(tasks) + 1)}")
    usual = "{}, {}".format(*USUAL)
    for way in ("cut", *(f"{weight}, {t}" for weight, t in WAYS), OTHERS):
        cells = []
        for task in tasks:
            lost = [100 * (row["whole"] - row[way]) for row in known if row["key"][0] == task]
            spread = f" ± {statistics.stdev(lost):.2f}" if len(lost) > 1 else ""
            cells.append(f"{statistics.mean(lost):+.2f}{spread} ({len(lost)})")
        gains = [100 * (row[way] - row[usual]) for row in known]
        error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
        print(f"| {way} | {' | '.join(cells)} | {statistics.mean(gains):+.2f} ± {error:.2f} |")


if __name__ == "__main__":
    main()
