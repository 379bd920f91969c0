"""Write the artifact folder file by file; the manifest, written last, completes it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_automl.artifact import lepton_device
from lepton_automl.artifact.bill_of_materials import bill_of_materials, installed_libraries
from lepton_automl.artifact.manifest import (
    ABOUT,
    ARCHS,
    CARD,
    CHANNELS,
    DEVICE,
    FLOAT,
    FORMAT,
    FRESH,
    GOLDEN,
    GOLDEN_PREDICTIONS,
    INPUT_TYPE,
    INT8,
    LABELS,
    MALFORMED,
    MANIFEST,
    PIXEL_SCALE,
    REFERENCE,
    REFERENCE_PREDICTIONS,
    SBOM,
    SIGNATURE,
    STRIDE,
    VERDICT,
    Digests,
    canonical,
    golden_predictions,
    is_format_path,
    read_json,
    unusable,
)
from lepton_automl.artifact.provenance import FinalistResult, Provenance, read_provenance
from lepton_automl.artifact.rejection import fit_thresholds, rejection_metadata
from lepton_automl.artifact.verdict import Verdict
from lepton_automl.config import Judge, Limits
from lepton_automl.core import files as durable
from lepton_automl.core import untrusted_arrays, untrusted_files
from lepton_automl.core.decisions import Decision
from lepton_automl.core.untrusted_files import ARRAYS
from lepton_automl.core.version import __version__
from lepton_automl.cost.boards import Board
from lepton_automl.cost.latency_model import LatencyModel
from lepton_automl.cost.targets import Target
from lepton_automl.data.dataset import Dataset, LabelledFiles
from lepton_automl.data.pictures.pixel_scale import SIXTEEN_BIT, PixelScale
from lepton_automl.data.sampling import first_balanced
from lepton_automl.errors import ArtifactError, ConfigError, DataError
from lepton_automl.models import onnx_file
from lepton_automl.models.arch import Arch
from lepton_automl.models.format_session import FormatSession
from lepton_automl.models.formats import ONNX, Golden, Words
from lepton_automl.models.formats import load as load_format
from lepton_automl.models.onnx_export import float_onnx, int8_onnx
from lepton_automl.models.untrusted.session import UntrustedSession

if TYPE_CHECKING:
    from lepton_automl.models.model import Model

GOLDEN_SAMPLES = 16


def write_artifact(
    folder: Path,
    *,
    int8: Model,
    float_twin: Model,
    reference: Model,
    dataset: Dataset,
    validation: LabelledFiles,
    limits: Limits,
    target: Target,
    prefer: str,
    judge: Judge = "auto",
    latency_model: LatencyModel | None = None,
    metadata: Mapping[str, str] | None = None,
    finalists: Sequence[FinalistResult] = (),
    decisions: Sequence[Decision] = (),
    pixel_scale: PixelScale | None = None,
    refit: bool = False,
    channel_names: Sequence[str] = (),
    window_stride: int = 0,
    input_type: str = "",
    formats: Sequence[str] = (),
    ship: str = ONNX,
    board: Board | None = None,
    reject: float = 0.0,
    validation_groups: int | None = None,
) -> Digests:
    """Write the files of an artifact that exist before verification; `seal` adds the rest.

    An existing manifest is deleted first, so that a partly rewritten artifact is not valid.

    Parameters
    ----------
    folder : Path
        `RUN/artifact`.
    int8, float_twin, reference : Model
        The int8 net; the same net in float; the net before pruning.
    dataset : Dataset
        Its class names and fingerprint go into the files.
    validation : LabelledFiles
        The validation part at the nets' size; golden samples are taken from it.
    limits, target, prefer, judge
        Settings of the run, recorded.
    latency_model : LatencyModel, optional
        Predicts latencies of the target device.
    metadata : mapping of str to str, optional
        Further ONNX metadata; no measurements and no times.
    finalists : sequence of FinalistResult
        Finalists of the search, for the model card.
    decisions : sequence of Decision
        What was decided for the user, recorded.
    pixel_scale : PixelScale, optional
        Black and white of the stored pixels of the data; recorded, and in the ONNX metadata where
        picture files with more than 8 bits a channel need it.
    refit : bool
        Whether `int8` was trained on the validation part too.
    input_type : str
        Type of the values that the files read; empty: the usual one.
    channel_names : sequence of str
        Of the channels of signals, recorded and in the ONNX metadata; empty where not known.
    window_stride : int
        Values from the start of one window of a signal to the next, likewise; 0 where not known.
    formats : sequence of str
        Names of file formats that are written beside ONNX.
    ship : str
        Format that ships.
    board : Board, optional
        Board that the net is for.
    reject : float
        Share of samples of the classes that may be classified as "none of these"; 0: no threshold.
    validation_groups : int, optional
        Number of groups of the validation part; None: its samples have none.

    Returns
    -------
    dict of str to str
        Path -> sha256; `verify` checks them until there is a manifest.

    Raises
    ------
    MachineError
        If the folder cannot be written.
    ArchError
        If a format cannot hold the net.
    ConfigError
        If the folder is a link, or holds links to folders.
    """
    _check_links(folder)
    words = {"dataset": dataset.fingerprint, "target": target.name} | dict(metadata or {})
    if input_type == onnx_file.input_of(int8.arch.file_input)[1].name:
        input_type = ""
    words |= {INPUT_TYPE: input_type} if input_type else {}
    words |= scale_metadata(pixel_scale) | channel_metadata(channel_names)
    words |= stride_metadata(window_stride)
    names = dataset.class_names
    files = {
        INT8: int8_onnx(int8, names, words),
        FLOAT: float_onnx(float_twin, names, words),
        REFERENCE: float_onnx(reference, names, words),
        **{ARCHS[k]: _json(m.arch) for k, m in ((INT8, int8), (REFERENCE, reference))},
        LABELS: ("\n".join(" ".join(name.split()) for name in names) + "\n").encode(),
        DEVICE: device_program(),
    }
    below: dict[str, float] = {}
    if reject:
        below, decision = fit_thresholds(
            files, validation, reject, groups=validation_groups, refit=refit
        )
        decisions = [*decisions, decision]
        for name in below:
            files[name] = onnx_file.with_metadata(files[name], rejection_metadata(below, name))
    samples = _golden_samples(validation)
    files |= _golden(files, samples, onnx_file.onnx_probabilities)
    golden = Golden(samples, onnx_file.onnx_probabilities(files[INT8], samples))
    more = {name: _format(name, int8, Words(tuple(names), words), golden) for name in formats}
    about = Provenance(
        lepton=__version__,
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        class_names=tuple(names),
        input=int8.arch.file_input,
        front_end=int8.arch.front_end,
        target=target.name,
        prefer=prefer,
        judge=judge,
        limits=limits,
        finalists=tuple(finalists),
        latency=latency_model,
        balanced=validation.is_balanced,
        decisions=tuple(decisions),
        pixel_scale="" if pixel_scale is None else pixel_scale.name,
        refit=refit,
        input_type=input_type,
        channel_names=tuple(channel_names),
        window_stride=window_stride,
        formats={name: tuple(written) for name, written in more.items()},
        ship=ship,
        board=board,
        reject_rate=reject,
        reject_below=below,
    )
    files |= {ABOUT: about.to_json().encode()}
    for written in more.values():
        files |= written
    durable.remove(folder / MANIFEST)
    _remove_formats(folder, files)
    digests = _write_all(folder, files)
    stored = {golden_predictions(name): _golden_predictions(folder, name, golden) for name in more}
    known = {name: content for name, content in stored.items() if content is not None}
    return digests | _write_all(folder, known)


def _check_links(folder: Path) -> None:
    """Check that no link leads out of an artifact that is written again.

    In a run folder of someone else it would lead to any folder of the user.
    """
    inner = [Path(root, name) for root, names, _ in os.walk(folder) for name in names]
    for path in (folder, *inner):
        if path.is_symlink():
            raise ConfigError(
                f"{path} is a link to {path.readlink()}; an artifact is written into real folders "
                "of its run only",
                fix="remove the link, or move the folder that it leads to into its place",
            )


def _remove_formats(folder: Path, kept: Mapping[str, bytes]) -> None:
    """Delete the files of formats of an artifact that is written again without them."""
    try:
        earlier = read_provenance(folder).formats if (folder / ABOUT).is_file() else {}
    except ArtifactError:
        return
    for name, paths in earlier.items():
        stale = [path for path in paths if path not in kept and is_format_path(name, path)]
        for path in stale + ([golden_predictions(name)] if name.isidentifier() else []):
            durable.remove(folder / path)


def _format(name: str, net: Model, words: Words, golden: Golden) -> dict[str, bytes]:
    """The files of a format, that which a user names first."""
    kind = load_format(name)
    files = kind.files(net, words, golden)
    return {kind.main: files[kind.main]} | files


def _golden_predictions(folder: Path, name: str, golden: Golden) -> bytes | None:
    """Predictions of written files for the golden samples; None where they cannot be run here."""
    if load_format(name).missing():
        return None
    with FormatSession(name, folder, golden.probabilities.shape[1]) as session:
        return npy(session.predict(golden.samples))


def scale_metadata(scale: PixelScale | None) -> dict[str, str]:
    """ONNX metadata for the scale of stored pixels; empty where it is 0 to 65535 of files."""
    return {} if scale is None or scale == SIXTEEN_BIT else {PIXEL_SCALE: scale.name}


def channel_metadata(names: Sequence[str]) -> dict[str, str]:
    """ONNX metadata for the names of a signal's channels; empty where there are none."""
    return {CHANNELS: json.dumps(list(names))} if names else {}


