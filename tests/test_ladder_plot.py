from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from lepton_automl.compress.ladder import Rung
from lepton_automl.ladder_plot import draw, write

STEPS = (
    Rung("reference", 0.98, "a", 12_000, 1000, 0.020, True, "start", interval=(0.96, 0.99)),
    Rung("pruned-1", 0.90, "b", 9_000, 800, 0.015, False, "loses <8> points"),
    Rung("pruned-2", 0.975, "c", 8_000, 700, 0.014, True, "pays"),
    Rung("quantized", 0.979, "c", 8_000, 700, 0.0141, True, "static"),
)
SPACE = "{http://www.w3.org/2000/svg}"


def places(text: str) -> dict[str, tuple[float, float]]:
    """Where each step's line and mark are, by the name it is marked with."""
    found = {}
    for group in ElementTree.fromstring(text).iter(f"{SPACE}g"):
        name = (group.findtext(f"{SPACE}title") or "").split(",")[0]
        line = group.find(f"{SPACE}line")
        assert line is not None
        found[name] = (float(line.get("x1", 0)), float(line.get("y1", 0)))
    return found


def test_every_step_is_there_cheaper_ones_further_left_and_better_ones_higher() -> None:
    at = places(draw(STEPS, "mine"))
    assert list(at) == [step.name for step in STEPS]
    assert at["pruned-2"][0] < at["quantized"][0] < at["pruned-1"][0] < at["reference"][0]
    assert at["quantized"][1] < at["pruned-2"][1] < at["pruned-1"][1]


def test_the_last_step_that_was_kept_is_what_ships() -> None:
    text = draw(STEPS, "mine")
    assert text.count("<polygon") == 2  # The mark, and the legend.
    assert re.search(r"quantized, shipped: 97\.90 %", text)
    assert "pruned-1, put back" in text
    assert "loses &lt;8&gt; points" in text


def test_bytes_take_the_place_of_times_that_nobody_measured(tmp_path: Path) -> None:
    untimed = [
        Rung(s.name, s.accuracy, s.arch, s.size_bytes, s.macs, None, s.is_accepted, s.why)
        for s in STEPS[:1]
    ]
    path = write(tmp_path, untimed)
    text = path.read_text()
    assert path.name == "compression.svg"
    assert "bytes of the int8 file" in text
    assert "us" not in re.sub(r"<title>.*?</title>", "", text).replace("reference", "")
