from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from lepton_automl.config import Limits
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.runs.definition import Definition
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import EventKind, Ledger, LedgerView
from lepton_automl.search.loop import search
from lepton_automl.search.objectives import load
from lepton_automl.search.proposals.proposer import Proposer
from lepton_automl.search.space import search_space
from lepton_automl.search.trials import Plan, Trials, read_trials
from lepton_automl.search.warm_start import MAX_INITIAL, WarmStartSource, read_warm_start, source
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from lepton_automl.search.workers.task import pack
from tests.helpers.search import SPACE, InlineWorkers, result, search_request, small_space

SAMPLES = 84
"""Of the training part of `searching.dataset`."""
AXES = ("accuracy", "size_bytes")


def definition(job_space: search_space.SearchSpace, **changes: Any) -> Definition:
    settings: dict[str, Any] = {
        "data": "digits",
        "test": "",
        "skip_corrupt": False,
        "data_fingerprint": "ab",
        "space": job_space.name,
        "space_digest": job_space.digest,
        "objectives": AXES,
        "seed": 0,
        "target": "x86-any",
        "prefer": "size",
        "limits": Limits(),
    }
    return Definition(**(settings | changes))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A run of four candidates, one of which could not be trained, and one never was."""
    job = search_request(tmp_path / "other")
    job.folder.definition_file.write_text(definition(job.space).to_toml())
    job.ledger.record(EventKind.PLAN, "search", Plan(None, 0.0, 0.0).to_event())
    trials = Trials()
    source_of = Proposer(
        job, trials, [load(name) for name in AXES], MeasurementLock(tmp_path / "lock")
    )
    for number, right in enumerate((120, 150, 0, None)):
        source_of.add()
        if right is not None:
            failed = "" if right else "diverged"
            answers = "" if failed else pack(result(number, "0", right).correct)
            value = {"epochs": 1, "correct": answers, "failed": failed, "seconds": 0.1}
            job.ledger.record(EventKind.RUNG, f"{number}-0", value)
            trials.add_result(result(number, "0", right, failed=failed))
            source_of.record(number)
    answers = pack(result(1, "1", 160).correct)
    value = {"epochs": 3, "correct": answers, "failed": "", "seconds": 0.1}
    job.ledger.record(EventKind.RUNG, "1-1", value)
    winner = {"number": 1, "reason": "", "trials": 4, "budget_seconds": None}
    job.ledger.record(EventKind.WINNER, "0", winner)
    job.ledger.close()
    return job.folder.path


def taken(tmp_path: Path, other: Path | None, text: str = SPACE, **changes: Any) -> WarmStartSource:
    budget, fresh = changes.pop("budget_seconds", None), changes.pop("fresh", False)
    mine = small_space(tmp_path, text)
    return source(
        other,
        RunFolder(tmp_path / "mine"),
        definition(mine, **changes),
        mine,
        samples=SAMPLES,
        budget_seconds=budget,
        fresh=fresh,
    )


def begun(
    tmp_path: Path, found: WarmStartSource, **changes: Any
) -> tuple[Proposer, Trials, Ledger]:
    """A run that begins with what was taken."""
    job, trials = search_request(tmp_path / "mine", **changes), Trials()
    found.keep(job.ledger)
    made = Proposer(job, trials, [load(name) for name in AXES], MeasurementLock(tmp_path / "lock"))
    return made, trials, job.ledger


def trained(folder: Path) -> Trials:
    with LedgerView(folder / "ledger.db") as ledger:
        return read_trials(ledger)


def test_without_another_run_nothing_is_begun_with(tmp_path: Path) -> None:
    found = taken(tmp_path, None)
    _, _, ledger = begun(tmp_path, found)
    assert (found, found.keep(ledger), ledger.all(EventKind.WARM_START)) == (
        WarmStartSource(),
        "",
        {},
    )
    assert read_warm_start(ledger).first == ()
    ledger.close()


def test_under_the_same_conditions_what_it_trained_is_known_and_never_trained_again(
    tmp_path: Path, other: Path
) -> None:
    made, trials, ledger = begun(tmp_path, taken(tmp_path, other))
    known = {c.arch.hash + c.recipe.to_json() for c in trained(other).values()}
    results = [observed.results for observed in made.observed]
    assert [r[0][1] for r in results] == [0.6, 0.75, None]
    assert results[1][-1][1] == 0.8
    new = [made.add() for _ in range(4)]
    identities = [c.arch.hash + c.recipe.to_json() for c in new if c]
    assert len(set(identities)) == 4
    never_trained = trained(other)[3]
    known.discard(never_trained.arch.hash + never_trained.recipe.to_json())
    assert not known & set(identities)
    assert len(trials) == 4
    ledger.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"data_fingerprint": "other"},
        {"target": "arm64"},
        {"latency_from": "a table"},
        {"balanced": True},
        {"channels": "3"},
        {"budget_seconds": 60.0},
        {"objectives": ("accuracy", "latency_ms")},
    ],
)
def test_under_other_conditions_its_front_is_trained_first(
    tmp_path: Path, other: Path, changes: Any
) -> None:
    made, _, ledger = begun(tmp_path, taken(tmp_path, other, **changes))
    assert made.observed == []
    wanted = trained(other)
    first = made.add()
    assert first is not None
    assert first.params == wanted[1].params, "the winner"
    rest = [c.params for n, c in wanted.items() if n in (0, 1)]
    assert all(point in rest for point in read_warm_start(ledger).first)
    ledger.close()


def test_limits_that_are_narrower_leave_out_what_is_beyond(tmp_path: Path, other: Path) -> None:
    sizes = sorted(c.cost.size_bytes for n, c in trained(other).items() if n < 3)
    found = taken(tmp_path, other)
    made, _, ledger = begun(tmp_path, found, limits=Limits(max_size_bytes=sizes[0]))
    assert [o.trial.cost.size_bytes for o in made.observed] == sizes[:1]
    ledger.close()


def test_in_another_space_what_fits_is_taken(tmp_path: Path, other: Path) -> None:
    text = SPACE.replace("out = [8, 16]", "out = [8, 16, 32]").replace(
        "lr = [0.05, 0.02]", "lr = [0.9, 0.8]"
    )
    found, mine = taken(tmp_path, other, text), small_space(tmp_path, text)
    said = Ledger(tmp_path / "said" / "ledger.db")
    assert found.keep(said).endswith(
        "is trained first; parameters not in this search space: train.lr"
    )
    said.close()
    _, _, ledger = begun(tmp_path, found, space=mine)
    winner = trained(other)[1].params
    first = read_warm_start(ledger).first[0]
    assert first == {path: value for path, value in winner.items() if path != "train.lr"}
    ledger.close()


def test_a_space_where_nothing_fits_is_refused_with_the_difference(
    tmp_path: Path, other: Path
) -> None:
    text = """
