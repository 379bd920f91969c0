from __future__ import annotations

from pathlib import Path

import pytest

from lepton_automl.cli import options
from lepton_automl.config import Limits
from lepton_automl.errors import ConfigError


def limits(**given):
    names = (
        *("max_latency_ms", "max_size_kb", "max_macs", "max_ram_kb"),
        *("min_accuracy", "max_drop", "max_class_drop"),
    )
    return options.limits(**dict.fromkeys(names) | given)


def test_without_options_there_are_no_limits():
    assert limits() == Limits()


def test_kilobytes_are_a_thousand_bytes():
    given = limits(max_size_kb=24, max_ram_kb=1.5)
    assert (given.max_size_bytes, given.max_peak_ram_bytes) == (24_000, 1_500)


@pytest.mark.parametrize(
    ("text", "macs"), [("2e6", 2_000_000), ("2M", 2_000_000), ("1.5k", 1500), ("3g", 3 * 10**9)]
)
def test_large_counts_may_be_written_short(text, macs):
    assert limits(max_macs=text).max_macs == macs


@pytest.mark.parametrize(("given", "share"), [(0.9, 0.9), (90, 0.9), (1, 1), (100, 1)])
def test_an_accuracy_may_be_a_share_or_per_cent(given, share):
    assert limits(min_accuracy=given).min_accuracy == pytest.approx(share)


@pytest.mark.parametrize("arguments", [("--max-macs", "many"), ("--max-macs", "nan")])
def test_what_is_no_count_is_a_wrong_command_line(lepton, arguments):
    done = lepton("run", "digits", *arguments)
    assert done.exit_code == 2
    assert arguments[1] in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--max-size-kb", "0"),
        ("--max-size-kb", "-3"),
        ("--max-size-kb", "nan"),
        ("--max-ram-kb", "inf"),
        ("--max-latency-ms", "nan"),
        ("--min-accuracy", "101"),
        ("--max-drop", "-1"),
        ("--budget", "soon"),
        ("--trials", "0"),
        ("--jobs", "0"),
        ("--jobs-per-gpu", "0"),
        ("--jobs-per-gpu", "many"),
        ("--jobs-per-gpu", "2", "--jobs", "2"),
        ("--seed", "-1"),
        ("--device", "gpu"),
        ("--prefer", "speed"),
    ],
)
def test_an_illegal_value_is_exit_4_with_the_way_out(lepton, arguments):
    done = lepton("run", "digits", *arguments)
    assert done.exit_code == 4
    assert "fix" in done.err
    assert "Traceback" not in done.err


def test_an_illegal_limit_is_named_by_its_option():
    with pytest.raises(ConfigError, match=r"--max-size-kb -1, the rule is at least 0\.001"):
        limits(max_size_kb=-1)
    with pytest.raises(ConfigError, match="--min-accuracy 101"):
        limits(min_accuracy=101)


@pytest.mark.parametrize("text", ["", " ", "0", "-5m", "nan"])
def test_a_budget_that_is_no_time_is_refused(text):
    with pytest.raises(ConfigError, match="is not a duration above zero"):
        options.config("digits", None, text, "accuracy")


def test_the_run_folder_is_named_after_the_data():
    assert options.config("a/photos/", None, None, "accuracy").out == Path("runs/photos")
    assert options.config("a/b.npz", None, None, "accuracy").out == Path("runs/b")
    assert options.config("digits", Path("x"), None, "accuracy").out == Path("x")


def test_objectives_are_named_with_commas_and_spaces_do_not_count():
    config = options.config("digits", None, "2h", " accuracy, macs ,")
    assert config.objectives == ("accuracy", "macs")
    assert config.budget_seconds == 7200


def test_an_illegal_budget_is_refused():
    with pytest.raises(ConfigError, match="soon"):
        options.config("digits", None, "soon", "accuracy")
