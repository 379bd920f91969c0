"""Events of a ledger that lack a field or hold a value of another type, through the commands."""

from __future__ import annotations

import json

import pytest

from tests.helpers import runs

CHANGES = {
    ("trial", "number"): [None, "7", [1]],
    ("trial", "cost"): [None, {}, {"size_bytes": []}],
    ("trial", "recipe"): [None, 3],
    ("rung", "correct"): [None, {}, "x:"],
    ("rung", "epochs"): [None, "3"],
    ("rung", "failed"): [None],
    ("winner", "number"): [None, 999, {}],
    ("winner", "reason"): [None, 4],
    ("hypervolume", "value"): [None, [], float("nan")],
    ("plan", "epochs"): ["many"],
}


@pytest.mark.parametrize(("kind", "field"), CHANGES)
def test_an_event_that_cannot_be_used_is_one_message(lepton, finished_run, tmp_path, kind, field):
    config = runs.copy(finished_run[0], tmp_path)
    ledger = config.out / "ledger.db"
    whole = ledger.read_bytes()
    for value in CHANGES[kind, field]:
        ledger.write_bytes(whole)
        with runs.changed_ledger(config.out) as db:
            for seq, text in db.execute(
                "SELECT seq, value FROM events WHERE kind = ? AND key <> 'reference'", (kind,)
            ).fetchall():
                body = json.loads(text)
                body[field] = value
                if value is None:
                    del body[field]
                db.execute("UPDATE events SET value = ? WHERE seq = ?", (json.dumps(body), seq))
        codes = set()
        for words in (["status"], ["status", "--json"], ["pick"]):
            done = lepton(*words, str(config.out))
            codes.add(done.exit_code)
            if done.exit_code:
                assert "ledger.db holds an event that cannot be used" in done.err
                assert "--fresh" in done.err
        assert 4 in codes, value
        assert codes <= {0, 4}


def test_entries_of_the_live_status_of_another_form_are_left_out(lepton, finished_run, tmp_path):
    config = runs.copy(finished_run[0], tmp_path)
    for value in ("[]", "1", "{}", '{"front": [{}]}', '{"best": {"number": []}}', "[" * 5000):
        with runs.changed_ledger(config.out) as db:
            db.execute("UPDATE live SET digest = NULL, value = ?", (value,))
        for words in (["status"], ["status", "--json"]):
            assert lepton(*words, str(config.out)).exit_code == 0