doc = "another"
[input]
resolution = "native"
[stem]
out = [4, 12]
[[stage]]
layer = "conv"
out = 40
[head]
features = 0
[train]
lr = 0.01
batch_size = 32
epochs = 9
[[candidate]]
name = "known"
stem = { out = 4 }
"""
    with pytest.raises(ConfigError, match="fits the space small") as caught:
        taken(tmp_path, other, text)
    assert "there, 4 or 12 here" in caught.value.what or "not open here" in caught.value.what
    assert caught.value.exit_code == 4
    assert "--warm-start" in caught.value.fix
    assert not (tmp_path / "mine").exists()


def test_a_resume_needs_the_other_run_no_more(tmp_path: Path, other: Path) -> None:
    found = taken(tmp_path, other)
    _, _, ledger = begun(tmp_path, found)
    before = read_warm_start(ledger).observed
    ledger.close()
    mine = RunFolder(tmp_path / "mine")
    mine.definition_file.write_text(
        dataclasses.replace(
            definition(small_space(tmp_path)), warm_start=found.place, warm_digest=found.digest
        ).to_toml()
    )
    shutil.rmtree(other)
    again = taken(tmp_path, other)
    assert (again.place, again.digest, again.event) == (found.place, found.digest, None)
    with LedgerView(mine.ledger) as view:
        assert len(read_warm_start(view).observed) == len(before)
    with pytest.raises(DataError):
        taken(tmp_path, other, fresh=True)


def test_the_digest_is_of_what_the_other_run_had_trained(tmp_path: Path, other: Path) -> None:
    first = taken(tmp_path, other).digest
    assert taken(tmp_path, other, data_fingerprint="x").digest == first
    ledger = Ledger(other / "ledger.db")
    ledger.record("timing", "anything", {})
    assert taken(tmp_path, other).digest == first
    value = {"epochs": 1, "correct": pack(result(3, "0", 9).correct), "failed": "", "seconds": 0.1}
    ledger.record(EventKind.RUNG, "3-0", value)
    assert taken(tmp_path, other).digest != first
    ledger.close()


def test_a_run_is_no_help_to_itself_or_before_it_has_trained(tmp_path: Path, other: Path) -> None:
    shutil.copytree(other, tmp_path / "mine")
    with pytest.raises(ConfigError, match="this run itself"):
        taken(tmp_path, tmp_path / "mine")
    job = search_request(tmp_path / "empty")
    job.folder.definition_file.write_text(definition(job.space).to_toml())
    job.ledger.close()
    with pytest.raises(ConfigError, match="trained nothing"):
        taken(tmp_path, tmp_path / "empty")


def test_a_long_front_is_cut_evenly(tmp_path: Path, other: Path) -> None:
    ledger = Ledger(other / "ledger.db")
    plain = trained(other)[0].to_event()
    for number in range(10, 40):
        size = 1_000 * number
        cost = plain["cost"] | {"size_bytes": size}
        params = plain["params"] | {"stage1.out": (8, 16, 24)[number % 3], "n": number}
        event = plain | {"number": number, "cost": cost, "params": params}
        ledger.record(EventKind.TRIAL, str(number), event)
        answers = pack(result(number, "0", 150 + number).correct)
        value = {"epochs": 1, "correct": answers, "failed": "", "seconds": 0.1}
        ledger.record(EventKind.RUNG, f"{number}-0", value)
    ledger.close()
    event = taken(tmp_path, other, data_fingerprint="x").event
    assert event is not None
    assert 1 < len(event["first"]) <= MAX_INITIAL


def test_where_the_other_run_has_seen_everything_it_is_said(tmp_path: Path, other: Path) -> None:
    everything = trained(other)[0].params
    text = SPACE.replace("out = [8, 16]", f"out = {everything['stem.out']}")
    assert everything
    one = text.replace("out = [8, 16, 24]", "out = 16").replace(
        "features = [0, 16]", "features = 0"
    )
    one = one.replace("lr = [0.05, 0.02]", "lr = 0.05").replace("[5e-4, 5e-3]", "5e-4")
    only = small_space(tmp_path, one.split("[[candidate]]")[0] + '[[candidate]]\nname = "only"\n')
    job = search_request(tmp_path / "single", space=only, limits=Limits())
    trials = Trials()
    made = Proposer(job, trials, [load(name) for name in AXES], MeasurementLock(tmp_path / "lock"))
    candidate = made.add()
    assert candidate is not None
    job.ledger.close()
    job = search_request(tmp_path / "second", space=only)
    event = {
        "first": [],
        "observed": [{"trial": candidate.to_event(), "results": [(0, 0.5)], "samples": 18}],
    }
    WarmStartSource("elsewhere", "ab", event).keep(job.ledger)
    made = Proposer(
        job, Trials(), [load(name) for name in AXES], MeasurementLock(tmp_path / "lock")
    )
    with pytest.raises(ConfigError, match="the --warm-start run has trained every net"):
        made.add()
    job.ledger.close()


def test_a_search_goes_on_from_what_is_known(tmp_path: Path, other: Path) -> None:
    found = taken(tmp_path, other)
    job = search_request(tmp_path / "mine", trials=2)
    found.keep(job.ledger)
    result = search(job, InlineWorkers())
    job.ledger.close()
    old = {n: c for n, c in trained(other).items() if n < 3}
    assert [row.number for row in result.rows] == [0, 1]
    for row in result.rows:
        assert all((row.arch, row.recipe) != (c.arch, c.recipe) for c in old.values())
