"""Use lepton's sampler in an Optuna study that has nothing to do with nets.

    python examples/optuna_sampler.py

A can holds 330 ml; its metal is to be little. Ribs allow thinner walls, and only a ribbed can has a
depth of its ribs. A can wider than 80 mm does not fit the shelf.
"""

import math

import optuna

from lepton_automl.search.sampler import LeptonSampler


def metal(trial: optuna.Trial) -> float:
    """Cubic centimetres of metal."""
    diameter = trial.suggest_float("diameter_mm", 40, 120)
    wall = 0.30
    if trial.suggest_categorical("ribs", [False, True]):
        depth = trial.suggest_float("rib_depth_mm", 0.1, 3.0, log=True)
        wall = 0.20 + 0.02 * (math.log(depth)) ** 2
    trial.set_constraint("shelf", diameter / 80 - 1)
    radius = diameter / 2
    height = 330_000 / (math.pi * radius**2)
    return (2 * math.pi * radius * height * wall + 2 * math.pi * radius**2 * 0.3) / 1000


def main() -> None:
    """Search with 60 trials and print the best can."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=LeptonSampler(seed=0))
    study.optimize(metal, n_trials=60)
    best = study.best_trial
    print(f"{best.value:.2f} cubic centimetres of metal: {best.params}")


if __name__ == "__main__":
    main()
