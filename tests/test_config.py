from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from lepton_automl.artifact.verdict import FileMetrics
from lepton_automl.cli.app import app
from lepton_automl.config import (
    LEAST_WORKER_BYTES,
    LIMITS,
    MAIN_PROCESS_BYTES,
    WORKER_PROGRAM_BYTES,
    Limits,
    RunConfig,
    options_text,
    would_fit,
)
from lepton_automl.cost.cost import Cost
from lepton_automl.errors import ConfigError
from lepton_automl.option_texts import memory_bytes, seconds

FIELDS = [field.name for field in dataclasses.fields(Limits)]


def test_by_default_no_limit_is_stated():
    assert Limits().stated == {}


def test_only_stated_limits_are_listed_and_zero_drop_is_one_of_them():
    assert Limits(max_size_bytes=9000, max_drop=0).stated == {"max_size_bytes": 9000, "max_drop": 0}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_an_invalid_limit_is_rejected(field, value):
    with pytest.raises(ConfigError) as caught:
        Limits(**{field: value})
    assert field in caught.value.what
    assert str(value) in caught.value.what


@pytest.mark.parametrize("field", [f for f in FIELDS if "drop" not in f])
def test_zero_is_a_limit_for_drops_only(field):
    with pytest.raises(ConfigError, match=field):
        Limits(**{field: 0})


@pytest.mark.parametrize(
    ("field", "value"), [("min_accuracy", 1.01), ("max_drop", 100.5), ("max_class_drop", 101)]
)
def test_shares_and_points_have_an_upper_bound(field, value):
    with pytest.raises(ConfigError, match=field):
        Limits(**{field: value})


def test_the_limits_known_before_training_are_fields():
    stated = {"max_latency_ms": 1.0, "max_macs": 5, "min_accuracy": 0.5, "max_drop": 0.5}
    assert Limits(**stated).costs == {"max_latency_ms": 1.0, "max_macs": 5}


def test_the_table_of_limits_has_one_row_per_field_and_one_option_per_row():
    assert list(LIMITS) == FIELDS
    command = typer.main.get_command(app).commands["run"]
    stated = {name for option in command.params for name in option.opts}
    assert {spec.option for spec in LIMITS.values()} <= stated


def test_the_bounded_costs_are_fields_of_costs_and_of_figures():
    costs = {field.name for field in dataclasses.fields(Cost)}
    measured = {field.name for field in dataclasses.fields(FileMetrics)}
    bounded = {spec.cost for spec in LIMITS.values() if spec.cost}
    assert bounded <= costs & measured
    cost = Cost(9_310, 5_000, 5_500, 40_000, 3_000, 0.01234)
    assert LIMITS["max_macs"].measured(cost) == 40_000
    assert LIMITS["min_accuracy"].measured(cost) is None


@pytest.mark.parametrize(
    ("limit", "value", "expected"),
    [
        ("max_size_bytes", 9_301, "--max-size-kb 9.4"),
        ("max_latency_ms", 0.01234, "--max-latency-ms 0.0124"),
        ("max_macs", 40_000.2, "--max-macs 40001"),
        ("max_macs", 120, "--max-macs 120"),
        ("max_peak_ram_bytes", 3_000, "--max-ram-kb 3"),
        ("min_accuracy", 0.98765, "--min-accuracy 0.987"),
        ("max_class_drop", 0.501, "--per-class-max-drop 0.51"),
    ],
)
def test_a_suggested_limit_is_no_tighter_than_the_value(limit, value, expected):
    assert options_text({limit: value}) == expected


@given(st.sampled_from([n for n in FIELDS if n.startswith("max")]), st.floats(1e-3, 1e9))
def test_a_suggested_limit_keeps_the_value_for_every_number(name, value):
    option, number, *rest = would_fit({name: value}).split()
    assert (option, rest) == (LIMITS[name].option, ["would", "fit"])
    assert float(number) * LIMITS[name].scale >= value * (1 - 1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("45s", 45), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("1.5m", 90)],
)
def test_durations_are_parsed(text, expected):
    assert seconds(text) == expected


