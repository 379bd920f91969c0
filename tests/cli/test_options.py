from __future__ import annotations

import pytest

from lepton_automl.cli import options
from lepton_automl.config import Limits
from lepton_automl.errors import ConfigError
from lepton_automl.pipeline import option_values


def limits(**given):
    return option_values.limits(**given)


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
def test_an_invalid_count_is_a_usage_error(lepton, arguments):
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
def test_an_illegal_value_exits_with_4_and_a_fix(lepton, arguments):
    done = lepton("run", "digits", *arguments)
    assert done.exit_code == 4
    assert "fix" in done.err
    assert "Traceback" not in done.err


def test_an_illegal_limit_is_named_by_its_option():
    with pytest.raises(ConfigError, match=r"--max-size-kb -1, the rule is at least 0\.001"):
        limits(max_size_kb=-1)
    with pytest.raises(ConfigError, match="--min-accuracy 101"):
        limits(min_accuracy=101)


def test_a_drop_of_zero_is_a_limit():
    assert limits(max_drop=0.0, per_class_max_drop=0.0).stated == {
        "max_drop": 0.0,
        "max_class_drop": 0.0,
    }


def test_objectives_are_separated_by_commas_and_spaces_are_ignored():
    given = dict.fromkeys(option_values.LIMIT_PARAMETERS) | {"objective": " accuracy, macs ,"}
    assert options.settings(given)["objectives"] == ("accuracy", "macs")


def test_output_options_are_not_settings():
    given = dict.fromkeys(option_values.LIMIT_PARAMETERS) | {"quiet": True, "json": True, "seed": 3}
    assert options.settings(given) == {
        "limits": Limits(),
        "seed": 3,
        "started": options._STARTED,
    }
