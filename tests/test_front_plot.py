from __future__ import annotations

import dataclasses
import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_automl import front_plot
from lepton_automl.search.work import TrialRow
from tests.report.rows import row

SVG = "{http://www.w3.org/2000/svg}"


def some() -> list[TrialRow]:
    """Cheaper to dearer; the third is no good."""
    return [
        row(number, accuracy, size, latency)
        for number, accuracy, size, latency in (
            (0, 0.90, 9_000, 0.010),
            (1, 0.96, 12_000, 0.020),
            (2, 0.91, 30_000, 0.030),
            (3, 0.98, 40_000, 0.040),
        )
    ]


def drawn(rows, front=(0, 1, 3), chosen=1, picked=()) -> ET.Element:
    return ET.fromstring(front_plot.draw(rows, set(front), chosen, picked, "a <run>"))


def texts(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def place(root: ET.Element, number: int) -> tuple[float, float]:
    """Middle of the mark of a candidate, found by its tooltip."""
    for group in root.iter(f"{SVG}g"):
        if (group.find(f"{SVG}title").text or "").startswith(f"trial {number},"):
            for shape in group:
                if shape.tag == f"{SVG}circle":
                    return float(shape.get("cx")), float(shape.get("cy"))
                if shape.tag == f"{SVG}rect":
                    half = float(shape.get("width")) / 2
                    return float(shape.get("x")) + half, float(shape.get("y")) + half
                if shape.tag == f"{SVG}polygon":
                    points = [p.split(",") for p in shape.get("points").split()]
                    xs, ys = zip(*((float(x), float(y)) for x, y in points), strict=True)
                    return sum(xs) / len(xs), sum(ys) / len(ys)
    raise AssertionError(f"trial {number} is not drawn")


def test_every_candidate_is_drawn_where_its_cost_and_errors_are() -> None:
    root, rows = drawn(some()), some()
    places = [place(root, number) for number in range(4)]
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    heights = {r.number: -y for r, (_, y) in zip(rows, places, strict=True)}
    assert sorted(heights, key=heights.get) == [0, 2, 1, 3]
    # Halving the latency, or the errors, is one distance wherever it happens.
    assert places[1][0] - places[0][0] == pytest.approx(places[3][0] - places[1][0], abs=0.2)
    a_halving = places[1][1] - places[3][1]
    assert (places[0][1] - places[1][1]) / a_halving == pytest.approx(math.log2(2.5), abs=0.02)


def test_marks_tell_the_chosen_and_the_picked_from_the_others() -> None:
    root = drawn(some(), picked=[3])
    assert len(list(root.iter(f"{SVG}polygon"))) == 2  # in the legend and on the field
    assert "trial 1: 96.0%, 12.0 kB" in texts(root)
    assert "trial 3: 98.0%, 40.0 kB" in texts(root)
    assert "picked" in texts(root)
    assert "picked" not in texts(drawn(some()))


def test_the_axes_say_what_they_show() -> None:
    words = texts(drawn(some()))
    assert "latency, less is better" in words
    assert "accuracy on validation" in words
    assert {"90 %", "95 %"} & set(words)
    assert {"10 us", "20 us"} <= set(words)
    untimed = [
        dataclasses.replace(r, cost=dataclasses.replace(r.cost, latency_ms=None)) for r in some()
    ]
    assert "bytes of the int8 file, less is better" in texts(drawn(untimed))


def test_a_perfect_candidate_and_a_lone_one_have_their_place() -> None:
    perfect = dataclasses.replace(some()[0], accuracy=1.0, interval=(0.98, 1.0))
    root = drawn([*some()[1:], perfect])
    assert "100 %" in texts(root)
    assert place(root, 0)[1] < place(root, 3)[1]
    alone = drawn(some()[:1], front=[0], chosen=0)
    assert 0 < place(alone, 0)[0] < front_plot.WIDTH


def test_nothing_lies_outside_of_the_picture() -> None:
    root = drawn(some())
    for line in root.iter(f"{SVG}line"):
        for name, most in (("x1", front_plot.WIDTH), ("y1", front_plot.HEIGHT)):
            assert 0 <= float(line.get(name)) <= most


@given(st.floats(1e-4, 1e7), st.floats(1.001, 1e4))
def test_the_names_on_the_axis_of_costs_are_inside_and_not_too_many(low, factor) -> None:
    steps = front_plot.cost_steps(low, low * factor)
    assert len(steps) <= front_plot.MOST_STEPS
    assert steps == sorted(set(steps))
    assert all(low <= step <= low * factor for step in steps)


def test_it_is_written_into_the_run_folder_and_nothing_where_nothing_is_trained(tmp_path) -> None:
    path = front_plot.write(tmp_path / "my run", some(), some()[:2], 1)
    assert path == tmp_path / "my run" / "front.svg"
    assert "my run: what the search found" in texts(ET.parse(path).getroot())
    assert front_plot.write(tmp_path, [row(0, None, 10, None)], [], 0) is None
