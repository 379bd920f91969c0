from __future__ import annotations

import json

from lepton_automl.core.decisions import Decision, latest


def decision(name: str, choice: str) -> Decision:
    return Decision(name, choice, "12 of 20 samples", "measured", "--flip on")


def test_a_decision_survives_json() -> None:
    made = decision("flip", "no random flips")
    assert Decision.from_document(json.loads(json.dumps(made.document()))) == made


def test_a_decision_of_an_earlier_version_is_no_detail() -> None:
    body = decision("flip", "no random flips").document()
    del body["is_detail"]
    assert Decision.from_document(body) == decision("flip", "no random flips")


def test_the_last_decision_of_a_name_counts_in_the_order_of_the_names() -> None:
    made = [decision("a", "1"), decision("b", "2"), decision("a", "3")]
    assert [(d.name, d.choice) for d in latest(made)] == [("a", "3"), ("b", "2")]
