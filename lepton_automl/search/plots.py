"""Plots of a mirrored study that optuna-dashboard shows beside its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from optuna.storages import BaseStorage

from lepton_automl.config import LIMITS

DRAW_SECONDS = 10.0
"""Between two drawings of a search that goes on."""
MOST_LINES = 300
"""The newest candidates; more would be neither seen nor quick to draw."""
CHUNK = 2045
"""Characters an attribute may have in every database."""


class Plots:
    """Accuracy by epochs, hypervolume over time, and costs against their limits.

    The dashboard draws intermediate values of one objective only (0.21, and optuna#3450), and
    constraints not at all where nothing was trained. A figure
    is what plotly reads, cut into attributes of the study as
    `optuna_dashboard.save_plotly_graph_object` does; neither package is needed here.

    Parameters
    ----------
    storage : BaseStorage
        Where the study is.
    study_id : int
        Its number there.
    """

    def __init__(self, storage: BaseStorage, study_id: int) -> None:
        self._storage, self._study_id = storage, study_id
        self._lines: dict[int, list[tuple[int, float]]] = {}
        self._growth: list[tuple[float, float]] = []
        self._judged: dict[str, list[tuple[int, float]]] = {}
        self._points = 0
        self._drawn: dict[str, str] = {}
        self._last = -DRAW_SECONDS
        self._is_new = False

    def report(self, number: int, epochs: int, accuracy: float) -> None:
        """A candidate's accuracy after so many epochs."""
        self._lines.setdefault(number, []).append((epochs, accuracy))
        self._is_new = True

    def grow(self, seconds: float, value: float) -> None:
        """The hypervolume after so many seconds."""
        self._growth.append((seconds, value))
        self._is_new = True

    def judge(self, constraints: Mapping[str, float]) -> None:
        """One more point, by how much it is within (below 0) or beyond each limit."""
        self._points += 1
        for limit, value in constraints.items():
            if limit in LIMITS and LIMITS[limit].cost:
                self._judged.setdefault(limit, []).append((self._points, 1 + value))
                self._is_new = True

    def draw(self, now: float | None) -> None:
        """Write what is new.

        Parameters
        ----------
        now : float or None
            Seconds of any clock, to draw now and then only; None draws at any rate.
        """
        if not self._is_new or (now is not None and now - self._last < DRAW_SECONDS):
            return
        self._is_new, self._last = False, self._last if now is None else now
        self._write("accuracy", self._accuracy())
        self._write("hypervolume", self._hypervolume())
        if self._judged:
            self._write("limits", self._limits())

    def _accuracy(self) -> dict[str, Any]:
        lines = [
            _trace(points, f"trial {number}", "lines+markers")
            for number, points in list(self._lines.items())[-MOST_LINES:]
        ]
        return _figure(lines, "Accuracy after each rung", "epochs", "validation accuracy")

    def _hypervolume(self) -> dict[str, Any]:
        line = _trace(self._growth, "front", "lines")
        line["line"] = {"shape": "hv"}
        return _figure([line], "Hypervolume of the front", "seconds", "hypervolume")

    def _limits(self) -> dict[str, Any]:
        points = [_trace(known, limit, "markers") for limit, known in self._judged.items()]
        figure = _figure(points, "Cost / limit: beyond 1 is refused untrained", "point", "share")
        ends = {"x0": 0, "x1": 1, "xref": "paper", "y0": 1, "y1": 1}
        figure["layout"] |= {"showlegend": True, "shapes": [{"type": "line", **ends}]}
        return figure

    def _write(self, name: str, figure: dict[str, Any]) -> None:
        text = json.dumps(figure, separators=(",", ":"))
        prefix = f"dashboard:plot_data:{name}:"
        parts = [text[at : at + CHUNK] for at in range(0, len(text), CHUNK)]
        wanted = {f"{prefix}{index}": part for index, part in enumerate(parts)}
        emptied = {key: "" for key in self._drawn if key.startswith(prefix) and key not in wanted}
        for key, part in (wanted | emptied).items():
            if self._drawn.get(key) != part:
                self._storage.set_study_system_attr(self._study_id, key, part)
                self._drawn[key] = part


def _trace(points: list[tuple[Any, float]], name: str, mode: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "x": [x for x, _ in points],
        "y": [round(y, 5) for _, y in points],
    }


def _figure(lines: list[dict[str, Any]], title: str, x: str, y: str) -> dict[str, Any]:
    axes = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
    layout = {"title": {"text": title}, "showlegend": False, **axes}
    return {"data": lines, "layout": layout}
