"""Open the data of a command as its options say, and audit them."""

from __future__ import annotations

from pathlib import Path

from lepton_automl.config import MAIN_PROCESS_BYTES, RunConfig
from lepton_automl.core.decisions import Decision
from lepton_automl.core.events import Emit
from lepton_automl.data.audit import checks as audit
from lepton_automl.data.dataset import Dataset
from lepton_automl.data.decode_pool import ReadOptions
from lepton_automl.data.opening import open_dataset
from lepton_automl.data.pictures import picture_files

_LEAST_DECODING = 128 << 20
"""Bytes at least that pictures which are decoded at the same time take together."""


def open_data(config: RunConfig, emit: Emit, *, quarantine: Path | None = None) -> Dataset:
    """Open the data, split into parts, and report what the short audit finds.

    Parameters
    ----------
    config : RunConfig
        Its options on data.
    emit : callable
        Receives an event for each finding.
    quarantine : Path, optional
        Text file to which ignored files are written.

    Raises
    ------
    DataError
        If the data cannot be used.
    """
    dataset = open_unaudited(config, emit, quarantine=quarantine)
    audit.emit_findings(dataset, emit)
    return dataset


def open_unaudited(config: RunConfig, emit: Emit, *, quarantine: Path | None = None) -> Dataset:
    """As `open_data`, without the audit."""
    return open_dataset(
        config.data,
        test=config.test,
        seed=config.seed,
        skip_corrupt=config.skip_corrupt,
        group=config.group,
        time=config.time,
        part_names=config.parts,
        columns=config.columns,
        root=config.root,
        channel_axis=config.channel_axis,
        window=config.window,
        stride=config.stride,
        rate=config.rate,
        mels=config.mels,
        band_mean=config.band_mean,
        quarantine=quarantine,
        channels=config.channels,
        pixel_scale=config.pixel_scale,
        input_type=config.input_type,
        data_object=config.data_object,
        reading=reading(config, emit),
        emit=emit,
    ).with_balance(config.balance)


def reading(config: RunConfig, emit: Emit) -> ReadOptions:
    """How a command reads picture files."""
    memory = max(_LEAST_DECODING, min(picture_files.MEMORY, config.memory - MAIN_PROCESS_BYTES))
    return ReadOptions(config.jobs or 0, memory, emit, is_forced=config.rehash)


def channels_decision(dataset: Dataset) -> Decision:
    """Whether nets see grey or colour, where no option says it."""
    if dataset.channels not in (1, 3):
        return Decision(
            "channels",
            f"{dataset.channels} channels, all of them data",
            f"the arrays have {dataset.channels}",
            "inferred",
            "--channel-axis, or arrays with other channels",
        )
    is_grey = dataset.channels == 1
    evidence = f"{'no' if is_grey else 'a'} training or validation picture is in colour"
    choice = "grey, 1 channel" if is_grey else "colour, 3 channels (RGB)"
    option = f"--channels {3 if is_grey else 1}"
    return Decision("channels", choice, evidence, "inferred", option, is_detail=True)
