"""Check that the files of an artifact agree where they state the same thing; nothing is run.

Digests show that a file is the one that the manifest lists. They do not show that the files belong
together: a manifest can be computed again. So classes, sizes, limits, digests and figures are
compared wherever two files state them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto

from lepton_automl.artifact import manifest, writer
from lepton_automl.artifact.bill_of_materials import bill_of_materials, libraries_in
from lepton_automl.artifact.manifest import (
    ABOUT,
    ARCHS,
    CARD,
    CHANNELS,
    DEVICE,
    FLOAT,
    GOLDEN,
    GOLDEN_PREDICTIONS,
    INT8,
    LABELS,
    MALFORMED,
    MANIFEST,
    MODELS,
    PIXEL_SCALE,
    REFERENCE,
    REFERENCE_PREDICTIONS,
    REJECT_BELOW,
    SBOM,
    SIGNATURE,
    STRIDE,
    VERDICT,
    Digests,
    Manifest,
    golden_predictions,
)
from lepton_automl.artifact.model_card import card
from lepton_automl.artifact.provenance import Provenance, read_provenance
from lepton_automl.artifact.rejection import rejection_metadata
from lepton_automl.artifact.verdict import FileMetrics, Verdict, overall_status
from lepton_automl.config import LIMITS
from lepton_automl.core import untrusted_files
from lepton_automl.core.untrusted_files import MODEL, is_of_machine
from lepton_automl.core.version import __version__
from lepton_automl.cost.onnx_cost import onnx_cost
from lepton_automl.errors import ArtifactError, DataError, first_line
from lepton_automl.models.formats import ONNX
from lepton_automl.models.front_end import FRONT_END
from lepton_automl.models.untrusted.onnx_graph import parse

FOREIGN = "foreign"
"""`origin` of an external model, whose artifact has no architecture."""
_REQUIRED = {
    *MODELS,
    *(ABOUT, LABELS, VERDICT, CARD, REFERENCE_PREDICTIONS),
    *(GOLDEN, *GOLDEN_PREDICTIONS.values()),
}
_NONE = "none"
_MALFORMED = (
    *MALFORMED,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)
_DROPS = {"int8", "float", "int8_against_float"}


def sealed_problems(folder: Path, *, graphs: bool = True) -> list[str]:
    """Why a sealed artifact cannot be believed, one sentence each; empty if it can be measured.

    With `graphs` the models are parsed, for which an artifact of unknown origin needs a process
    with limits; without, only the other files are compared, and the digests of all.

    Raises
    ------
    DataError
        If there is no manifest, or one of another format.
    """
    try:
        sealed = manifest.read_manifest(folder)
    except ArtifactError as error:
        return [error.what]
    found = [*sealed.damage(folder), *_unlisted(folder, sealed)]
    return found or _contradictions(folder, sealed, graphs=graphs)


def written_problems(folder: Path, digests: Digests) -> list[str]:
    """`sealed_problems` of an artifact that is not sealed yet, from what its writer gave."""
    return manifest.damage(folder, digests) or _contradictions(folder, None, graphs=True)


def _unlisted(folder: Path, sealed: Manifest) -> list[str]:
    """Files that the manifest does not list, and files that it has to list."""
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    extra = there - {MANIFEST, SIGNATURE, *sealed.files}
    missing = _REQUIRED - set(sealed.files)
    return [f"{name} is not listed in {MANIFEST}; delete it" for name in sorted(extra)] + [
        f"{MANIFEST} does not list {name}, which every artifact has" for name in sorted(missing)
    ]


@dataclass(frozen=True)
class _Parts:
    """What the documents and models of an artifact say."""

    folder: Path
    about: Provenance
    files: Mapping[str, bytes]
    """Content of the models that are compared; as `models` and `words`, empty if none are."""
    models: Mapping[str, ModelProto]
    words: Mapping[str, Mapping[str, str]]
    """Model -> its metadata."""
    verdict: Verdict | None
    """None before the artifact is sealed."""
    sealed: Manifest | None

    @property
    def classes(self) -> int:
        return len(self.about.class_names)

    @property
    def is_external(self) -> bool:
        return self.about.origin == FOREIGN


def _contradictions(folder: Path, sealed: Manifest | None, *, graphs: bool) -> list[str]:
    try:
        parts = _read(folder, sealed, MODELS if graphs else ())
    except ArtifactError as error:
        return [error.what]
    found = []
    checks = (_class_names, _shapes, _metadata, _golden, _architectures, _device, _format_files)
    for check in (*checks, _about_verdict, _card, _bill_of_materials):
        found += _checked(check, parts)
    return found


def _checked(check: Callable[[_Parts], list[str]], parts: _Parts) -> list[str]:
    try:
        return check(parts)
    except ArtifactError as error:
        return [error.what]
    except _MALFORMED as error:
        if is_of_machine(error):
            raise
        name = check.__name__.strip("_").replace("_", " ")
        return [f"{name} cannot be compared: {type(error).__name__}: {first_line(error)}"]


def _read(folder: Path, sealed: Manifest | None, names: Sequence[str]) -> _Parts:
    about, files = read_provenance(folder), {}
    models, words = dict[str, ModelProto](), dict[str, dict[str, str]]()
    for name in names:
        try:
            files[name] = untrusted_files.read_bytes(folder / name, MODEL, fix=manifest.FRESH)
            # Weights in other files are refused: onnx reads them from the working directory.
            models[name] = parse(name, files[name], Path(os.devnull))
            words[name] = {item.key: item.value for item in models[name].metadata_props}
        except (DataError, UnicodeDecodeError) as error:
            raise manifest.unusable(folder / name, error) from error
    verdict = None if sealed is None else writer.read_verdict(folder)
    return _Parts(folder, about, files, models, words, verdict, sealed)


def _differing(what: str, said: Mapping[str, object]) -> list[str]:
    """A sentence for each place that does not say what the first one says."""
    if not said:
        return []
    (first, wanted), *others = said.items()
    return [
        f"{what}: {first} has {_short(wanted)}, {place} has {_short(value)}"
        for place, value in others
        if value != wanted
    ]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _class_names(parts: _Parts) -> list[str]:
    names, path = parts.about.class_names, parts.folder / LABELS
    text = untrusted_files.read_text(path, fix=manifest.FRESH, errors="surrogateescape")
    lines = text.removesuffix("\n").split("\n")
    wanted = [" ".join(name.split()) for name in names]
    said: dict[str, object] = {ABOUT: list(names)}
    for name, words in parts.words.items():
        try:
            said[name] = json.loads(words["labels"])
        except (ValueError, KeyError, RecursionError):
            said[name] = "none that can be read"
    return _differing("class names", said) + _differing(
        "class names", {ABOUT: wanted, LABELS: lines}
    )


def _shapes(parts: _Parts) -> list[str]:
    kind = parts.about.input_kind
    wanted = ((kind, *parts.about.input), ("float32", parts.classes))
    said: dict[str, object] = {ABOUT: wanted}
    for name, model in parts.models.items():
        ends = model.graph.input, model.graph.output
        said[name] = tuple(_end(side[0]) for side in ends if len(side) == 1)
    return _differing("inputs and predictions", said)


def _end(value: ValueInfoProto) -> tuple[object, ...]:
    """Type and dimensions, without the first, of an input or output."""
    kind = value.type.tensor_type
    names: dict[int, str] = {
        TensorProto.UINT8: "uint8",
        TensorProto.UINT16: "uint16",
        TensorProto.INT16: "int16",
        TensorProto.FLOAT: "float32",
    }
    dims = [dim.dim_value or dim.dim_param for dim in kind.shape.dim]
    return (names.get(kind.elem_type, f"type {kind.elem_type}"), *dims[1:])


def _metadata(parts: _Parts) -> list[str]:
    about = parts.about
    found = _differing(
        "version of lepton",
        {ABOUT: about.lepton} | ({MANIFEST: parts.sealed.lepton} if parts.sealed else {}),
    )
    for key, value in (
        ("lepton", about.lepton),
        ("dataset", about.data_fingerprint),
        ("target", about.target),
        (PIXEL_SCALE, writer.scale_metadata(about.known_scale).get(PIXEL_SCALE, _NONE)),
        (CHANNELS, writer.channel_metadata(about.channel_names).get(CHANNELS, _NONE)),
        (STRIDE, writer.stride_metadata(about.window_stride).get(STRIDE, _NONE)),
        (FRONT_END, _NONE if about.front_end is None else about.front_end.to_json()),
    ):
        # Files of external models have fewer entries; before, scales of fractions were left out.
        may_lack = parts.is_external or (key == PIXEL_SCALE and value in ("unit", "symmetric"))
        said = {
            name: words.get(key, _NONE)
            for name, words in parts.words.items()
            if key in words or not may_lack
        }
        found += _differing(f"{key} in the metadata", {ABOUT: value} | said)
    for name, words in parts.words.items():
        wanted = rejection_metadata(about.reject_below, name).get(REJECT_BELOW, _NONE)
        said = {ABOUT: wanted, name: words.get(REJECT_BELOW, _NONE)}
        found += _differing(f"{REJECT_BELOW} in the metadata", said)
    for key in ("preprocessing", "framing", PIXEL_SCALE):
        said = {name: words.get(key, _NONE) for name, words in parts.words.items()}
        found += _differing(f"{key} in the metadata", said)
    return found


def _golden(parts: _Parts) -> list[str]:
    pixels = writer.read_array(parts.folder, GOLDEN)
    count = len(pixels) if pixels.ndim else 0
    wanted = (parts.about.input_kind, (count, *parts.about.input))
    found = _differing("golden samples", {ABOUT: wanted, GOLDEN: (pixels.dtype.name, pixels.shape)})
    if not count:
        found.append(f"{GOLDEN} has no samples")
    further = map(golden_predictions, parts.about.formats)
    stored = [name for name in further if (parts.folder / name).is_file()]
    for name in (*GOLDEN_PREDICTIONS.values(), *stored):
        predictions = writer.read_array(parts.folder, name)
        said: dict[str, object] = {
            GOLDEN: ("float32", (count, parts.classes)),
            name: (predictions.dtype.name, predictions.shape),
        }
        wrong = _differing("golden predictions", said)
        if not wrong and not ((predictions >= 0) & (predictions <= 1 + 1e-5)).all():
            wrong = [f"{name} has values that are not probabilities"]
        found += wrong
    return found


def _architectures(parts: _Parts) -> list[str]:
    if parts.is_external:
        return []
    found = []
    for name in MODELS:
        path, place = parts.folder / ARCHS[name], ARCHS[name]
        if parts.sealed is not None and place not in parts.sealed.files:
            found.append(f"{MANIFEST} does not list {place}")
            continue
        try:
            arch = writer.read_arch(parts.folder, name)
            said = (arch.file_input, arch.classes, arch.graph.macs)
        except _MALFORMED as error:
            raise manifest.unusable(path, error) from error
        found += _differing(
            "inputs and classes", {ABOUT: (parts.about.input, parts.classes), place: said[:2]}
        )
        found += _differing("front end", {ABOUT: parts.about.front_end, place: arch.front_end})
        if name in parts.files:
            macs = onnx_cost(parts.files[name], 1).macs
            found += _differing("multiply-accumulates", {name: macs, place: said[2]})
    return list(dict.fromkeys(found))


def _about_verdict(parts: _Parts) -> list[str]:
    if parts.verdict is None or parts.sealed is None:
        return []
    about, verdict = parts.about, parts.verdict
    stated = {limit.name: limit.limit for limit in verdict.limits}
    shipped = verdict.shipped_format
    status = overall_status(
        verdict.limits,
        verdict.problems,
        verdict.parity,
        is_run=shipped is None or not shipped.not_run,
    )
    is_compared = verdict.parity is not None
    found = [
        *_differing("file that ships", {MANIFEST: parts.sealed.primary, VERDICT: verdict.primary}),
        *_differing("limits", {ABOUT: about.limits.stated, VERDICT: stated}),
        *_differing("format that ships", {ABOUT: about.ship, VERDICT: verdict.ship}),
        *_differing("board", {ABOUT: about.board, VERDICT: verdict.board and verdict.board.board}),
        *_differing("--prefer", {ABOUT: about.prefer, VERDICT: verdict.prefer}),
        *_differing("class weights", {ABOUT: about.balanced, VERDICT: verdict.balanced}),
        *_differing("verdict", {"its limits and problems": status, VERDICT: verdict.status}),
        *_differing("parity", {ABOUT: not parts.is_external, VERDICT: is_compared}),
        *_differing("drops", {"an artifact": sorted(_DROPS), VERDICT: sorted(verdict.drops)}),
    ]
    for name, figures in (
        (INT8, verdict.int8),
        (FLOAT, verdict.float32),
        (REFERENCE, verdict.reference),
    ):
        if figures is None:
            return [*found, f"{VERDICT} has no figures of {name}"]
        found += _figures(parts, name, figures)
    found += _formats(parts, verdict)
    judged = FLOAT if verdict.primary == "float" else INT8
    said = None if verdict.rejection is None else verdict.rejection.below
    wanted = {ABOUT: about.reject_below.get(judged), VERDICT: said}
    found += _differing("threshold of rejection", wanted)
    counts = {f"{VERDICT}, {name}": drop.n for name, drop in verdict.drops.items()}
    whole: dict[str, object] = {}
    further = (one.metrics for one in verdict.formats)
    for one in (verdict.int8, verdict.float32, verdict.reference, *further):
        if one is not None:
            counts[f"{VERDICT}, {one.file}"] = one.n_samples
            whole[f"{VERDICT}, {one.file}"] = one.recordings and one.recordings.n_recordings
    found += _differing("test recordings", whole)
    has_recordings = any(count is not None for count in whole.values())
    on = "recordings" if has_recordings and about.judge != "windows" else "samples"
    found += _differing("what limits apply to", {ABOUT: on, VERDICT: verdict.limits_on})
    of_recordings = {name: drop.n for name, drop in verdict.recording_drops.items()}
    if of_recordings:
        names = {"an artifact": sorted(_DROPS), VERDICT: sorted(of_recordings)}
        found += _differing("drops of recordings", names)
        found += _differing("recordings of drops", whole | of_recordings)
    predictions = writer.read_array(parts.folder, REFERENCE_PREDICTIONS)
    found += _differing("test samples", {REFERENCE_PREDICTIONS: len(predictions)} | counts)
    found += _predictions(predictions, parts.classes)
    return found + _judgements(verdict)


def _figures(parts: _Parts, name: str, figures: FileMetrics) -> list[str]:
    """What the verdict says of a file against the file."""
    assert parts.sealed is not None
    model = parts.about.latency if name == INT8 else None
    target = figures.target_latency
    said = {
        "name": (name, figures.file),
        "sha256": (parts.sealed.files[name].sha256, figures.sha256),
        "bytes": (parts.sealed.files[name].bytes, figures.size_bytes),
        "target device": (
            model and (model.device, model.basis),
            target and (target.device, target.basis),
        ),
    }
    if name in parts.files:
        cost = onnx_cost(parts.files[name], 1)
        said["multiply-accumulates"] = (cost.macs, figures.macs)
        said["bytes of weights"] = (cost.weight_bytes, figures.weight_bytes)
    return [
        line
        for what, (wanted, value) in said.items()
        for line in _differing(what, {name: wanted, VERDICT: value})
    ]


def _format_files(parts: _Parts) -> list[str]:
    """Files of further formats that are not listed, or lie where a format has none."""
    listed = None if parts.sealed is None else parts.sealed.files
    found = list[str]()
    for name, paths in parts.about.formats.items():
        if not paths or name == ONNX or not name.isidentifier():
            found.append(f"{ABOUT} names the format {name!r}, with {len(paths)} files")
        for path in paths:
            if not manifest.is_format_path(name, path):
                found.append(f"{ABOUT} names {path!r} as a file of the format {name}")
            elif listed is not None and path not in listed:
                found.append(f"{MANIFEST} does not list {path}, a file of the format {name}")
    return found


def _formats(parts: _Parts, verdict: Verdict) -> list[str]:
    """What the verdict says of further formats against their files."""
    assert parts.sealed is not None
    about, files = parts.about, parts.sealed.files
    names = {ABOUT: list(about.formats), VERDICT: [one.name for one in verdict.formats]}
    found = _differing("formats", names)
    for one in () if found else verdict.formats:
        paths = about.formats[one.name]
        wanted = (paths[0], files[paths[0]].sha256, sum(files[path].bytes for path in paths))
        said = {one.name: wanted, VERDICT: (one.file, one.sha256, one.file_bytes)}
        found += _differing("path, sha256 and bytes", said)
        is_run = not one.not_run
        found += _differing(
            f"whether {one.name} was run",
            {"not_run": is_run, "metrics": one.metrics is not None},
        )
        if one.metrics is not None:
            own = {one.name: wanted[:2], VERDICT: (one.metrics.file, one.metrics.sha256)}
            found += _differing("path and sha256", own)
    return found


def _predictions(predictions: np.ndarray, classes: int) -> list[str]:
    kind = (predictions.dtype.name, predictions.ndim)
    found = _differing(
        "reference predictions", {"classes": ("int64", 1), REFERENCE_PREDICTIONS: kind}
    )
    if not found and not ((predictions >= 0) & (predictions < classes)).all():
        found = [f"{REFERENCE_PREDICTIONS} names classes that the artifact does not have"]
    return found


def _device(parts: _Parts) -> list[str]:
    """The program for devices, which users run, against that of this version of lepton."""
    if parts.sealed is None or parts.sealed.lepton != __version__:
        return []
    listed = parts.sealed.files.get(DEVICE)
    if listed is None:  # Written by this version before it had such a program.
        return []
    content = untrusted_files.read_bytes(
        parts.folder / DEVICE, untrusted_files.TEXT, fix=manifest.FRESH
    )
    same = content == writer.device_program()
    return [] if same else [f"{DEVICE} is another program than that of lepton {__version__}"]


def _card(parts: _Parts) -> list[str]:
    """The model card against the documents, from which this version of lepton wrote it."""
    if parts.verdict is None or parts.sealed is None or parts.sealed.lepton != __version__:
        return []
    text = untrusted_files.read_text(parts.folder / CARD, fix=manifest.FRESH)
    wanted = card(parts.verdict, parts.about)
    if text == wanted:
        return []
    lines = zip_longest(wanted.split("\n"), text.split("\n"), fillvalue="")
    line, first, second = next((n, a, b) for n, (a, b) in enumerate(lines, 1) if a != b)
    what = f"line {line} of the model card"
    return _differing(what, {f"{ABOUT} and {VERDICT}": repr(first), CARD: repr(second)})


def _bill_of_materials(parts: _Parts) -> list[str]:
    """The bill of materials against the documents that this version of lepton wrote it from."""
    if parts.verdict is None or parts.sealed is None or parts.sealed.lepton != __version__:
        return []
    if SBOM not in parts.sealed.files:  # Written by this version before it had one.
        return []
    text = untrusted_files.read_text(parts.folder / SBOM, fix=manifest.FRESH)
    wanted = bill_of_materials(
        parts.verdict, parts.about, parts.sealed.digests, libraries_in(json.loads(text))
    )
    return [] if text == wanted else [f"{SBOM} does not say what {ABOUT} and {VERDICT} say"]


def _judgements(verdict: Verdict) -> list[str]:
    """Limits on exact figures against the figures of the file that ships."""
    found, shipped = list[str](), verdict.shipped
    if shipped is None:
        return found
    for limit in verdict.limits:
        measured = None if limit.interval is not None else LIMITS[limit.name].measured(shipped)
        if measured is None:
            continue
        said = (measured, "holds" if measured <= limit.limit else "broken")
        found += _differing(
            limit.name, {"the file that ships": said, VERDICT: (limit.measured, limit.status)}
        )
    return found
