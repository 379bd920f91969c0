from __future__ import annotations

import dataclasses
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_automl.compress.steps import StepRecord
from lepton_automl.pipeline import charts
from lepton_automl.pipeline.charts import compression_chart, write_compression_chart
from lepton_automl.search.request import TrialRow
from tests.helpers.rows import row

SVG = "{http://www.w3.org/2000/svg}"
SPACE = "{http://www.w3.org/2000/svg}"


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
    return ET.fromstring(charts.front_chart(rows, set(front), chosen, picked, "a <run>"))


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


def test_every_trial_is_drawn_at_its_cost_and_error() -> None:
    root, rows = drawn(some()), some()
    places = [place(root, number) for number in range(4)]
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    heights = {r.number: -y for r, (_, y) in zip(rows, places, strict=True)}
    assert sorted(heights, key=heights.get) == [0, 2, 1, 3]
    # Halving the latency, or the errors, is one distance wherever it happens.
    assert places[1][0] - places[0][0] == pytest.approx(places[3][0] - places[1][0], abs=0.2)
    a_halving = places[1][1] - places[3][1]
    assert (places[0][1] - places[1][1]) / a_halving == pytest.approx(math.log2(2.5), abs=0.02)


def test_the_chosen_and_the_picked_have_marks_of_their_own() -> None:
    root = drawn(some(), picked=[3])
    assert len(list(root.iter(f"{SVG}polygon"))) == 2  # in the legend and on the field
    assert "trial 1: 96.0%, 12.0 kB" in texts(root)
    assert "trial 3: 98.0%, 40.0 kB" in texts(root)
    assert "picked" in texts(root)
    assert "picked" not in texts(drawn(some()))


def test_the_axes_are_labelled() -> None:
    words = texts(drawn(some()))
    assert "latency, less is better" in words
    assert "accuracy on validation" in words
    assert {"90 %", "95 %"} & set(words)
    assert {"10 us", "20 us"} <= set(words)
    untimed = [
        dataclasses.replace(r, cost=dataclasses.replace(r.cost, latency_ms=None)) for r in some()
    ]
    assert "bytes of the int8 file, less is better" in texts(drawn(untimed))


def test_a_perfect_and_a_single_trial_are_inside_the_plot() -> None:
    perfect = dataclasses.replace(some()[0], accuracy=1.0, interval=(0.98, 1.0))
    root = drawn([*some()[1:], perfect])
    assert "100 %" in texts(root)
    assert place(root, 0)[1] < place(root, 3)[1]
    alone = drawn(some()[:1], front=[0], chosen=0)
    assert 0 < place(alone, 0)[0] < charts.WIDTH


def test_nothing_lies_outside_the_picture() -> None:
    root = drawn(some())
    for line in root.iter(f"{SVG}line"):
        for name, most in (("x1", charts.WIDTH), ("y1", charts.HEIGHT)):
            assert 0 <= float(line.get(name)) <= most


def test_the_front_is_drawn_where_a_trial_was_trained(tmp_path) -> None:
    path = charts.write_front_chart(tmp_path / "my run", some(), some()[:2], 1)
    assert path == tmp_path / "my run" / "front.svg"
    assert "my run: what the search found" in texts(ET.parse(path).getroot())
    assert charts.write_front_chart(tmp_path, [row(0, None, 10, None)], [], 0) is None


STEPS = (
    StepRecord("reference", 0.98, "a", 12_000, 1000, 0.020, True, "start", interval=(0.96, 0.99)),
    StepRecord("pruned-1", 0.90, "b", 9_000, 800, 0.015, False, "loses <8> points"),
    StepRecord("pruned-2", 0.975, "c", 8_000, 700, 0.014, True, "pays"),
    StepRecord("quantized", 0.979, "c", 8_000, 700, 0.0141, True, "static"),
)


def places(text: str) -> dict[str, tuple[float, float]]:
    """Where each step's line and mark are, by the name it is marked with."""
    found = {}
    for group in ElementTree.fromstring(text).iter(f"{SPACE}g"):
        name = (group.findtext(f"{SPACE}title") or "").split(",")[0]
        line = group.find(f"{SPACE}line")
        assert line is not None
        found[name] = (float(line.get("x1", 0)), float(line.get("y1", 0)))
    return found


def test_cheaper_steps_are_further_left_and_more_accurate_ones_higher() -> None:
    at = places(compression_chart(STEPS, "mine"))
    assert list(at) == [step.name for step in STEPS]
    assert at["pruned-2"][0] < at["quantized"][0] < at["pruned-1"][0] < at["reference"][0]
    assert at["quantized"][1] < at["pruned-2"][1] < at["pruned-1"][1]


def test_the_last_accepted_step_is_marked_as_shipped() -> None:
    text = compression_chart(STEPS, "mine")
    assert text.count("<polygon") == 2  # The mark, and the legend.
    assert re.search(r"quantized, shipped: 97\.90 %", text)
    assert "pruned-1, rejected" in text
    assert "loses &lt;8&gt; points" in text


def test_without_latencies_the_cost_axis_shows_bytes(tmp_path: Path) -> None:
    untimed = [
        StepRecord(s.name, s.accuracy, s.arch, s.size_bytes, s.macs, None, s.is_accepted, s.why)
        for s in STEPS[:1]
    ]
    path = write_compression_chart(tmp_path, untimed)
    text = path.read_text()
    assert path.name == "compression.svg"
    assert "bytes of the int8 file" in text
    assert "us" not in re.sub(r"<title>.*?</title>", "", text).replace("reference", "")


def corners(element: ET.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, point.split(","))) for point in element.get("points").split()]


def test_marks_are_centred_on_their_point() -> None:
    circle = ET.fromstring(charts.svg_circle(10, 20, 5, "#123456"))
    assert (circle.get("cx"), circle.get("cy"), circle.get("fill")) == ("10.0", "20.0", "#123456")
    square = ET.fromstring(charts.svg_square(10, 20, 4, "#123456"))
    assert float(square.get("x")) + float(square.get("width")) / 2 == 10
    assert float(square.get("y")) + float(square.get("height")) / 2 == 20
    tips = corners(ET.fromstring(charts.svg_diamond(10, 20, 8, "#123456")))
    assert sum(x for x, _ in tips) / 4 == 10
    assert sum(y for _, y in tips) / 4 == 20


@pytest.mark.parametrize("words", ["a < b & c", 'say "<svg>"'])
def test_text_is_escaped(words: str) -> None:
    assert ET.fromstring(charts.svg_text(1, 2, words, "#000000")).text == words


def test_a_line_goes_from_one_end_to_the_other() -> None:
    line = ET.fromstring(charts.svg_line(1, 2, 3, 4, "#000000"))
    assert [line.get(name) for name in ("x1", "y1", "x2", "y2")] == ["1.0", "2.0", "3.0", "4.0"]


@given(st.floats(1e-4, 1e7), st.floats(1.001, 1e4))
def test_the_ticks_of_the_cost_axis_are_inside_and_few(low, factor) -> None:
    steps = charts.cost_steps(low, low * factor)
    assert len(steps) <= charts.MOST_STEPS
    assert steps == sorted(set(steps))
    assert all(low <= step <= low * factor for step in steps)
