from __future__ import annotations

import csv
import dataclasses
import re
import shutil
from pathlib import Path

import pytest

from lepton_automl.cost.cost import static_cost
from lepton_automl.cost.flash import (
    SHARE,
    constant_bytes,
    flash_bytes,
    kinds_of,
    most_flash_bytes,
    table_bytes,
)
from lepton_automl.models.c_export.source import net_source
from lepton_automl.models.formats import c
from lepton_automl.models.front_end import LogMel
from lepton_automl.models.random_weights import random_net
from tests.helpers.nets import random_arch

TABLE = Path(__file__).parents[2] / "benchmarks/quality/flash.csv"
ALL = ("relu", "relu6", "hswish", "silu", "none")
SHAPES = [(32, 32, 3), (28, 28, 1), (16, 16, 5), (128, 6)]
BYTES = {"int8_t": 1, "uint8_t": 1, "int32_t": 4, "uint16_t": 2, "float": 4}


SOUND = LogMel(8000, 4000, 4000, 256, 160, 24, 60.0, 4000.0, 1e4, 0.07)
HEARS = (None, None, None, None, SOUND, dataclasses.replace(SOUND, is_centred=True))


def sources():
    for seed, front_end in enumerate(HEARS):
        shape = SHAPES[seed] if front_end is None else front_end.feature_shape
        arch = random_arch(seed, input=shape, activations=ALL)
        net = random_net(dataclasses.replace(arch, front_end=front_end), 64, seed)
        yield net, net_source(net, list("abcde"))


def test_constants_are_the_arrays_that_are_written():
    for net, source in sources():
        total = 0
        arrays = re.findall(
            r"^static const (\w+) (?:NET_ALIGNED )?net_(\w+)\[\d*\] = \{(.*?)\}",
            source.source,
            re.M | re.S,
        )
        for kind, name, values in arrays:
            if kind in BYTES and not name.startswith("input_"):
                total += BYTES[kind] * len(re.findall(r"[^\s,]+", values))
        tables = 0 if net.arch.front_end is None else table_bytes(net.arch.front_end)
        assert constant_bytes(net.arch.graph) + tables == total


def test_the_committed_measurements_are_predicted_within_the_stated_interval():
    lines = TABLE.read_text().splitlines()
    rows = [row for row in csv.DictReader(lines) if row["doubles"] == "0"]
    assert len(rows) >= 20
    for row in rows:
        assert abs(int(row["predicted"]) / int(row["flash"]) - 1) <= SHARE


@pytest.mark.skipif(shutil.which(c.CROSS_COMPILER) is None, reason="there is no arm-none-eabi-gcc")
def test_new_nets_are_predicted_within_the_stated_interval(tmp_path):
    for net, source in sources():
        if source.float_additions:
            continue
        (tmp_path / "net.h").write_text(source.header)
        (tmp_path / "net.c").write_text(source.source)
        measured = c.flash_bytes(tmp_path)
        predicted = flash_bytes(net.arch.graph, net.arch.front_end)
        assert predicted == pytest.approx(measured, rel=SHARE)


def test_it_is_a_cost_that_is_known_before_training():
    arch = random_arch(1, activations=ALL)
    predicted = flash_bytes(arch.graph)
    assert predicted > constant_bytes(arch.graph)
    most = static_cost(arch, 64).flash_bytes
    assert most == most_flash_bytes(arch.graph) == pytest.approx((1 + SHARE) * predicted, abs=1)
    assert "input" in kinds_of(random_arch(1, input=(37, 6)).graph)
    assert "input" not in kinds_of(arch.graph)


def test_a_front_end_for_sound_is_counted():
    plain = random_arch(1, input=SOUND.feature_shape, activations=ALL)
    hears = dataclasses.replace(plain, front_end=SOUND)
    without, found = static_cost(plain, 64), static_cost(hears, 64)
    assert found.flash_bytes - without.flash_bytes > table_bytes(SOUND)
    rows = SOUND.feature_shape[0] * SOUND.feature_shape[1]
    assert found.peak_ram_bytes == max(without.peak_ram_bytes, rows + 4 * SOUND.frame)