@given(st.integers(0, 3), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_a_duration_is_the_sum_of_its_parts(days, hours, minutes, rest):
    text = f"{days}d{hours}h{minutes}m{rest}s"
    assert seconds(text) == ((days * 24 + hours) * 60 + minutes) * 60 + rest


@pytest.mark.parametrize("text", ["", "0", "0s", "-5m", "ten", "5x", "m", "10m5h", "1e3", "nan"])
def test_an_invalid_duration_is_rejected_with_examples(text):
    with pytest.raises(ConfigError) as caught:
        seconds(text)
    assert repr(text) in caught.value.what
    assert "10m" in caught.value.fix


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("trials", 0),
        ("jobs", 0),
        ("jobs", 257),
        ("seed", -1),
        ("seed", 2**31),
        ("device", "gpu"),
        ("prefer", "speed"),
        ("flip", "never"),
        ("folds", "1"),
        ("folds", "11"),
        ("folds", "some"),
        ("folds", "9" * 5000),  # More digits than Python converts.
        ("reject", 0.6),
        ("reject", 1e-320),  # No number of samples shows it.
        ("reject", float("nan")),
    ],
)
def test_an_illegal_option_is_reported_with_its_value(field, value):
    with pytest.raises(ConfigError) as caught:
        RunConfig("digits", Path("runs/x"), **{field: value})
    assert f"--{field}" in caught.value.what
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    assert shown[:50] in caught.value.what


def test_the_default_budget_is_ten_minutes():
    assert RunConfig("digits", Path("x")).seconds_in_all == 600
    assert RunConfig("digits", Path("x"), trials=3).seconds_in_all is None
    assert RunConfig("digits", Path("x"), trials=3, budget_seconds=5).seconds_in_all == 5


def test_the_default_is_one_worker_per_core():
    assert RunConfig("digits", Path("x")).workers >= 1
    assert RunConfig("digits", Path("x"), jobs=3).workers == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1G", 1 << 30),
        ("800M", 800 << 20),
        ("1.5 GiB", 3 << 29),
        ("2t", 2 << 40),
        ("700000k", 700000 << 10),
        ("123", 123),
        (5, 5),
    ],
)
def test_sizes_of_memory_are_parsed(text, expected):
    assert memory_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "0", "0G", "-1G", "1X", "G", "1G1", "1e9", "nan", "9" * 20])
def test_an_invalid_size_of_memory_is_rejected_with_examples(text):
    with pytest.raises(ConfigError, match="--max-memory") as caught:
        memory_bytes(text)
    assert "800M" in caught.value.fix


def test_too_little_memory_and_more_workers_than_fit_are_refused():
    with pytest.raises(ConfigError, match="--max-memory 703 MiB, the rule is at least 704 MiB"):
        RunConfig("digits", Path("x"), max_memory=703 << 20)
    with pytest.raises(ConfigError, match=r"--jobs 3 and --max-memory 1\.00 GiB") as caught:
        RunConfig("digits", Path("x"), jobs=3, max_memory=1 << 30)
    assert "--jobs 2" in caught.value.fix


def test_workers_and_their_memory_fit_into_the_limit(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    for size in (704 << 20, 1 << 30, 3 << 30, 64 << 30):
        config = RunConfig("digits", Path("x"), max_memory=size)
        whole = config.training_memory + WORKER_PROGRAM_BYTES
        assert MAIN_PROCESS_BYTES + config.workers * whole <= size
        assert whole >= LEAST_WORKER_BYTES
    assert RunConfig("digits", Path("x"), max_memory=64 << 30).workers == 64
    assert RunConfig("digits", Path("x"), max_memory=1 << 30).workers == 2


@pytest.mark.parametrize(
    "asks", [{"objectives": ("accuracy", "latency_ms")}, {"limits": Limits(max_latency_ms=1.0)}]
)
def test_a_latency_table_needs_a_latency_limit_or_objective(asks):
    table, silent = Path("table.json"), {"objectives": ("accuracy", "macs")}
    assert RunConfig("digits", Path("runs/x"), latency_from=table, **(silent | asks))
    with pytest.raises(ConfigError, match=r"--latency-from table\.json has no effect"):
        RunConfig("digits", Path("runs/x"), latency_from=table, **silent)


def test_balance_has_three_values():
    assert RunConfig("digits", Path("x")).balance == "auto"
    with pytest.raises(ConfigError, match="--balance 'maybe' is not known") as caught:
        RunConfig("digits", Path("x"), balance="maybe")
    assert "auto, off, on" in caught.value.fix
