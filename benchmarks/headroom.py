"""Whether a net beyond a limit, pruned to it, is better than one that was within it all along.

    python benchmarks/headroom.py fashion=fashion_mnist.npz cifar10=cifar10.npz --seeds 3

A known-good net is trained, 40 % of its cost is cut away (the cheapest offer, refitted), and it
recovers from the whole net. The same small net is trained from nothing for as many epochs as both
together, alone and with the whole net's answers. Judged on validation pictures; no test part is
opened. Every net is one line of the file; what is there is not trained again.
"""

from __future__ import annotations

import statistics
from typing import Any

from ablations import Bench
from int8 import each_net

from lepton_automl.compress.context import Work
from lepton_automl.compress.pruning.candidates import offers
from lepton_automl.compress.recovery import Effort, recover
from lepton_automl.config import Limits
from lepton_automl.cost import targets
from lepton_automl.models.model import Model
from lepton_automl.training.evaluate import is_correct
from lepton_automl.training.loop import fit, initial_model

USED = ("fashion, quick", "fashion, large", "cifar10, half")
SHARE, RECOVERY = 0.4, 9
"""Of the cost, what is cut; epochs afterwards, half of the whole net's."""


def compared(model: Model, bench: Bench, seed: int) -> dict[str, Any]:
    """Share of validation pictures that are right: whole, pruned, from nothing, taught."""
    work = Work(
        bench.train, bench.validation, model, Limits(), targets.load(), bench.recipe, seed=seed
    )
    less = min(offers(model, work, SHARE, frozenset()), key=lambda offer: offer.price)
    epochs = bench.setting.epochs + RECOVERY
    start = initial_model(less.model.arch, model.preprocessing, seed)
    nets = {
        "whole": model,
        "pruned": recover(less.model, work, Effort(bench.train, RECOVERY)),
        "from nothing": fit(start, bench.train, bench.recipe, epochs=epochs, seed=seed),
        "taught": fit(
            start, bench.train, bench.recipe, epochs=epochs, seed=seed, teachers=(model,)
        ),
    }
    right = {name: float(is_correct(net, bench.validation).mean()) for name, net in nets.items()}
    return right | {"saved": less.saved, "cut": less.what}


def main() -> None:
    """Train what is missing, then a table."""
    known = each_net(__doc__, "headroom.jsonl", USED, compared)
    print("| net | saved | whole | pruned | from nothing | from nothing, taught |")
    print("|---|---|---|---|---|---|")
    for task in USED:
        rows = [row for row in known if row["key"][0] == task]
        if not rows:
            continue
        saved = statistics.mean(row["saved"] for row in rows)
        cells = []
        for name in ("whole", "pruned", "from nothing", "taught"):
            each = [row[name] for row in rows]
            spread = f" ± {100 * statistics.stdev(each):.2f}" if len(each) > 1 else ""
            cells.append(f"{statistics.mean(each):.2%}{spread}")
        print(f"| {task} ({len(rows)}) | {saved:.0%} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
