"""Choose the format that ships by its time: `--prefer latency` where no format is named.

The choice needs no label and no test sample: formats have to classify validation samples as the
int8 ONNX file does, and their time is measured beside that file's.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lepton_automl.artifact import measurements
from lepton_automl.artifact.judging import keeps_exact_limits
from lepton_automl.artifact.manifest import INT8
from lepton_automl.config import Limits
from lepton_automl.core import files as durable
from lepton_automl.core.decisions import SHIPPING_FORMAT, Decision
from lepton_automl.core.machine import this_machine
from lepton_automl.core.scratch import scratch_folder
from lepton_automl.cost.cost import file_cost
from lepton_automl.cost.latency import Latencies, Latency, fingerprint, relative_latency
from lepton_automl.data.dataset import LabelledFiles, map_labelled
from lepton_automl.data.sampling import first_balanced
from lepton_automl.errors import DataError
from lepton_automl.models import formats
from lepton_automl.models.format_session import FormatSession
from lepton_automl.models.formats import ONNX, Golden, Sizes, Words
from lepton_automl.models.model import Model
from lepton_automl.models.onnx_export import float_onnx, int8_onnx
from lepton_automl.models.onnx_file import onnx_probabilities
from lepton_automl.runs.ledger import EventKind, Ledger

PARITY_SAMPLES = 512
"""Validation samples that a format must classify as the ONNX file does, at most."""
_GOLDEN_SAMPLES = 16


@dataclass(frozen=True)
class _Found:
    """A format that could ship: its time, or why it cannot."""

    name: str
    latency: Latency | None = None
    """In ratio to the int8 ONNX file; None where it is not taken."""
    why_not: str = ""

    def __str__(self) -> str:
        if self.latency is None:
            return f"{self.name}: {self.why_not}"
        return f"{self.name} takes {_ratio_text(self.latency)} of the time of {INT8}"


def elsewhere(target: str) -> tuple[str, Decision]:
    """The choice where the files are for another device: the ONNX format."""
    seen = f"times on this machine do not say which format is fastest on the target {target}"
    return ONNX, Decision(SHIPPING_FORMAT, ONNX, seen, "assumed", "--ship")


def fastest_format(
    names: Sequence[str],
    int8: Model,
    float_twin: Model,
    class_names: Sequence[str],
    validation: LabelledFiles,
    limits: Limits,
    ledger: Ledger,
) -> tuple[str, Decision]:
    """The format with the shortest call here, and the decision with the times.

    ONNX ships where no other format is shown to be faster than both of its files: the upper end of
    the interval of a format's time has to lie below. A format is not taken if it does not run
    here, classifies validation samples otherwise than it promises, or breaks a limit on size or
    memory.

    Parameters
    ----------
    names : sequence of str
        Formats beside ONNX.
    int8, float_twin : Model
        The net that is written, and the same in float.
    class_names : sequence of str
        One for each class.
    validation : LabelledFiles
        The validation part as files read it.
    limits : Limits
        Those on size and memory apply.
    ledger : Ledger
        Holds the times; those that it has are not measured again.
    """
    pixels, labels = map_labelled(validation)
    samples = np.ascontiguousarray(pixels[np.sort(first_balanced(labels, PARITY_SAMPLES))])
    found = []
    with scratch_folder() as scratch:
        words = Words(tuple(class_names), {})
        expected = onnx_probabilities(int8_onnx(int8, words.class_names, {}), samples)
        golden = Golden(samples[:_GOLDEN_SAMPLES], expected[:_GOLDEN_SAMPLES])
        tried = _Tried(Path(scratch), int8, samples, expected, limits)
        _write(tried.folder, formats.load(ONNX).files(int8, words, golden))
        for name in names:
            digest = _write(tried.folder, formats.load(name).files(int8, words, golden))
            found.append(_measured(tried, name, digest, ledger))
    least = _onnx_ratio(int8, float_twin, limits, ledger)
    shown = [one for one in found if one.latency is not None]
    faster = {
        one.name: one.latency.ratio
        for one in shown
        if one.latency is not None and one.latency.ratio_high < least
    }
    choice = min(faster, key=faster.__getitem__, default=ONNX)
    said = [str(one) for one in found]
    if least < 1.0:
        said.append(f"the float file at least {least:.2f} of it")
    if shown:
        said.append(f"predictions for {len(samples)} validation samples are compared first")
        said += [] if faster else ["no format is shown to be faster than ONNX"]
    option = f"--ship {ONNX}" if faster else "--ship"
    return choice, Decision(SHIPPING_FORMAT, choice, "; ".join(said), "measured", option)


@dataclass(frozen=True)
class _Tried:
    """Written files, and what they are compared by."""

    folder: Path
    net: Model
    samples: NDArray[np.generic]
    expected: NDArray[np.float32]
    """Probabilities (n, classes) by the int8 ONNX file."""
    limits: Limits


def _measured(tried: _Tried, name: str, digest: str, ledger: Ledger) -> _Found:
    kind = formats.load(name)
    if why := kind.missing():
        return _Found(name, why_not=f"not run here, {why}")
    if kind.takes_any_size:
        return _Found(name, why_not="not compared, it resizes pictures too")
    try:
        with FormatSession(name, tried.folder, tried.net.arch.classes) as session:
            predictions = session.predict(tried.samples)
            if problems := kind.beyond_promise(predictions, tried.expected, tried.net):
                return _Found(name, why_not=f"not taken, {problems[0]}")
            if not _keeps_limits(session.sizes, tried.net, tried.limits):
                return _Found(name, why_not="not taken, a limit on size or memory is exceeded")
            key = f"{fingerprint(this_machine())}/{digest}"
            known = ledger.get(EventKind.FORMAT_LATENCY, key)
            if known is None:
                rounds, seconds = measurements.ROUNDS, measurements.SECONDS
                times = session.times(tried.samples[:1], rounds=rounds, seconds=seconds)
                known = dataclasses.asdict(relative_latency(*times))
                ledger.record(EventKind.FORMAT_LATENCY, key, known)
    except DataError as error:
        return _Found(name, why_not=f"not taken, {error.what}")
    return _Found(name, Latency(**known))


def _keeps_limits(sizes: Sizes, net: Model, limits: Limits) -> bool:
    cost = file_cost(net.arch, int8_onnx(net, [""] * net.arch.classes, {}))
    size = sizes.file_bytes if sizes.flash_bytes is None else sizes.flash_bytes
    ram = cost.peak_ram_bytes if sizes.arena_bytes is None else sizes.arena_bytes
    return keeps_exact_limits(
        limits, dataclasses.replace(cost, size_bytes=size, peak_ram_bytes=ram)
    )


def _onnx_ratio(int8: Model, float_twin: Model, limits: Limits, ledger: Ledger) -> float:
    """Least time of an ONNX file that could ship, in ratio to the int8 one's.

    It is below 1 where the float file is shown to be faster.
    """
    names = [""] * int8.arch.classes
    files = {INT8: int8_onnx(int8, names, {}), "float": float_onnx(float_twin, names, {})}
    if not keeps_exact_limits(limits, file_cost(float_twin.arch, files["float"], 4)):
        return 1.0
    keys = {name: hashlib.sha256(file).hexdigest()[:16] for name, file in files.items()}
    latencies = Latencies(ledger)
    kind = EventKind.FILE_LATENCY
    if any(latencies.known(kind, key) is None for key in keys.values()):
        latencies.measure(kind, {keys[name]: file for name, file in files.items()})
    own, other = (latencies.known(kind, keys[name]) for name in (INT8, "float"))
    assert own is not None, "measured before it is read"
    assert other is not None, "measured before it is read"
    return min(1.0, other.ratio_low / own.ratio_high) if other.ratio_high < own.ratio_low else 1.0


def _ratio_text(latency: Latency) -> str:
    return f"{latency.ratio:.2f} [{latency.ratio_low:.2f}, {latency.ratio_high:.2f}]"


def _write(folder: Path, files: Mapping[str, bytes]) -> str:
    """Write files into a folder; a digest of them."""
    digest = hashlib.sha256()
    for path in sorted(files):
        durable.write(folder / path, files[path])
        digest.update(path.encode() + b"\0" + hashlib.sha256(files[path]).digest())
    return digest.hexdigest()[:16]
