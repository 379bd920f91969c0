from __future__ import annotations

import dataclasses
import hashlib
import json
import re

import numpy as np
import onnxruntime
import pytest
from sklearn.metrics import balanced_accuracy_score

from lepton_automl.compress import temperature
from lepton_automl.config import Limits
from lepton_automl.core.units import duration
from lepton_automl.data.opening import open_dataset
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.option_texts import seconds
from lepton_automl.pipeline import run
from lepton_automl.pipeline.verify import verify
from lepton_automl.runs.ledger import LedgerView
from tests.helpers import runs

pytestmark = pytest.mark.usefixtures("children_answer_here")


def test_a_run_leaves_a_file_whose_accuracy_a_bare_onnxruntime_confirms(finished_run):
    config, outcome = finished_run
    data = open_dataset(config.data, seed=config.seed)
    file = outcome.artifact / "model.int8.onnx"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    answers = session.run(None, {"pixels": data.pixels("test", (8, 8))})[0]
    found = outcome.verdict.int8
    assert found.accuracy == pytest.approx(np.mean(answers.argmax(1) == data.test.labels))
    assert found.n_samples == len(data.test)
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert found.size_bytes == file.stat().st_size
    assert outcome.verdict.status == "holds"
    assert outcome.verdict.limits == ()


def test_a_finished_run_returns_its_outcome_without_training(finished_run):
    config, outcome = finished_run
    before = runs.digests(outcome.artifact)
    with LedgerView(config.out / "ledger.db") as ledger:
        events = list(ledger.events())
    again = run.run(config)
    assert again.verdict == outcome.verdict
    assert runs.digests(outcome.artifact) == before
    with LedgerView(config.out / "ledger.db") as ledger:
        assert list(ledger.events()) == events


@pytest.mark.parametrize("used", [0.0, 900.0])
def test_a_budget_within_what_was_used_returns_the_outcome_and_names_a_larger_one(
    finished_run, tmp_path, used
):
    config, said = runs.copy(finished_run[0], tmp_path), []
    with runs.changed_ledger(config.out) as db:
        db.execute("UPDATE sessions SET seconds = seconds + ?", (used,))
        ((used,),) = db.execute("SELECT SUM(seconds) FROM sessions").fetchall()
    before = runs.digests(config.out / "models")
    budget = dataclasses.replace(config, budget_seconds=0.9 * used)
    outcome = run.run(budget, emit=lambda event: said.append(event.message))
    assert outcome.verdict == finished_run[1].verdict
    assert runs.digests(config.out / "models") == before
    told = r"it took (.+) of --budget .+; --budget (\S+) or more --trials"
    (stated,) = (found for text in said if (found := re.search(told, text)))
    assert stated[1] == duration(used)
    assert seconds(stated[2]) > used


def test_the_quantization_is_the_method_of_least_divergence(finished_run):
    config, outcome = finished_run
    (said,) = (decision for decision in outcome.decisions if decision.name == "quantization")
    (file,) = (config.out / "models").glob("compressed-*/calibration.json")
    methods = json.loads(file.read_text())["methods"]
    assert said.choice == min(methods, key=lambda method: method["kl_divergence"])["method"]
    for method in methods:
        assert f"{method['method']} {method['kl_divergence']:.2g}" in said.evidence


def test_more_trials_continue_a_finished_run_and_count_as_a_second_use_of_the_test_set(
    finished_run, tmp_path
):
    config = runs.copy(finished_run[0], tmp_path)
    more = run.run(dataclasses.replace(config, trials=3))
    assert len(more.search_result.rows) == 3
    assert more.search_result.rows[:2] != ()
    changed = more.verdict.int8.sha256 != finished_run[1].verdict.int8.sha256
    assert more.verdict.test_set_uses == (2 if changed else 1)


def test_another_definition_into_the_same_folder_is_refused(finished_run):
    config, _ = finished_run
    with pytest.raises(ConfigError, match="seed: 0 here, 1 asked for"):
        run.run(dataclasses.replace(config, seed=1))
    with pytest.raises(ConfigError, match="--max-macs: none here, 10 asked for"):
        run.run(dataclasses.replace(config, limits=Limits(max_macs=10)))


def test_stages_called_one_by_one_end_on_the_bytes_of_the_whole_run(finished_run, tmp_path):
    whole, outcome = finished_run
    config = dataclasses.replace(whole, out=tmp_path / "run")
    with pytest.raises(DataError, match="no winner yet") as caught:
        run.compress(config)
    assert "lepton search" in caught.value.fix
    run.search(config)
    with pytest.raises(DataError, match="no finished compression"):
        run.export(config)
    run.compress(config)
    made = run.export(config)
    for name in ("model.int8.onnx", "model.fp32.onnx", "reference/model.fp32.onnx"):
        assert (made.artifact / name).read_bytes() == (outcome.artifact / name).read_bytes()


def test_with_rare_classes_everything_is_balanced_and_a_resumed_run_and_verify_agree(tmp_path):
    digits = np.load(runs.quick_data(tmp_path))
    rank = np.array([(digits["y"][:n] == y).sum() for n, y in enumerate(digits["y"])])
    kept = rank < np.where(digits["y"] >= 7, 14, 90)
    path = tmp_path / "rare.npz"
    np.savez(path, x=digits["x"][kept], y=digits["y"][kept])
    limits = Limits(min_accuracy=0.001, max_drop=100)  # However well it trains, they hold.
    config = runs.quick_config(tmp_path, data=str(path), trials=1, limits=limits)
    outcome = run.run(config)
    verdict, data = outcome.verdict, open_dataset(config.data)
    session = onnxruntime.InferenceSession(outcome.artifact / "model.int8.onnx")
    (answers,) = session.run(None, {"pixels": data.pixels("test", (8, 8))})
    reached = balanced_accuracy_score(data.test.labels, answers.argmax(1))
    assert verdict.int8.accuracy == pytest.approx(reached)
    assert verdict.limits[0].measured == pytest.approx(reached)
    assert (verdict.balanced, verdict.status) == (True, "holds")
    assert outcome.search_result.is_balanced
    assert "balanced accuracy [95 %]" in (outcome.artifact / "MODEL_CARD.md").read_text()
    assert "balanced accuracy on validation" in (config.out / "front.svg").read_text()
    assert run.run(dataclasses.replace(config, balance="on")).verdict == verdict
    again = verify(outcome.artifact).verdict
    assert again.int8.accuracy_interval == verdict.int8.accuracy_interval
    with pytest.raises(ConfigError, match="balanced: True here, False asked for"):
        run.run(dataclasses.replace(config, balance="off"))


def test_what_no_option_decides_is_listed_in_the_outcome_and_in_the_artifact(finished_run):
    config, outcome = finished_run
    made = {decision.name: decision for decision in outcome.decisions}
    given = {"search space": config.space, "winner": None, "file that ships": None}
    assert {name for name, option in given.items() if option is None} <= set(made)
    assert ("search space" in made) == (config.space is None)
    details = {"channels", "memory", "split", "training arithmetic", "target", "quantization"}
    details |= {"final trainings"}
    found = {name for name, decision in made.items() if decision.is_detail}
    assert found - {temperature.DECISION} == details  # A fitted temperature is a detail.
    assert made["channels"].choice.startswith("grey")
    assert run.run(config).decisions == outcome.decisions
    card = (outcome.artifact / "MODEL_CARD.md").read_text()
    assert all(decision.choice in card for decision in outcome.decisions)
