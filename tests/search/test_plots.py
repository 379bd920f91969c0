from __future__ import annotations

import json
from typing import Any

import optuna
import pytest

from lepton_automl.search import plots as module
from lepton_automl.search.plots import Plots


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(directions=["maximize", "minimize"])


def figures(study: optuna.Study) -> dict[str, Any]:
    """Put together as optuna-dashboard 0.21 does (`_custom_plot_data.py`)."""
    parts: dict[str, dict[int, str]] = {}
    for key, text in study._storage.get_study_system_attrs(study._study_id).items():
        if key.startswith("dashboard:plot_data:"):
            name, _, index = key.removeprefix("dashboard:plot_data:").rpartition(":")
            parts.setdefault(name, {})[int(index)] = text
    return {
        name: json.loads("".join(pieces[i] for i in range(len(pieces))))
        for name, pieces in parts.items()
    }


def test_every_candidate_is_a_line_of_accuracy_by_epochs(study: optuna.Study) -> None:
    plots = Plots(study._storage, study._study_id)
    plots.report(7, 1, 0.5)
    plots.report(8, 1, 0.6)
    plots.report(7, 3, 0.7)
    plots.grow(2.5, 0.1)
    plots.draw(now=None)
    accuracy, growth = figures(study)["accuracy"], figures(study)["hypervolume"]
    assert [line["name"] for line in accuracy["data"]] == ["trial 7", "trial 8"]
    assert accuracy["data"][0]["x"] == [1, 3]
    assert accuracy["data"][0]["y"] == [0.5, 0.7]
    assert growth["data"][0]["x"] == [2.5]
    assert growth["data"][0]["y"] == [0.1]


def test_long_figures_are_cut_and_shorter_ones_replace_them_whole(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    plots = Plots(study._storage, study._study_id)
    for number in range(80):
        plots.report(number, 1, 0.5)
    plots.draw(now=None)
    attributes = study._storage.get_study_system_attrs(study._study_id)
    assert max(len(text) for text in attributes.values()) <= 2045
    assert len(figures(study)["accuracy"]["data"]) == 80
    monkeypatch.setattr(module, "MOST_LINES", 3)
    plots.report(80, 1, 0.5)
    plots.draw(now=None)
    assert [line["name"] for line in figures(study)["accuracy"]["data"]] == [
        "trial 78",
        "trial 79",
        "trial 80",
    ]


def test_a_search_that_goes_on_draws_now_and_then(study: optuna.Study) -> None:
    plots = Plots(study._storage, study._study_id)
    for second in range(25):
        plots.report(second, 1, 0.5)
        plots.draw(now=float(second))
        count = len(figures(study)["accuracy"]["data"])
        assert count == 1 + 10 * (second // 10)


def test_costs_are_drawn_against_their_limits(study: optuna.Study) -> None:
    plots = Plots(study._storage, study._study_id)
    plots.judge({"max_size_bytes": 0.5})
    plots.judge({"arch": 1.0})
    plots.judge({"max_size_bytes": -0.25, "max_macs": -0.5})
    plots.draw(now=None)
    size, macs = figures(study)["limits"]["data"]
    assert (size["name"], size["x"], size["y"]) == ("max_size_bytes", [1, 3], [1.5, 0.75])
    assert (macs["name"], macs["x"], macs["y"]) == ("max_macs", [3], [0.5])