def stride_metadata(stride: int) -> dict[str, str]:
    """ONNX metadata for the stride of windows of recordings; empty where it is 0."""
    return {STRIDE: str(stride)} if stride else {}


def write_external_artifact(
    folder: Path, about: Provenance, models: Mapping[str, bytes], validation: LabelledFiles
) -> Digests:
    """`write_artifact` for an external model, from its files.

    Raises
    ------
    MachineError
        If the folder cannot be written.
    ConfigError
        If it is a link, or holds links to folders.
    """
    _check_links(folder)
    durable.remove(folder / MANIFEST)
    labels = "\n".join(" ".join(name.split()) for name in about.class_names) + "\n"
    texts = {LABELS: labels.encode(), ABOUT: about.to_json().encode(), DEVICE: device_program()}
    # The file alone is enough to read pictures as those of the data were read.
    words = scale_metadata(about.known_scale)
    stated = {name: onnx_file.with_metadata(file, words) for name, file in models.items()}
    golden = _golden(stated, _golden_samples(validation), _untrusted_probabilities)
    return _write_all(folder, {**stated, **texts, **golden})


def device_program() -> bytes:
    """The program that artifacts of this version of lepton hold."""
    return Path(lepton_device.__file__).read_bytes()


def _untrusted_probabilities(file: bytes, pixels: np.ndarray) -> np.ndarray:
    with UntrustedSession("the model that was given", file, Path()) as session:
        return session.predict(pixels)


