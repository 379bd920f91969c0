from __future__ import annotations

import dataclasses
import html
import re

import pytest
from markdown_it import MarkdownIt

from lepton_automl.artifact.model_card import card
from lepton_automl.artifact.provenance import CrossValidation, FinalistResult, Provenance
from lepton_automl.artifact.verdict import JudgedLimit, ValidationGap
from lepton_automl.config import Limits
from lepton_automl.core.decisions import Decision
from lepton_automl.core.machine import Machine
from tests.helpers.artifacts import figures, target_latency, verdict

ABOUT = Provenance("0.1.0", "pets", "0123", ("cat", "d|g"), (8, 9, 3), "x86-any", "size", Limits())


def test_every_figure_names_its_file_its_samples_and_its_machine():
    text = card(verdict(), ABOUT)
    for part in ("a" * 64, "b" * 64, "360", "Some CPU", "1.32.0", "98.61 % [96.81, 99.40]"):
        assert part in text
    assert "feedfacefeedface" in text
    assert "opened" not in text


def test_an_earlier_use_of_the_test_set_is_noted():
    text = card(verdict(test_set_uses=2), ABOUT)
    assert "## Figures (test set used once before, by another file)" in text


def test_decisions_are_listed_with_evidence_and_option():
    made = Decision("flip", "no random flips", "40 % of 216 | 98 %", "measured", "--flip on")
    text = card(verdict(), dataclasses.replace(ABOUT, decisions=(made,)))
    row = r"| flip | no random flips | 40 % of 216 \| 98 % | measured | `--flip on` |"
    assert row in text.partition("## Decisions")[2]
    assert "| file that ships | model.int8.onnx | int8 12.0 kB, float 40.0 kB;" in text


def test_tables_have_as_many_cells_in_every_row():
    rows: list[list[int]] = [[]]
    for line in card(verdict(), ABOUT).splitlines():
        if line.startswith("|"):
            rows[-1].append(line.replace("\\|", "").count("|"))
        elif rows[-1]:
            rows.append([])
    assert len([table for table in rows if table]) == 6
    assert all(len(set(table)) == 1 for table in rows if table)


@pytest.mark.parametrize("status", ["holds", "broken", "undecided"])
def test_the_verdict_is_the_heading(status):
    assert f"## Verdict: {status}\n" in card(verdict(status=status), ABOUT)


def test_a_card_tells_how_the_few_best_were_finalists():
    few = (FinalistResult(4, 0.98, 9, (0.95, 0.97), 27), FinalistResult(2, 0.97, 9, (0.96,), 27))
    text = card(verdict(), dataclasses.replace(ABOUT, finalists=few))
    assert (
        "| 4 | 98.00 % after 9 epochs | 96.00 % | 2.00 points over 2 seeds | 2 of 27 epochs |"
        in text
    )
    assert "| 2 | 97.00 % after 9 epochs | 96.00 % | one seed | 1 of 27 epochs |" in text
    assert "97.50 % when selected on average, 96.00 % after final training" in text
    assert "How it was chosen" not in card(verdict(), ABOUT)


def test_an_undecided_limit_says_how_many_samples_would_decide():
    limit = JudgedLimit("max_drop", 0.5, 0.28, (-0.5, 1.1), "undecided", 4321)
    text = card(verdict(status="undecided", limits=(limit,)), ABOUT)
    assert "about 4321 samples would decide" in text
    assert "| accuracy drop at most 0.50 points | 0.28 points [-0.50, 1.10] | undecided |" in text


def test_without_limits_it_does_not_claim_that_they_hold():
    text = card(verdict(limits=()), ABOUT)
    assert "No limit was stated" in text
    assert "Every stated limit holds" not in text


def test_a_broken_artifact_has_a_card_without_figures():
    damaged = verdict(
        status="broken",
        problems=("x is missing",),
        int8=None,
        float32=None,
        reference=None,
        parity=None,
        drops={},
        limits=(),
    )
    text = card(damaged, ABOUT)
    assert "x is missing" in text
    assert "## Figures" not in text


