from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from lepton_automl.api_options import run_config
from lepton_automl.config import Limits
from lepton_automl.cost import boards, flash, targets
from lepton_automl.cost.boards import Board
from lepton_automl.errors import ConfigError


def test_every_board_has_plausible_memory_a_core_and_a_page_of_its_vendor():
    table = tomllib.loads(Path(boards.__file__).with_name("boards.toml").read_text())
    assert len(table) >= 20
    assert boards.names() == sorted(table)
    for board in boards.every():
        assert table[board.name]["source"].startswith("https://")
        assert 16 <= board.ram_kib <= board.flash_kib <= 16_384
        assert 16 <= board.clock_mhz <= 1000
        assert board.core.startswith(("cortex-m", "riscv32", "xtensa"))
        assert board.flash_bytes == table[board.name]["flash_kib"] * 1024
        assert all(": " in each or each.endswith(")") for each in board.checked.split("; "))


LARGEST_PROGRAM = {
    "arduino-due": (524_288, 98_304),
    "arduino-nano-33-ble": (983_040, 262_144),
    "arduino-uno-r4": (262_144 - 0x4000, 32_768),
    "arduino-zero": (262_144 - 0x2000, 32_768),
    "feather-m4-express": (507_904, 196_608),
    "nrf52-dk": (524_288, 65_536),
    "nrf52840-dk": (1_048_576, 262_144),
    "nucleo-f091rc": (262_144, 32_768),
    "nucleo-f401re": (524_288, 98_304),
    "nucleo-f411re": (524_288, 131_072),
    "nucleo-f446re": (524_288, 131_072),
    "nucleo-f746zg": (1_048_576, 327_680),
    "nucleo-g071rb": (131_072, 36_864),
    "nucleo-g431rb": (131_072, 32_768),
    "nucleo-h743zi": (2_097_152, 524_288),
    "nucleo-l432kc": (262_144, 65_536),
    "nucleo-l552ze-q": (524_288, 196_608),
    "nucleo-u575zi-q": (2_097_152, 786_432),
    "portenta-h7": (786_432, 523_624),
    "stm32f4-discovery": (1_048_576, 131_072),
    "teensy-4.0": (2_031_616, 524_288),
    "teensy-4.1": (8_126_464, 524_288),
    "xiao-samd21": (262_144 - 0x2000, 32_768),
}
"""Bytes of flash and memory in the board files of PlatformIO, less the offset of the program."""


@pytest.mark.parametrize("name", LARGEST_PROGRAM)
def test_a_board_states_no_more_than_its_tools_give_a_program(name):
    flash_bytes, ram_bytes = LARGEST_PROGRAM[name]
    board = boards.load(name)
    assert board.flash_bytes == flash_bytes
    assert 0 <= ram_bytes - board.ram_bytes < 1024


def test_a_board_is_found_by_its_name_and_by_a_beginning_that_no_other_has():
    board = boards.load("nucleo-l432kc")
    assert (board.core, board.clock_mhz) == ("cortex-m4", 80)
    assert (board.flash_bytes, board.ram_bytes) == (262_144, 65_536)
    assert boards.load("nucleo-u575").name == "nucleo-u575zi-q"
    assert boards.load("raspberry-pi-pico").name == "raspberry-pi-pico"
    with pytest.raises(ConfigError, match="begins the names of 2 boards") as caught:
        boards.load("teensy")
    assert caught.value.fix == "choose one of: teensy-4.0, teensy-4.1"
    for name in ("nucleo-x", "", "pico"):
        with pytest.raises(ConfigError, match="is not a board of lepton"):
            boards.load(name)


def test_limits_leave_room_for_start_up_code_and_stack():
    limits = boards.load("nucleo-l432kc").limits
    assert limits == {"max_flash_bytes": 262_144 - 8192, "max_peak_ram_bytes": 65_536 - 4096}
    assert boards.from_fields({**vars(Board("x", "cortex-m0", 8, 4, 2))}).limits == {
        "max_flash_bytes": 1,
        "max_peak_ram_bytes": 1,
    }


@pytest.mark.parametrize(
    ("flash_bytes", "ram_bytes", "fit"),
    [
        (51_200, 10_240, "fits"),
        (51_201, 10_240, "tight"),
        (51_200, 10_241, "tight"),
        (102_400 - 8192, 20_480 - 4096, "tight"),
        (102_400 - 8191, 1, "does not fit"),
        (1, 20_480 - 4095, "does not fit"),
    ],
)
def test_a_net_fits_or_is_tight_or_does_not_fit(flash_bytes, ram_bytes, fit):
    assert Board("x", "cortex-m4", 80, 100, 20).fit(flash_bytes, ram_bytes) == fit


def test_boards_on_which_a_net_fits_begin_with_the_smallest():
    found = boards.fitting(200_000, 50_000)
    assert found[0].name == "nucleo-l432kc"
    assert all(one.fit(200_000, 50_000) != "does not fit" for one in found)
    assert boards.fitting(1e9, 1) == []
    assert boards.listed(found[:1]) == "nucleo-l432kc"
    assert boards.listed(boards.every(), 2).endswith(", ...")


OWN = '[mine]\ncore = "cortex-m4"\nclock_mhz = 48\nflash_kib = 64\nram_kib = 8\n'


def test_a_file_describes_a_board_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    assert boards.load(str(path)) == Board("mine", "cortex-m4", 48, 64, 8)


@pytest.mark.parametrize("name", ["teensy-4.1", 'own "x"\nä'])
def test_a_board_is_written_as_it_is_read(tmp_path, name):
    board = Board(name, "cortex-m4", 48.5, 64, 8, "a page", 'a "note" \\ ä', "a file")
    path = tmp_path / "board.toml"
    path.write_text(board.to_toml())
    assert boards.load(str(path)) == board


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (OWN + OWN.replace("mine", "other"), "no board"),
        ("flash_kib = 3\n", "no board"),
        (OWN + "colour = 3\n", "colour is not known"),
        (OWN.replace("48", "'48'"), "clock_mhz is '48', the rule is a number"),
        (OWN.replace("48", "true"), "clock_mhz is True, the rule is a number"),
        ("mine = 3\n", "does not hold one table"),
        (OWN.replace("= 64", "= 0"), "flash_kib is 0"),
        (OWN.replace("ram_kib = 8\n", ""), "ram_kib is missing"),
        ("[", "mine.toml"),
    ],
)
def test_a_wrong_file_is_named_with_the_rule(tmp_path, text, told):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        boards.load(str(path))
    assert "flash_kib" in caught.value.fix


def test_a_board_sets_limits_and_target_where_none_are_stated():
    settings = {"board": "nucleo-l432kc", "limits": Limits(max_flash_bytes=9000, min_accuracy=0.9)}
    config = run_config("digits", settings)
    limits = Limits(max_flash_bytes=9000, max_peak_ram_bytes=61_440, min_accuracy=0.9)
    assert config.limits == limits
    assert config.target == boards.TARGET
    assert config.shipped_format == "c"
    assert run_config("digits", {**settings, "target": "arm64"}).target == "arm64"
    assert run_config("digits", {}).shipped_format == ""
    assert targets.load(boards.TARGET).weight_limit == 64
    assert 0 < flash.SHARE <= 0.05
