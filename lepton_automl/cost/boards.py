"""Microcontroller boards: their memory as limits of a net, and whether a net fits."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lepton_automl.core import plugins, untrusted_files
from lepton_automl.core.field_types import check_types
from lepton_automl.core.untrusted_files import TOML
from lepton_automl.errors import ConfigError, LeptonError, first_line

RESERVED_FLASH_BYTES, RESERVED_RAM_BYTES = 8 << 10, 4 << 10
"""What a board's limits leave to start-up code, drivers and the stack."""
TARGET = "microcontroller"
"""Preset of `cost.targets` for boards."""
_TIGHT_SHARE = 0.5
"""A net that takes more of the flash or of the memory than this leaves little to the rest."""
_RULE = "a TOML text with one table: [name], flash_kib, ram_kib, core and clock_mhz"

Fit = Literal["fits", "tight", "does not fit"]
Basis = Literal["measured", "predicted"]


@dataclass(frozen=True)
class Board:
    """A board, or the microcontroller on a board of one's own."""

    name: str
    core: str
    """Compiler's name of the processor core, such as `cortex-m4`."""
    clock_mhz: float
    flash_kib: float
    """Program memory, KiB."""
    ram_kib: float
    """Largest block of memory for data in one piece, KiB."""
    source: str = ""
    """Page of the vendor."""
    note: str = ""
    checked: str = ""
    """Public documents with these figures; empty where none confirms them."""

    def __post_init__(self) -> None:
        for what in ("clock_mhz", "flash_kib", "ram_kib"):
            value = getattr(self, what)
            if type(value) not in (int, float) or not 0 < value <= 1e7:
                raise ValueError(f"{what} is {value!r:.60}, the rule is a number above 0")

    def to_toml(self) -> str:
        """The text of a file that describes it, as `load` reads it."""
        fields = dataclasses.asdict(self)
        name = fields.pop("name")
        # JSON with ASCII escapes is TOML too, for numbers and texts.
        lines = [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
        return "\n".join([f"[{json.dumps(name)}]", *lines, ""])

    @property
    def flash_bytes(self) -> int:
        """Program memory, bytes."""
        return round(self.flash_kib * 1024)

    @property
    def ram_bytes(self) -> int:
        """Memory for data, bytes."""
        return round(self.ram_kib * 1024)

    @property
    def limits(self) -> dict[str, int]:
        """Values of `Limits` that this board sets, by name; at least 1."""
        return {
            "max_flash_bytes": max(1, self.flash_bytes - RESERVED_FLASH_BYTES),
            "max_peak_ram_bytes": max(1, self.ram_bytes - RESERVED_RAM_BYTES),
        }

    def fit(self, flash_bytes: float, ram_bytes: float) -> Fit:
        """Whether a net fits that takes so much flash and working memory."""
        if (
            flash_bytes > self.limits["max_flash_bytes"]
            or ram_bytes > self.limits["max_peak_ram_bytes"]
        ):
            return "does not fit"
        is_small = (
            flash_bytes <= _TIGHT_SHARE * self.flash_bytes
            and ram_bytes <= _TIGHT_SHARE * self.ram_bytes
        )
        return "fits" if is_small else "tight"


@dataclass(frozen=True)
class BoardFit:
    """Whether a net fits a board, and the figures that say so."""

    board: Board
    fit: Fit
    flash_bytes: int
    ram_bytes: int
    basis: Basis
    """Whether the flash was measured by the cross compiler, or predicted."""


def names() -> list[str]:
    """Names of all boards, sorted."""
    return sorted(_table())


def load(name: str) -> Board:
    """The board of a name, of the beginning of one name only, or of a TOML file of one's own.

    Raises
    ------
    ConfigError
        If there is no such board, or its file is wrong; the message suggests the nearest name.
    """
    if name.endswith(".toml"):
        return _own(Path(name))
    table = _table()
    matching = [known for known in table if known.startswith(name)] if name else []
    if name not in table and len(matching) == 1:
        name = matching[0]
    if name not in table and matching:
        raise ConfigError(
            f"{name!r} begins the names of {len(matching)} boards of lepton",
            fix=f"choose one of: {', '.join(sorted(matching))}",
        )
    if name not in table:
        raise plugins.unknown_name(name, sorted(table), "board of lepton")
    return Board(name, **table[name])


def every() -> list[Board]:
    """All boards, that with the least memory first."""
    found = [Board(name, **row) for name, row in _table().items()]
    return sorted(found, key=lambda board: (board.flash_kib + board.ram_kib, board.name))


def fitting(flash_bytes: float, ram_bytes: float) -> list[Board]:
    """Boards on which a net fits, that with the least memory first."""
    return [one for one in every() if one.fit(flash_bytes, ram_bytes) != "does not fit"]


def from_fields(fields: Mapping[str, Any]) -> Board:
    """A board from its fields in a file; raises where one is missing, unknown or of no use."""
    board = Board(**fields)
    check_types(board)
    return board


def listed(boards: Iterable[Board], most: int = 3) -> str:
    """Names of some boards, with commas."""
    found = [board.name for board in boards]
    return ", ".join(found[:most]) + (", ..." if len(found) > most else "")


def _own(path: Path) -> Board:
    fix = f"write {_RULE}"
    document = untrusted_files.read_toml(path, TOML, fix=fix, error=ConfigError)
    fields = {item.name: item for item in dataclasses.fields(Board) if item.name != "name"}
    try:
        name, row = next(iter(document.items()), ("", None))
        if len(document) != 1 or not isinstance(row, dict):
            raise ValueError("it does not hold one table")
        if unknown := sorted(row.keys() - fields.keys()):
            raise ValueError(f"{unknown[0]} is not known")
        needed = [each for each, item in fields.items() if item.default is dataclasses.MISSING]
        if missing := [each for each in needed if each not in row]:
            raise ValueError(f"{missing[0]} is missing")
        return from_fields({"name": name} | row)
    except (ValueError, TypeError, LeptonError) as error:
        raise ConfigError(f"{path} describes no board: {first_line(error)}", fix=fix) from error


def _table() -> dict[str, dict[str, Any]]:
    path = Path(__file__).with_name("boards.toml")
    return untrusted_files.read_toml(path, fix="install lepton again")
