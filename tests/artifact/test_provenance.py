from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lepton_automl.artifact.provenance import (
    CrossValidation,
    FinalistResult,
    Provenance,
    finalist_summary,
    read_provenance,
)
from lepton_automl.config import Limits
from lepton_automl.errors import DataError

SAID = Provenance(
    lepton="1",
    data="stripes",
    data_fingerprint="f",
    class_names=("a", "b"),
    input=(8, 8, 1),
    target="x86-any",
    prefer="size",
    limits=Limits(max_drop=0.5),
    origin="foreign",
    notes=("Made elsewhere.",),
)


def test_what_is_said_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "about.json").write_text(SAID.to_json())
    assert read_provenance(tmp_path) == SAID


@pytest.mark.parametrize("text", ["", "[]", "{}", SAID.to_json().replace("limits", "limit")])
def test_what_is_damaged_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "about.json").write_text(text)
    with pytest.raises(DataError, match=r"about\.json"):
        read_provenance(tmp_path)


FIRST = FinalistResult(4, 0.98, 9, (0.95, 0.97), 27)

SECOND = FinalistResult(2, 0.96, 9, (0.955,), 27)


def test_the_mean_of_its_trainings_counts_and_their_range_is_the_spread() -> None:
    assert FIRST.accuracy == pytest.approx(0.96)
    assert FIRST.spread == pytest.approx(0.02)
    assert SECOND.spread == 0


def test_the_summary_says_what_selection_promised_and_what_was_kept() -> None:
    text = finalist_summary([FIRST, SECOND])
    assert "97.00 % when selected on average, 95.75 % after final training" in text
    assert "0.50 points between them" in text
    stronger = dataclasses.replace(SECOND, augment=0.5)
    assert finalist_summary([FIRST, stronger]) == f"{text}, trial 2 with augment 0.5"
    assert finalist_summary([SECOND]).startswith("the best trial was trained")
    assert finalist_summary([]) == ""


COMPARED = dataclasses.replace(FIRST, cross_validation=CrossValidation(0.9, 0.85, 0.93, 3, 1020))


def test_the_accuracy_is_that_of_the_cross_validation_where_there_was_one() -> None:
    assert COMPARED.accuracy == 0.9
    text = finalist_summary([COMPARED])
    assert "90.00 % after final training" in text
    assert text.endswith("by cross-validation on 3 folds with 1,020 samples")
    body = dataclasses.asdict(COMPARED) | {"accuracies": [0.95, 0.97]}
    assert FinalistResult.from_dict(body) == COMPARED
    assert COMPARED.document()["cross_validation"]["samples"] == 1020
    assert FIRST.document()["cross_validation"] is None
    older = {key: value for key, value in body.items() if key != "cross_validation"}
    assert FinalistResult.from_dict(older) == FIRST


def test_it_survives_json_as_its_fields() -> None:
    body = dataclasses.asdict(FIRST) | {"accuracies": [0.95, 0.97]}
    assert FinalistResult.from_dict(body) == FIRST
