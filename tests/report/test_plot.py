from __future__ import annotations

from lepton_automl.report.plot import Point, plot


def field(text: str, height: int) -> list[str]:
    return [line.split("│")[1] for line in text.splitlines()[:height]]


def test_the_best_is_at_the_top_and_the_dearest_at_the_right():
    points = [Point(1.0, 0.5, "front"), Point(100.0, 0.9, "winner"), Point(10.0, 0.7, "other")]
    lines = field(plot(points, str, "cost", width=21, height=5), 5)
    assert [len(line) for line in lines] == [21] * 5
    assert lines[0] == " " * 20 + "#"
    assert lines[4] == "o" + " " * 20
    assert lines[2] == " " * 10 + "·" + " " * 10  # ten is half-way between 1 and 100


def test_the_winner_is_drawn_over_the_others():
    points = [Point(1.0, 0.5, "winner"), Point(1.0, 0.5, "other"), Point(1.0, 0.5, "front")]
    assert "".join(field(plot(points, str, "cost", width=9, height=3), 3)).strip() == "#"


def test_both_axes_are_labelled():
    points = [Point(2.0, 0.25, "other"), Point(8.0, 0.75, "front")]
    lines = plot(points, "{:.0f} ms".format, "latency", width=30, height=4).splitlines()
    assert lines[0].startswith("  75.0 %")
    assert lines[3].startswith("  25.0 %")
    assert lines[5].split() == ["2", "ms", "latency", "8", "ms"]


def test_without_points_there_is_nothing():
    assert plot([], str, "cost") == ""
