from __future__ import annotations

import pytest

from lepton_automl.asking import run_json
from lepton_automl.errors import DataError, LeptonError, MachineError


def died(number: int) -> LeptonError:
    return MachineError(f"signal {number}", fix="none")


def test_the_answer_comes_back() -> None:
    program = "import json, sys; json.dump({'got': json.load(sys.stdin)}, sys.stdout)"
    assert run_json(program, "[1, 2]", "asking", died) == {"got": [1, 2]}


def test_what_a_user_can_put_right_is_raised_here() -> None:
    program = """print('{"error": "DataError", "what": "bad", "fix": "good"}')"""
    with pytest.raises(DataError, match="bad"):
        run_json(program, "{}", "asking", died)


def test_a_death_is_told_by_its_signal_and_a_bug_by_its_traceback() -> None:
    with pytest.raises(MachineError, match="signal 6"):
        run_json("import os; os.abort()", "{}", "asking", died)
    with pytest.raises(RuntimeError, match=r"(?s)asking failed.*ZeroDivisionError"):
        run_json("1 / 0", "{}", "asking", died)