def test_an_estimate_is_called_one_everywhere_on_the_card():
    limit = JudgedLimit("max_latency_ms", 5.0, 2.0, (1.0, 3.0), "undecided", basis="estimated")
    text = card(verdict(int8=figures(target_latency=target_latency()), limits=(limit,)), ABOUT)
    assert text.count("estimated 2 ms") == 2
    assert "Latency on cortex-m: a core is estimated from assumed speeds" in text
    assert "An estimate cannot prove that a limit holds." in text
    assert "latency on the target" not in card(verdict(), ABOUT)


def test_a_card_tells_that_finalists_were_compared_by_cross_validation():
    compared = CrossValidation(0.9, 0.85, 0.93, 3, 1020)
    few = (FinalistResult(4, 0.98, 9, (0.95,), 27, cross_validation=compared),)
    text = card(verdict(), dataclasses.replace(ABOUT, finalists=few))
    assert "On training and validation, the best trial was trained" in text
    assert "| 4 | 98.00 % after 9 epochs | 90.00 % [85.00, 93.00] | 3 folds | 3 of 27" in text


def test_balanced_accuracy_is_called_so_everywhere_on_the_card():
    limits = (
        JudgedLimit("min_accuracy", 0.99, 0.9861, (0.96, 0.98), "broken"),
        JudgedLimit("max_drop", 0.5, 0.28, (-0.5, 1.1), "holds"),
    )
    few = (FinalistResult(4, 0.98, 9, (0.95, 0.97), 27),)
    about = dataclasses.replace(ABOUT, finalists=few, balanced=True)
    text = card(verdict(limits=limits, balanced=True, status="broken"), about)
    assert "On the validation part, by balanced accuracy, the best trial was" in text
    assert "; of balanced accuracy" in text
    assert (
        text.count("accuracy") == text.count("balanced accuracy") + text.count("min_accuracy") + 1
    )
    assert "Balanced accuracy is the mean of the classes' accuracies" in text
    assert "alanced" not in card(verdict(), ABOUT)


def test_a_gap_between_validation_and_test_is_written_beside_the_verdict():
    gap = ValidationGap(0.978, (0.96, 0.99), 300, 51.9, (40.0, 60.0), True)
    text = card(verdict(validation=gap), ABOUT)
    assert "**Warning:** validation and test differ by more than chance" in text
    assert "51.9 points apart [40.0, 60.0]" in text
    assert "but validation and test differ" in text.partition("## Verdict")[2].partition("##")[0]
    fine = dataclasses.replace(gap, is_beyond_chance=False)
    assert "Warning" not in card(verdict(validation=fine), ABOUT)


def test_text_from_outside_is_shown_literally():
    hostile = "<script>a</script> [b](www.c.d) ![e](f) `g` *h* | i\n# j\x1b[2J\u202e"
    shown = "<script>a</script> [b](www.c.d) ![e](f) `g` *h* | i\\n# j\\x1b[2J\\u202e"
    made = Decision(hostile, hostile, hostile, "measured", hostile)
    about = dataclasses.replace(
        ABOUT, data=hostile, class_names=(hostile, "b"), decisions=(made,), notes=(hostile,)
    )
    machine = Machine(hostile, (), 2, "1", "Linux")
    found = verdict(status="broken", problems=(hostile,), machine=machine)
    page = card(found, about)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", page)
    tokens = [t for b in MarkdownIt().enable("table").parse(page) for t in b.children or [b]]
    kinds = {token.type for token in tokens}
    assert not kinds & {"link_open", "image", "html_inline", "html_block", "em_open"}
    rendered = MarkdownIt().enable("table").render(page)
    plain = html.unescape(re.sub("<[^>]*>", "", rendered))
    # Title, class, data, reason, note, machine, and four cells of the decision.
    assert plain.count(shown) == 10
