"""The driver of the fault kinds: time, seeds, findings."""

from __future__ import annotations

import json

import pytest

from tests.faults import driver


class Finds:
    """A kind that finds what it is given, one after the other."""

    name = "finds"

    def __init__(self, *outcomes):
        self.outcomes = outcomes
        self.given = []

    def run(self, rng, seconds, findings):
        self.given.append((rng.random(), seconds))
        for number, what in enumerate(self.outcomes):
            findings.save(self.name, bytes([number]), number, what)
        return driver.Summary(len(self.outcomes), {"worst": 3})


def test_one_case_is_kept_of_each_outcome(tmp_path):
    kind = Finds("row 3 of /tmp/a: lost", "row 14 of /tmp/b: lost", "else")
    findings = driver.Findings(tmp_path)
    done = driver.run_kinds([kind], seconds=10, seed=0, findings=findings)
    cases = {json.loads((p / "finding.json").read_text())["seed"]: p for p in tmp_path.iterdir()}
    assert set(cases) == {"0", "2"}
    assert (cases["2"] / "case").read_bytes() == b"\x02"
    row = driver.table(done, findings, 0).splitlines()[1].split()
    assert row[:4] == ["finds", "3", "2", "1"]


def test_a_folder_is_kept_whole(tmp_path):
    (tmp_path / "run" / "deep").mkdir(parents=True)
    (tmp_path / "run" / "deep" / "file").write_text("content")
    driver.Findings(tmp_path / "kept").save("any", tmp_path / "run", 1, "wrong")
    (kept,) = (tmp_path / "kept").iterdir()
    assert (kept / "case" / "deep" / "file").read_text() == "content"


def test_a_seed_repeats_the_choices_of_a_kind_whatever_runs_beside_it(tmp_path):
    first, again, other = Finds(), Finds(), Finds()
    other.name = "other"
    findings = driver.Findings(tmp_path)
    driver.run_kinds([first], seconds=8, seed=5, findings=findings)
    driver.run_kinds([other, again], seconds=8, seed=5, findings=findings)
    assert first.given[0][0] == again.given[0][0] != other.given[0][0]
    assert other.given[0][1] == pytest.approx(4, abs=0.5)  # An equal share of the time.
    assert again.given[0][1] == pytest.approx(8, abs=0.5)  # All that is left.


def test_a_name_that_is_no_kind_is_refused(capsys):
    with pytest.raises(SystemExit):
        driver.main(["--kinds", "floods"])
    assert "floods" in capsys.readouterr().err
