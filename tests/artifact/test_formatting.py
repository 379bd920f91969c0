from __future__ import annotations

import dataclasses

import pytest

from lepton_automl.artifact import formatting
from lepton_automl.artifact.verdict import JudgedLimit
from lepton_automl.config import LIMITS, Limits
from lepton_automl.core import units
from tests.helpers.artifacts import figures, target_latency, verdict


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        (units.bytes_text, 812, "812 B"),
        (units.bytes_text, 12_345, "12.3 kB"),
        (units.bytes_text, 1_200_000, "1.20 MB"),
        (units.count_text, 812, "812"),
        (units.count_text, 230_720, "231 k"),
        (units.count_text, 3.4e9, "3.4 G"),
        (units.time_text, 0.0132, "13.2 us"),
        (units.time_text, 1.344, "1.34 ms"),
        (units.time_text, 999.4, "999 ms"),
        (units.time_text, 999.5, "1 s"),
        (units.time_text, 15_400, "15.4 s"),
        (units.time_text, 1_540_000, "1540 s"),
    ],
)
def test_quantities_have_units(text, value, expected):
    assert text(value) == expected


@pytest.mark.parametrize(
    ("bases", "expected"),
    [
        (["estimated"], "what is not measured cannot prove"),
        (["estimated", "predicted"], "what is not measured cannot prove"),
        (["estimated", "measured"], "too few test samples"),
    ],
)
def test_an_undecided_verdict_says_what_would_decide_it(bases, expected):
    limits = [
        JudgedLimit("max_flash_bytes", 9000, 8000, (8000, 8000), "undecided", basis=basis)
        for basis in bases
    ]
    limits.append(JudgedLimit("min_accuracy", 0.9, 0.95, (0.94, 0.96), "holds"))
    given = verdict(status="undecided", limits=tuple(limits))
    assert expected in formatting.verdict_text(given)


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.0132, "ms", "13.2 us"),
        (12_345, "kB", "12.3 kB"),
        (230_720, "MACs", "231 k"),
        (0.9861, "share", "98.61 %"),
        (0.5, "points", "0.50 points"),
    ],
)
def test_values_of_limits_are_shown_in_their_units(value, unit, expected):
    assert units.quantity_text(value, unit) == expected


def test_every_limit_has_words_and_a_unit():
    for name in Limits.__dataclass_fields__:
        limit = JudgedLimit(name, 0.5, 0.25, (0.2, 0.3), "holds")
        assert formatting.measured_text(limit).startswith(
            units.quantity_text(0.25, LIMITS[name].unit)
        )


def test_intervals_do_not_repeat_the_unit_of_points():
    limit = JudgedLimit("max_drop", 0.5, 0.28, (-0.5, 1.1), "undecided")
    assert formatting.measured_text(limit) == "0.28 points [-0.50, 1.10]"


FAST, SLOW = (0.006, 0.007), (0.020, 0.030)


@pytest.mark.parametrize(
    ("interval", "prefer", "expected", "hint"),
    [
        (FAST, "size", "float is faster", True),
        (FAST, "latency", "float is faster", False),
        (SLOW, "size", "int8 is faster", False),
        ((0.0115, 0.0145), "size", "equally fast", False),
    ],
)
def test_the_faster_file_is_named_where_the_intervals_do_not_overlap(
    interval, prefer, expected, hint
):
    floating = figures("model.fp32.onnx", latency_ms=sum(interval) / 2, latency_interval=interval)
    text = formatting.faster_text(verdict(float32=floating, prefer=prefer))
    assert expected in text
    assert ("--prefer latency" in text) == hint


def test_only_a_second_opening_is_mentioned():
    assert formatting.test_set_uses_text(verdict()) == ""
    assert formatting.test_set_uses_text(verdict(test_set_uses=3)) == (
        "test set used 2 times before, by other files"
    )


@pytest.mark.parametrize(
    ("status", "primary", "other", "expected"),
    [
        ("broken", "int8", "holds", "model.fp32.onnx"),
        ("undecided", "float", "holds", "model.int8.onnx"),
        ("broken", "int8", "undecided", ""),
        ("holds", "int8", "holds", ""),
        ("broken", "int8", None, ""),
    ],
)
def test_the_other_file_is_named_where_it_meets_limits_that_the_shipped_one_breaks(
    status, primary, other, expected
):
    text = formatting.other_text(verdict(status=status, primary=primary, other=other))
    assert text.startswith(expected)
    assert bool(text) == bool(expected)


def test_a_faster_file_here_is_no_hint_for_another_device():
    slow = figures(latency_interval=(2.0, 3.0))
    assert "--prefer latency" in formatting.faster_text(verdict(int8=slow))
    there = dataclasses.replace(slow, target_latency=target_latency())
    assert "--prefer" not in formatting.faster_text(verdict(int8=there))


def test_balanced_accuracy_is_labelled():
    balanced = verdict(balanced=True)
    assert formatting.limit_title("min_accuracy", verdict()) == "accuracy at least"
    assert formatting.limit_title("min_accuracy", balanced) == "balanced accuracy at least"
    assert formatting.limit_title("max_drop", balanced) == "balanced accuracy drop at most"
    assert formatting.limit_title("max_macs", balanced) == "multiply-accumulates at most"
    assert formatting.accuracy_kind(verdict()) == "Accuracy intervals: Wilson."
    assert "stratified bootstrap" in formatting.accuracy_kind(verdict(balanced=True))
    for is_balanced in (False, True):
        kind = formatting.accuracy_kind(verdict(grouped=True, balanced=is_balanced))
        assert "cluster bootstrap over groups" in kind


def test_texts_say_which_machine_was_measured():
    here = verdict()
    assert formatting.machine_text(here) == str(here.machine)
    board = dataclasses.replace(here.machine, cpu="Board")
    elsewhere = verdict(latency_host="board", latency_machine=board)
    text = formatting.machine_text(elsewhere)
    assert text.startswith(str(here.machine))
    assert text.endswith(f"latencies on host board, {board}")
    assert " here" in formatting.faster_text(here)
    assert " here" not in formatting.faster_text(elsewhere)
    assert "on host board" in formatting.faster_text(elsewhere)
