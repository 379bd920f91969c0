"""Whether the net of an artifact fits boards, by the figures of its code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lepton_automl.artifact import manifest, writer
from lepton_automl.artifact.manifest import INT8
from lepton_automl.artifact.provenance import read_provenance
from lepton_automl.artifact.verdict import FormatFigures, Verdict
from lepton_automl.cost.boards import Board, BoardFit
from lepton_automl.cost.boards import every as every_board
from lepton_automl.cost.cost import peak_ram_bytes
from lepton_automl.cost.flash import flash_bytes
from lepton_automl.errors import ArtifactError, DataError


def fits(folder: Path, verdict: Verdict) -> list[BoardFit]:
    """Whether the net of a sealed artifact fits each board, by its stored verdict.

    Raises
    ------
    DataError
        If there is no finished artifact, its files contradict each other, or its model was made
        elsewhere.
    """
    if verdict.problems and verdict.int8 is None:
        raise ArtifactError(f"{folder} is broken: {verdict.problems[0]}", fix=manifest.FRESH)
    if read_provenance(folder).origin == "foreign":
        raise DataError(
            f"{folder} is of a model made elsewhere, which has no C files",
            fix="give an artifact of `lepton run`",
        )
    return [fit(folder, board, verdict.formats) for board in every_board()]


def fit(folder: Path, board: Board, measured: Sequence[FormatFigures]) -> BoardFit:
    """Whether a net fits a board: by the figures of its code, else as predicted."""
    known = [one.metrics for one in measured if one.metrics and one.metrics.flash_bytes is not None]
    if known and known[0].flash_bytes is not None:
        flash, ram = known[0].flash_bytes, known[0].peak_ram_bytes
        is_measured = known[0].flash_basis == "measured"
    else:
        arch = writer.read_arch(folder, INT8)
        flash = flash_bytes(arch.graph, arch.front_end)
        ram, is_measured = peak_ram_bytes(arch.graph, arch.front_end), False
    basis: Literal["measured", "predicted"] = "measured" if is_measured else "predicted"
    return BoardFit(board, board.fit(flash, ram), flash, ram, basis)