def _json(arch: Arch) -> bytes:
    return (arch.to_json() + "\n").encode()


def seal(
    folder: Path, digests: Digests, *, verdict: Verdict, card: str, predictions: np.ndarray
) -> Path:
    """Add the results of verification, then the manifest that completes the artifact.

    Parameters
    ----------
    folder : Path
        Written by `write_artifact`.
    digests : dict of str to str
        Result of `write_artifact`.
    verdict : Verdict
        Result of `verify`.
    card : str
        The model card, Markdown.
    predictions : int64 array (N,)
        Classes that the reference predicts on the test set, so that drops can be recomputed.

    Returns
    -------
    Path
        The manifest.

    Raises
    ------
    MachineError
        If the folder cannot be written.
    """
    about = read_provenance(folder)
    files = {
        REFERENCE_PREDICTIONS: npy(predictions.astype(np.int64)),
        VERDICT: (verdict.to_json() + "\n").encode(),
        CARD: card.encode(),
        SBOM: bill_of_materials(verdict, about, digests, installed_libraries()).encode(),
    }
    durable.remove(folder / SIGNATURE)  # It was of another manifest.
    every = digests | _write_all(folder, files)
    manifest = {
        "format": FORMAT,
        "lepton": __version__,
        "primary": verdict.primary,
        "files": {
            name: {"sha256": every[name], "bytes": (folder / name).stat().st_size}
            for name in sorted(every)
        },
    }
    return durable.write(folder / MANIFEST, canonical(manifest))


def read_verdict(folder: Path) -> Verdict:
    """Read the verdict of a complete artifact.

    Raises
    ------
    ArtifactError
        If it cannot be read.
    """
    path = folder / VERDICT
    try:
        return Verdict.from_document(read_json(path))
    except MALFORMED as error:
        raise unusable(path, error) from error


def read_arch(folder: Path, file: str) -> Arch:
    """Architecture of the net in `file`, one of `MODELS`."""
    return Arch.from_json(untrusted_files.read_text(folder / ARCHS[file], fix=FRESH))


def read_array(folder: Path, name: str) -> np.ndarray:
    """Read a stored array.

    Raises
    ------
    ArtifactError
        If it cannot be read.
    """
    path = folder / name
    try:
        return untrusted_arrays.read_npy(path, fix=FRESH)
    except DataError as error:
        raise unusable(path, error) from error


def npy(array: np.ndarray) -> bytes:
    """`array` as the content of an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _golden_samples(validation: LabelledFiles) -> np.ndarray:
    labels = np.load(validation.labels, allow_pickle=False)
    pixels = np.load(validation.pixels, mmap_mode="r", allow_pickle=False)
    return np.ascontiguousarray(pixels[np.sort(first_balanced(labels, GOLDEN_SAMPLES))])


def _golden(
    files: Mapping[str, bytes],
    chosen: np.ndarray,
    predict: Callable[[bytes, np.ndarray], np.ndarray],
) -> dict[str, bytes]:
    predictions: dict[str, Any] = {
        path: npy(predict(files[name], chosen)) for name, path in GOLDEN_PREDICTIONS.items()
    }
    return {GOLDEN: npy(chosen)} | predictions


def _write_all(folder: Path, files: Mapping[str, bytes]) -> Digests:
    for name, content in files.items():
        durable.write(folder / name, content)
    return {name: untrusted_files.sha256(folder / name, ARRAYS, fix=FRESH) for name in files}
