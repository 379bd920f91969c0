from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.cells import cell_len

from lepton_automl.artifact.predict import Prediction
from lepton_automl.artifact.provenance import CrossValidation, FinalistResult
from lepton_automl.artifact.verdict import JudgedLimit, ValidationGap
from lepton_automl.cli import report
from lepton_automl.cli.report import console, predictions, tables
from lepton_automl.cli.report.console import Output
from lepton_automl.cli.report.tables import Point, plot
from lepton_automl.core.decisions import Decision
from lepton_automl.errors import DataError
from lepton_automl.pipeline.outcome import Outcome
from tests.helpers.artifacts import figures, target_latency, verdict
from tests.helpers.rows import compressed, found, status


def field(text: str, height: int) -> list[str]:
    return [line.split("│")[1] for line in text.splitlines()[:height]]


def test_the_most_accurate_point_is_at_the_top_and_the_most_expensive_at_the_right():
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


def test_without_points_the_plot_is_empty():
    assert plot([], str, "cost") == ""


def shown(view) -> str:
    out = io.StringIO()
    Output(out, width=140).print(view)
    return out.getvalue()


def test_a_verdict_shows_figures_limits_and_where_the_file_is():
    text = shown(tables.verdict_view(verdict(), Path("runs/x/artifact")))
    for part in (
        "98.61 % [96.81, 99.40]",
        "13 us [12 us, 14 us]",
        "size at most",
        "20.0 kB",
        "verdict: holds",
        "runs/x/artifact/model.int8.onnx",
        "a" * 12,
        "Some CPU",
        "0.28 points [-0.50, 1.10]",
    ):
        assert part in text
    assert "opened" not in text


def test_a_test_set_that_was_used_before_is_noted():
    text = shown(tables.verdict_view(verdict(test_set_uses=2), Path()))
    assert "test set used once before, by another file" in text


def test_an_undecided_limit_shows_how_many_samples_decide_it():
    limit = JudgedLimit("min_accuracy", 0.98, 0.9861, (0.968, 0.994), "undecided", 4321)
    text = shown(tables.verdict_view(verdict(status="undecided", limits=(limit,)), Path()))
    assert "verdict: undecided" in text
    assert "4321 samples" in text


def test_a_broken_artifact_shows_its_reasons():
    broken = verdict(status="broken", problems=("a.onnx is missing",), int8=None, limits=())
    text = shown(tables.verdict_view(broken, Path()))
    assert "a.onnx is missing" in text
    assert "verdict: broken" in text


def test_without_limits_the_verdict_says_that_none_was_stated():
    assert "no limit was stated" in shown(tables.verdict_view(verdict(limits=()), Path()))


def test_a_faster_float_file_is_reported():
    fast = figures("model.fp32.onnx", latency_ms=0.0065, latency_interval=(0.006, 0.007))
    text = shown(tables.verdict_view(verdict(float32=fast), Path()))
    assert "int8 ships; float is faster than int8 here, 0.50 of its time" in text


def test_a_search_shows_the_accuracy_of_the_winner_by_cross_validation():
    compared = CrossValidation(0.94, 0.92, 0.96, 3, 1020)
    before = found()
    rows = [dataclasses.replace(row, cross_validation=compared) for row in before.rows]
    few = (FinalistResult(1, 0.99, 9, (0.98,), 27, cross_validation=compared),)
    after = dataclasses.replace(before, rows=tuple(rows), finalists=few)
    text = shown(tables.search_view(after))
    assert "94.00 % [92.00, 96.00] by cross-validation on 3 folds" in text
    assert "final trainings, on training and validation data" in text
    assert "by cross-validation" not in shown(tables.search_view(before))


def test_a_search_shows_the_front_the_plot_and_the_winner():
    text = shown(tables.search_view(found()))
    assert "98.00 % [97.00, 99.00]" in text
    assert "# winner" in text
    assert "10 us" in text
    assert "trial 1, the cheapest [of all]" in text


def test_the_plot_uses_bytes_where_no_latency_was_measured():
    text = tables.front_plot(found(latency=None))
    assert "9.0 kB" in text
    assert "file" in text


def test_brackets_in_names_are_not_markup():
    rows = [Prediction(Path("[red].png"), "[b]cat[/b]", 0.5)]
    assert "[b]cat[/b]" in shown(predictions.predictions_view(rows))
    assert "[red].png" in shown(predictions.predictions_view(rows))
    assert "no [x]" in shown(console.error_view(DataError("no [x]", fix="[y]")))


def test_many_predictions_are_plain_aligned_lines_of_the_same_cells(capsys):
    rows = [Prediction(Path(f"{n}.png"), f"猫\x1b[31m{n}", 0.5) for n in range(501)]
    report.show_predictions(rows)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["file", "label", "probability"]
    assert len(lines) == 501
    assert lines[7].split() == ["7.png", r"猫\x1b[31m7", "50.0", "%"]
    assert {cell_len(line[: line.index("50.0 %")]) for line in lines} == {head.index("probability")}


