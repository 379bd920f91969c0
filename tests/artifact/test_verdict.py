from __future__ import annotations

import dataclasses
import json

import pytest

from lepton_automl.artifact.verdict import JudgedLimit, Parity, Verdict, overall_status
from lepton_automl.core.machine import Machine
from lepton_automl.errors import DataError
from tests.helpers.artifacts import figures, target_latency, verdict


def limit(status, needed=None):
    return JudgedLimit("min_accuracy", 0.9, 0.91, (0.88, 0.93), status, needed)


def test_a_verdict_survives_json():
    full = verdict(
        limits=(limit("undecided", 900),), problems=("x",), test_set_uses=3, notes=("y",)
    )
    assert Verdict.from_json(full.to_json()) == full
    board = Machine("Board", ("asimddp",), 4, "1.0", "Linux aarch64")
    timed = verdict(latency_host="board", latency_machine=board)
    assert Verdict.from_json(timed.to_json()) == timed
    damaged = verdict(int8=None, float32=None, reference=None, parity=None, drops={})
    assert Verdict.from_json(damaged.to_json()) == damaged


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"verdict": "holds"}'])
def test_other_text_is_not_a_verdict(text):
    with pytest.raises(DataError, match="not a verdict"):
        Verdict.from_json(text)


def test_the_document_has_the_keys_programs_rely_on():
    body = json.loads(verdict().to_json())
    assert {"sha256", "verdict", "limits", "primary", "int8", "float"} <= set(body)
    figures = {
        "accuracy",
        "accuracy_interval",
        "n_samples",
        "size_bytes",
        "weight_bytes",
        "parameter_bytes",
        "macs",
        "peak_ram_bytes",
        "latency_ms",
        "float_nodes",
    }
    assert figures <= set(body["int8"])
    assert figures <= set(body["float"])
    assert body["sha256"] == body["int8"]["sha256"]


def test_the_sha256_is_that_of_the_file_that_ships():
    shipped = verdict(primary="float")
    assert shipped.document()["sha256"] == "b" * 64


PARITY = Parity(10, 0, 10, 10, 0.0, holds=True)
NO_PARITY = dataclasses.replace(PARITY, max_steps=9, holds=False)


@pytest.mark.parametrize(
    ("statuses", "problems", "parity", "expected"),
    [
        ((), (), PARITY, "holds"),
        (("holds",), (), PARITY, "holds"),
        (("holds", "undecided"), (), PARITY, "undecided"),
        (("undecided", "broken"), (), PARITY, "broken"),
        (("holds",), ("a file has changed",), None, "broken"),
        (("holds",), (), NO_PARITY, "broken"),
        (("undecided",), (), NO_PARITY, "broken"),
    ],
)
def test_the_worst_part_decides(statuses, problems, parity, expected):
    assert overall_status(tuple(limit(s) for s in statuses), problems, parity) == expected


@pytest.mark.parametrize(("status", "code"), [("holds", 0), ("broken", 6), ("undecided", 6)])
def test_only_a_verdict_that_holds_exits_with_0(status, code):
    assert verdict(status=status).exit_code == code


def test_reasons_name_the_limit_and_the_samples_that_would_decide():
    (line,) = verdict(limits=(limit("holds"), limit("undecided", 900))).reasons
    assert "min_accuracy" in line
    assert "undecided" in line
    assert "900 samples" in line


def test_reasons_name_problems_and_parity():
    lines = verdict(problems=("a.onnx is missing",), parity=NO_PARITY).reasons
    assert lines[0] == "a.onnx is missing"
    assert "parity" in lines[1]
    assert "9 steps" in lines[1]


@pytest.mark.parametrize("basis", ["estimated", "predicted"])
def test_a_latency_told_of_another_device_survives_json(basis):
    limit = JudgedLimit("max_latency_ms", 5.0, 2.0, (1.0, 3.0), "undecided", basis=basis)
    one = verdict(int8=figures(target_latency=target_latency(basis)), limits=(limit,))
    assert Verdict.from_json(one.to_json()) == one
    assert one.document()["int8"]["target_latency"]["basis"] == basis
    assert one.document()["limits"][0]["basis"] == basis


def test_a_balanced_verdict_reads_back_and_says_what_its_reasons_are_about():
    limits = (
        JudgedLimit("min_accuracy", 0.9, 0.8, (0.7, 0.85), "broken"),
        JudgedLimit("max_size_bytes", 10_000, 12_000, None, "broken"),
    )
    found = verdict(status="broken", limits=limits, balanced=True)
    assert Verdict.from_json(found.to_json()) == found
    accuracy, size = found.reasons
    assert accuracy == f"{limits[0]}; of balanced accuracy"
    assert size == str(limits[1])
    older = found.document()
    del older["balanced"]
    assert not Verdict.from_document(older).balanced
