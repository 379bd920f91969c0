"""C files against ONNX Runtime: bits of logits, emulated Cortex-M cores, latency.

    bench.py c99 exact --inputs 1000000 --nets 24 --out runs/c99.jsonl [ARTIFACT ...]
    bench.py c99 cores [ARTIFACT ...]
    bench.py c99 latency [ARTIFACT ...]
    bench.py c99 sound [ARTIFACT] [--audio WINDOWS.npy]

`exact` compares the logits of random nets of all layer kinds (and of artifacts) bit by bit, every
tenth chunk of inputs also with plain C; it continues what it has written to --out. `cores` emulates
Cortex-M boards with QEMU, with 200 inputs each, 20 of large nets, and prints instructions, flash
and memory. `latency` calls both in turn, one sample at a time. `sound` counts features, logits and
classes of a net for sound that differ from ONNX Runtime's, of recorded windows (int16, n x window,
as RUN/cache/*.audio.npy) or noise, and what the front end adds on emulated cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from benchmarks import cortex_m
from benchmarks.common import append_row, net, parser, print_table, read_rows, spread
from lepton_automl.core.call_times import shortest_call
from lepton_automl.models.arch import Arch, chain
from lepton_automl.models.c_export.log_mel import c_features
from lepton_automl.models.c_export.source import net_source
from lepton_automl.models.formats.c import CSession, c_logits
from lepton_automl.models.front_end import LogMel
from lepton_automl.models.front_end_onnx import compute_features
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.max_pool import MaxPool
from lepton_automl.models.layers.mbconv import MBConv
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.sepconv import SepConv
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.memory_plan import plan_memory
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.onnx_file import open_session
from lepton_automl.models.onnx_read import read_int8
from lepton_automl.models.quantization import QuantizedNet, behind_front_end
from lepton_automl.models.random_weights import random_net

CHUNK = 2_000
PLAIN, PLAIN_EVERY = "plain C", 10
LARGE_MACS = 1_000_000
"""From here on fewer inputs are emulated."""
SECONDS = 0.02
"""Of a block of calls that are timed."""
CLASSES = 10
ACTIVATIONS = ("relu", "relu6", "hswish", "silu", "none")
SHAPES = ((8, 8, 1), (16, 16, 3), (12, 14, 5), (37, 6))
WIDTHS = (4, 5, 8, 12, 16, 24)


@dataclass(frozen=True)
class Subject:
    """A quantized net and its ONNX file."""

    name: str
    net: QuantizedNet
    file: bytes


def main(arguments: list[str]) -> int:
    """Run one of the four."""
    options = parser(__doc__, "c99")
    options.add_argument("what", choices=("exact", "cores", "latency", "sound"))
    options.add_argument("artifacts", nargs="*", type=Path)
    options.add_argument("--inputs", type=int, default=20_000, help="of all nets together")
    options.add_argument("--audio", type=Path, nargs="*", default=[])
    options.add_argument("--nets", type=int, default=24, help="random ones")
    options.add_argument("--rounds", type=int, default=25)
    options.add_argument("--cores", nargs="+", choices=cortex_m.CORES, default=[*cortex_m.CORES])
    options.add_argument("--out", type=Path, default=Path("runs/c99.jsonl"))
    given = options.parse_intermixed_args(arguments)
    kinds: dict[str, Callable[[argparse.Namespace], None]]
    kinds = {"exact": exact, "cores": cores, "latency": latency, "sound": sound}
    kinds[given.what](given)
    return 0


def exact(given: argparse.Namespace) -> None:
    """Compare bits, a chunk of inputs of a net at a time; print what was compared."""
    subjects = [*artifacts(given.artifacts), *random_subjects(given.nets)]
    each = -(-given.inputs // len(subjects))
    done = {(row["net"], row["chunk"]) for row in read_rows(given.out)}
    for subject in subjects:
        chunks = [n for n in range(-(-each // CHUNK)) if (subject.name, n) not in done]
        if not chunks:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            sessions = {
                "this machine": CSession(written(subject, Path(scratch))),
                PLAIN: CSession(Path(scratch), ("-O2", "-DNET_PORTABLE")),
            }
        reference = onnx_logits(subject.file)
        for chunk in chunks:
            samples = inputs(subject.net, CHUNK, chunk)
            expected = bits(reference(samples))
            row: dict[str, Any] = {"net": subject.name, "chunk": chunk, "inputs": CHUNK}
            for path, session in sessions.items():
                if path == PLAIN and chunk % PLAIN_EVERY:
                    continue
                row[path] = int((bits(session.logits(samples)) != expected).any(1).sum())
            append_row(given.out, row)
    rows = read_rows(given.out)
    table = []
    for path in ("this machine", PLAIN):
        of = [row for row in rows if path in row]
        names = {row["net"] for row in of}
        totals = sum(row["inputs"] for row in of), sum(row[path] for row in of)
        table.append((path, len(names), *totals))
    print_table(("path", "nets", "inputs", "inputs whose logits differ in a bit"), table)


def cores(given: argparse.Namespace) -> None:
    """Emulate each net on each core, for size and for speed, with and without special paths."""
    if cortex_m.missing():
        raise SystemExit(cortex_m.missing())
    head = ["net", "MACs", "core", "inputs", "differ", "instructions -Os", "a MAC -Os", "-O2"]
    print_table([*head, "plain C -O2", "flash -Os", "arena"], [])
    for subject in [*artifacts(given.artifacts), *device_subjects()]:
        graph, probabilities = subject.net.arch.graph, set()
        samples = inputs(subject.net, 200 if graph.macs < LARGE_MACS else 20, 0)
        expected = bits(onnx_logits(subject.file)(samples))
        with tempfile.TemporaryDirectory() as scratch:
            folder = written(subject, Path(scratch))
            for core in given.cores:
                found = cortex_m.emulate(folder, core, samples, ["-Os"])
                wrong = int((bits(found.logits) != expected).any(1).sum())
                probabilities.add(found.probabilities.tobytes())
                counts = [found.instructions]
                for options in (["-O2"], ["-O2", "-DNET_PORTABLE"]):
                    other = cortex_m.emulate(folder, core, samples[:2], options)
                    wrong += int((bits(other.logits) != expected[:2]).any(1).sum())
                    counts.append(other.instructions)
                told = [f"{graph.macs:,}", core, len(samples), wrong, f"{counts[0]:,}"]
                told += [f"{count / graph.macs:.2f}" for count in counts]
                told += [f"{found.flash_bytes:,}", f"{plan_memory(graph).size:,}"]
                print(f"| {subject.name} | {' | '.join(map(str, told))} |", flush=True)
        assert len(probabilities) == 1, "probabilities differ between cores"


def latency(given: argparse.Namespace) -> None:
    """Time calls of one sample, in turn; the ratio of the shortest of each round."""
    rows = []
    for subject in [*artifacts(given.artifacts), *host_subjects()]:
        sample = inputs(subject.net, 1, 0)
        session = open_session(subject.file)
        name = session.get_inputs()[0].name
        with tempfile.TemporaryDirectory() as scratch:
            ours = CSession(written(subject, Path(scratch))).prepared(sample)
        calls = (ours, lambda s=session, n=name, x=sample: s.run(None, {n: x}))
        times = [[shortest_call(call, SECONDS) for call in calls] for _ in range(given.rounds)]
        ratios = [c / other for c, other in times]
        best = [1e6 * min(column) for column in zip(*times, strict=True)]
        macs = f"{subject.net.arch.graph.macs / 1e6:.3f}"
        rows.append((subject.name, macs, f"{best[0]:.1f}", f"{best[1]:.1f}", spread(ratios)))
    print_table(("net", "million MACs", "C us", "ONNX Runtime us", "ratio"), rows)


def sound(given: argparse.Namespace) -> None:
    """Count what differs from ONNX Runtime, then emulate with and without the front end."""
    subjects = [*artifacts(given.artifacts)] or [sound_subject()]
    for subject in subjects:
        net, front_end = subject.net, subject.net.arch.front_end
        assert front_end is not None, f"{subject.name} reads no sound"
        found = [np.load(path, mmap_mode="r", allow_pickle=False) for path in given.audio]
        audio = np.concatenate(found or [noise(front_end.window, given.inputs)])
        apart = c_features(front_end, audio).astype(np.int64) - compute_features(front_end, audio)
        is_apart = (apart != 0).any((1, 2, 3))
        expected = onnx_logits(subject.file)(audio)
        with tempfile.TemporaryDirectory() as scratch:
            session = CSession(written(subject, Path(scratch)))
            logits, shares = session.logits(audio), session.predict(audio)
        differs = (bits(logits) != bits(expected)).any(1)
        powers = np.exp(expected - expected.max(1, keepdims=True).astype(np.float64))
        moved = np.abs(shares - powers / powers.sum(1, keepdims=True)).max()
        rows = [
            ("features that differ", f"{np.count_nonzero(apart)} of {apart.size:,}"),
            ("by at most", f"{np.abs(apart).max()} of 255"),
            ("windows with such a feature", f"{is_apart.sum()} of {len(audio):,}"),
            ("logits of other windows that differ in a bit", str(differs[~is_apart].sum())),
            ("other class", str(int((logits.argmax(1) != expected.argmax(1)).sum()))),
            ("largest difference of a probability", f"{moved:.2g}"),
        ]
        print_table((subject.name, str(front_end)), rows)
        if cortex_m.missing():
            continue
        table = []
        behind = Subject(subject.name, behind_front_end(net), subject.file)
        for core in given.cores:
            told: list[Any] = [core]
            for one, samples in (
                (subject, audio[:20]),
                (behind, c_features(front_end, audio[:20])),
            ):
                with tempfile.TemporaryDirectory() as scratch:
                    made = cortex_m.emulate(written(one, Path(scratch)), core, samples, ["-Os"])
                wrong = (bits(made.logits) != bits(c_logits(one.net, samples))).any(1).sum()
                told += [f"{made.instructions:,}", f"{made.flash_bytes:,}", wrong]
            table.append(told)
        head = ["core", "instructions -Os", "flash", "of 20 differ"]
        print_table([*head, *(f"{name}, without the front end" for name in head[1:])], table)


def sound_subject() -> Subject:
    """A net of random weights for a second of sound at 16 kHz."""
    front_end = LogMel(16000, 16000, 8000, 512, 320, 40, 60.0, 8000.0, 1e4, 0.07, is_centred=True)
    layers = [Stem(16, stride=2), SepConv(32, stride=2), SepConv(32), Head()]
    arch = dataclasses.replace(chain(front_end.feature_shape, layers, CLASSES), front_end=front_end)
    return subject_of("a second at 16 kHz", arch)


def noise(window: int, count: int) -> NDArray[np.int16]:
    """Windows of noise from silent to the loudest."""
    rng = np.random.default_rng(0)
    level = 10 ** rng.uniform(0, 4, (count, 1))
    return np.clip(rng.normal(0, 1, (count, window)) * level, -32768, 32767).astype(np.int16)


def artifacts(folders: Sequence[Path]) -> Iterator[Subject]:
    """Nets of artifacts."""
    for folder in folders:
        file = (folder / "model.int8.onnx").read_bytes()
        arch = Arch.from_json((folder / "arch.json").read_text())
        yield Subject(folder.resolve().parent.name, read_int8(file, arch), file)


def random_subjects(count: int) -> Iterator[Subject]:
    """Nets of random layers and weights, from one to four layers beside stem and head."""
    kinds = (Conv, Residual, SepConv, MBConv, MaxPool)
    for seed in range(count):
        rng = np.random.default_rng(seed)
        layers: list[Any] = [Stem(int(rng.choice(WIDTHS)), activation=str(rng.choice(ACTIVATIONS)))]
        for _ in range(rng.integers(1, 5)):
            kind = kinds[(seed + len(layers)) % len(kinds)]
            values: dict[str, Any] = {}
            for name, about in kind.searchable_fields().items():
                options = ACTIVATIONS if name == "activation" else about.get("choices", WIDTHS)
                values[name] = options[rng.integers(len(options))]
            layers.append(kind(**values))
        head = Head(int(rng.choice((0, 16))), activation=str(rng.choice(ACTIVATIONS)))
        arch = chain(SHAPES[seed % len(SHAPES)], [*layers, head], CLASSES)
        yield subject_of(f"random {seed}", arch, seed, (64, 127)[seed % 3 == 0])


def device_subjects() -> Iterator[Subject]:
    """A net for digits and one as for CIFAR-10, of random weights."""
    digits = [Stem(8), Conv(16, stride=2), Conv(16), Head()]
    yield subject_of("8x8 digits", chain((8, 8, 1), digits, CLASSES))
    yield subject_of("32x32 residual", net("half"))
    separable = [Stem(16), SepConv(32, stride=2), SepConv(32), SepConv(64, stride=2), Head()]
    yield subject_of("32x32 separable", chain((32, 32, 3), separable, CLASSES))


def host_subjects() -> Iterator[Subject]:
    """Nets from 0.06 to 17 million multiply-accumulates."""
    yield from device_subjects()
    yield subject_of("28x28 tiny", net("quick"))
    yield subject_of("resnet8", net("resnet8"))
    excited = [Stem(16, activation="hswish"), MBConv(24, stride=2, expand=3, se=4), Head(64)]
    yield subject_of("squeeze", chain((32, 32, 3), excited, CLASSES))
    signal = [Stem(16), SepConv(32, stride=2), Conv(32, stride=2), Head()]
    yield subject_of("signal 128x6", chain((128, 6), signal, CLASSES))
    wide = [Stem(32), Residual(32), Conv(64, stride=2), Residual(64), Head()]
    yield subject_of("32x32 wide", chain((32, 32, 3), wide, CLASSES))


def subject_of(name: str, arch: Arch, seed: int = 0, weight_limit: int = 64) -> Subject:
    """A net of random weights."""
    made = random_net(arch, weight_limit, seed)
    return Subject(name, made, int8_onnx(made, [str(n) for n in range(arch.classes)], {}))


def inputs(net: QuantizedNet, count: int, seed: int) -> NDArray[Any]:
    """What a net reads: smooth values with noise in three of four samples, else any bytes."""
    rng, (rows, columns) = np.random.default_rng(seed), net.arch.size
    shape = (count, rows, columns, net.arch.channels)
    coarse = rng.integers(0, 256, (count, 4, 4, net.arch.channels))
    grid = [np.arange(size) * 4 // size for size in (rows, columns)]
    pixels = 0.75 * coarse[:, grid[0]][:, :, grid[1]] + 0.25 * rng.integers(0, 256, shape)
    pixels[::4] = rng.integers(0, 256, shape)[::4]
    samples = net.preprocessing.file_input(np.rint(pixels).astype(np.uint8))
    return np.ascontiguousarray(samples[:, 0] if net.arch.is_signal else samples)


def onnx_logits(file: bytes) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    """Logits by ONNX Runtime."""
    model = onnx.ModelProto.FromString(file)
    name = model.graph.node[-1].input[0]
    model.graph.output.append(helper.make_tensor_value_info(name, 1, None))
    session = open_session(model.SerializeToString())
    given = session.get_inputs()[0].name

    def logits(samples: NDArray[Any]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run([name], {given: samples})[0]
        return found

    return logits


def written(subject: Subject, folder: Path) -> Path:
    """`net.h` and `net.c` in a folder."""
    source = net_source(subject.net, [str(n) for n in range(subject.net.arch.classes)])
    (folder / "net.h").write_text(source.header)
    (folder / "net.c").write_text(source.source)
    return folder


def bits(logits: NDArray[np.float32]) -> NDArray[np.int32]:
    """Bits of float32 numbers."""
    return np.ascontiguousarray(logits).view(np.int32)