def test_a_compression_shows_every_step_and_why():
    text = shown(tables.compression_view(compressed()))
    lines = {line.split()[1]: line for line in text.splitlines() if line.startswith("│")}
    assert " no " in lines["pruned-1"]
    assert "loses 8 points" in lines["pruned-1"]
    assert "static [plain]" in lines["quantized"]
    assert "97.90 %" in lines["quantized"]


def test_decisions_are_shown_with_evidence_and_what_overrules_them(capsys):
    made = Decision("flip", "no random flips", "40 % of [216]", "measured", "--flip on")
    outcome = Outcome(Path("a"), verdict(), decisions=(made,))
    report.show_verdict(outcome)
    lines = capsys.readouterr().out.splitlines()
    place = next(i for i, line in enumerate(lines) if "no random" in line)
    assert lines[place].split()[0] == "flip"
    assert lines[place].rstrip().endswith("--flip on")
    assert lines[place + 1].strip() == "measured: 40 % of [216]"
    report.show_verification(outcome)
    assert "no random" not in capsys.readouterr().out


def test_of_details_the_terminal_shows_the_name_and_where_they_are(capsys):
    made = Decision("workers", "7 processes", "one a core", "inferred", "--jobs", is_detail=True)
    report.show_verdict(Outcome(Path("a"), verdict(), decisions=(made,)))
    text = capsys.readouterr().out
    assert "also decided, see a/MODEL_CARD.md: workers" in text
    assert "7 processes" not in text


OUTCOME = Outcome(Path("a"), verdict())

SHOWN = [
    (report.show_verdict, OUTCOME, "verdict"),
    (report.show_search, found(), "winner"),
    (report.show_compressed, compressed(), "int8"),
    (report.show_status, status(), "events"),
    (report.show_predictions, [Prediction(Path("a"), "cat", 0.5)], "predictions"),
]


@pytest.mark.parametrize(("show", "value", "key"), SHOWN)
def test_json_is_one_object_on_stdout_and_nothing_else(capsys, show, value, key):
    show(value, json=True)
    out, err = capsys.readouterr()
    assert key in json.loads(out)
    assert err == ""
    show(value)
    out, err = capsys.readouterr()
    assert out.strip()
    assert err == ""


def test_a_run_shows_its_front_before_the_verdict(capsys):
    outcome = Outcome(Path("a"), verdict(), search_result=found())
    report.show_verdict(outcome)
    text = capsys.readouterr().out
    assert text.index("# winner") < text.index("verdict: holds")


def test_an_error_goes_to_stderr(capsys):
    error = DataError("no cat in [x]", fix="give a cat")
    report.show_error(error)
    out, err = capsys.readouterr()
    assert out == ""
    assert "no cat in [x]" in err
    assert "give a cat" in err


@pytest.mark.parametrize("basis", ["estimated", "predicted"])
def test_a_predicted_or_estimated_latency_is_labelled(basis):
    limit = JudgedLimit("max_latency_ms", 5.0, 2.0, (1.0, 3.0), "undecided", basis=basis)
    there = figures(target_latency=target_latency(basis))
    text = shown(tables.verdict_view(verdict(int8=there, limits=(limit,)), Path()))
    assert text.count(f"{basis} 2 ms") == 2
    assert "not the latency measured here" in text
    search = found()
    for row in search.rows:
        object.__setattr__(row, "cost", dataclasses.replace(row.cost, latency_basis=basis))
    assert f"{basis} latency" in shown(tables.search_view(search))
    made = compressed()
    object.__setattr__(made.steps[0], "latency_basis", basis)
    assert f"{basis} latency" in shown(tables.compression_view(made))


def test_balanced_accuracy_is_labelled():
    limit = JudgedLimit("min_accuracy", 0.98, 0.9861, (0.968, 0.994), "holds")
    text = shown(tables.verdict_view(verdict(limits=(limit,), balanced=True), Path()))
    assert text.count("accuracy") == text.count("balanced accuracy") == 3
    assert "balanced" not in shown(tables.verdict_view(verdict(), Path()))
    search = dataclasses.replace(found(), is_balanced=True)
    assert "balanced accuracy [95 %]" in shown(tables.search_view(search))
    assert "balanced" not in shown(tables.search_view(found()))


def test_a_verdict_that_holds_beside_a_gap_to_validation_says_so():
    gap = ValidationGap(0.978, (0.96, 0.99), 300, 51.9, (40.0, 60.0), True)
    text = shown(tables.verdict_view(verdict(validation=gap), Path("a")))
    assert "97.8 % on validation" in text
    assert "but validation and test differ by more than chance" in text.partition("verdict: ")[2]
    assert "--group" in text
