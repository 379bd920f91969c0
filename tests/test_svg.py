from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from lepton_automl import svg


def corners(element: ET.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, point.split(","))) for point in element.get("points").split()]


def test_marks_have_their_middle_where_they_are_asked_to() -> None:
    circle = ET.fromstring(svg.circle(10, 20, 5, "#123456"))
    assert (circle.get("cx"), circle.get("cy"), circle.get("fill")) == ("10.0", "20.0", "#123456")
    square = ET.fromstring(svg.square(10, 20, 4, "#123456"))
    assert float(square.get("x")) + float(square.get("width")) / 2 == 10
    assert float(square.get("y")) + float(square.get("height")) / 2 == 20
    tips = corners(ET.fromstring(svg.diamond(10, 20, 8, "#123456")))
    assert sum(x for x, _ in tips) / 4 == 10
    assert sum(y for _, y in tips) / 4 == 20


@pytest.mark.parametrize("words", ["a < b & c", 'say "<svg>"'])
def test_words_are_words_and_no_markup(words: str) -> None:
    assert ET.fromstring(svg.text(1, 2, words, "#000000")).text == words


def test_a_line_goes_from_one_end_to_the_other() -> None:
    line = ET.fromstring(svg.line(1, 2, 3, 4, "#000000"))
    assert [line.get(name) for name in ("x1", "y1", "x2", "y2")] == ["1.0", "2.0", "3.0", "4.0"]
