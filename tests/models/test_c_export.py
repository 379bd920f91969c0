"""C files against the integer reference, compiled as users do, with and without special paths."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cortex_m
from lepton_automl.compress.quantization.calibration import calibrate
from lepton_automl.compress.quantization.equalization import fold_batchnorm
from lepton_automl.compress.quantization.rounding import quantize
from lepton_automl.errors import ArchError
from lepton_automl.models.arch import chain
from lepton_automl.models.c_export import source as writer
from lepton_automl.models.c_export.arithmetic import Quantized, float_addition, whole_addition
from lepton_automl.models.c_export.project import project_files
from lepton_automl.models.c_export.source import c_string, net_source
from lepton_automl.models.formats import Golden, Words
from lepton_automl.models.formats.c import C, CSession
from lepton_automl.models.graph import Add, Gate, GlobalPool, Linear, MaxPool, Mul
from lepton_automl.models.integer_reference import integer_reference
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.residual import Residual
from lepton_automl.models.layers.sepconv import SepConv
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.memory_plan import Swish, plan_memory, steps
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.quantization import Preprocessing, QParams
from lepton_automl.models.random_weights import random_net
from tests.helpers.c_compilers import STRICT
from tests.helpers.nets import random_arch, random_model, random_pixels, random_samples

ANY = ("relu", "relu6", "hswish", "silu", "none")
SHAPES = ((16, 16, 3), (12, 14, 5), (37, 6), (9, 9, 1))
NETS = range(14)
SANITIZED = {
    "gcc": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    # Without its runtime library, which Debian has in a package of its own.
    "clang": ("-fsanitize=undefined", "-fsanitize-trap=undefined"),
}
NAMES = tuple("01234")
GCC = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
MESSY = ('quote " and \\', "line\nbreak */ //", "ä ✓", "??/ %s", "\x00end")


@functools.cache
def net_of(seed):
    """A net of any layers, of random or quantized weights, and samples that it reads."""
    arch = random_arch(seed, input=SHAPES[seed % 4], activations=ANY)
    if seed % 2 or arch.is_signal:
        return random_net(arch, (64, 127)[seed % 3 == 0], seed), random_samples(arch, 10, seed)
    model, pixels = fold_batchnorm(random_model(arch, seed)), random_pixels(arch, 48, seed)
    net = quantize(model, calibrate(model, pixels), 64)
    return net, model.preprocessing.file_input(pixels[:10].numpy())


def exact_logits(net, samples):
    return integer_reference(int8_onnx(net, NAMES, {})).run(samples)


def compiled(folder, command, *rest):
    made = subprocess.run([*command, *rest], cwd=folder, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]


def written(folder, net, samples, logits=None, names=NAMES):
    """Header, source and test of a net in a folder."""
    source = net_source(net, names)
    logits = exact_logits(net, samples).logits if logits is None else logits
    files = {"net.h": source.header, "net.c": source.source} | project_files(samples, logits)
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


@GCC
@pytest.mark.parametrize(
    "options",
    [("-O1", "-DNET_PORTABLE"), ("-O1", "-march=native", "-ffp-contract=fast")],
    ids=["portable", "this machine"],
)
def test_logits_are_bit_for_bit_those_of_the_integer_reference(options, tmp_path):
    """All nets in one library, which works as their names differ."""
    chosen = [seed for seed in NETS if seed % 2 == ("-DNET_PORTABLE" in options)]
    chosen = [*chosen, *(s for s in NETS if s not in chosen and s % 8 == 0)]
    for seed in chosen:
        source = net_source(net_of(seed)[0], NAMES, f"n{seed}")
        (tmp_path / "net.h").write_text(source.header)
        (tmp_path / f"n{seed}.c").write_text(source.source)
        portable = [f"-DN{seed}_PORTABLE"] if "-DNET_PORTABLE" in options else []
        compiled(tmp_path, ["gcc", *STRICT, *options, *portable, "-fPIC", "-c"], f"n{seed}.c")
    compiled(tmp_path, ["gcc", "-shared", "-o", "all.so"], *(f"n{seed}.o" for seed in chosen))
    library, met = ctypes.CDLL(str(tmp_path / "all.so")), set()
    for seed in chosen:
        net, samples = net_of(seed)
        expected, arena_bytes = exact_logits(net, samples), plan_memory(net.arch.graph).size
        met |= {type(step) for step in steps(net.arch.graph)}
        arena = np.full(arena_bytes + 64, 77, np.uint8)
        for n, sample in enumerate(np.ascontiguousarray(samples)):
            before = sample.copy()
            logits, shares = np.zeros((2, 5), np.float32)
            for name, found in (("logits", logits), ("probabilities", shares)):
                call = getattr(library, f"n{seed}_{name}")
                call(pointer(sample), pointer(arena), pointer(found))
            assert logits.tobytes() == expected.logits[n].tobytes(), f"net {seed}"
            np.testing.assert_allclose(shares, expected.probabilities[n], atol=1e-6)
            assert np.array_equal(sample, before), "the input is changed"
        assert (arena[arena_bytes:] == 77).all(), "memory behind the arena is changed"
    assert {Add, Swish, Mul, MaxPool, GlobalPool, Linear, Gate} <= met


@GCC
def test_two_nets_are_one_program_after_the_command_of_the_page(tmp_path):
    """Their arenas begin at odd addresses; samples lie outside of them, or in them."""
    page = (Path(__file__).parents[2] / "docs" / "device-c.md").read_text(encoding="utf-8")
    (command,) = re.findall("^for file in h c;.*$", page, re.MULTILINE)
    seeds = {"cat": 1, "net": 3}
    for seed in seeds.values():  # The second one overwrites the files of the first.
        written(tmp_path, *net_of(seed))
        if seed == seeds["cat"]:
            compiled(tmp_path, ["bash", "-c"], command)
    compiled(tmp_path, ["gcc", *STRICT, "-O1", "-shared", "-fPIC", "-o", "a.so", "net.c"], "cat.c")
    both = '#include "net.h"\n#include "cat.h"\nint sizes[] = {NET_CLASSES, CAT_CLASSES};\n'
    (tmp_path / "both.c").write_text(both)
    compiled(tmp_path, ["gcc", *STRICT, "-fsyntax-only"], "both.c")
    library = ctypes.CDLL(str(tmp_path / "a.so"))
    for name, seed in seeds.items():
        net, samples = net_of(seed)
        plan = plan_memory(net.arch.graph)
        expected = exact_logits(net, samples).logits
        arena, found = np.zeros(plan.size + 1, np.uint8)[1:], np.zeros(5, np.float32)
        assert arena.ctypes.data % 2
        start = plan.offsets[net.arch.graph.input.name]
        for n, sample in enumerate(np.ascontiguousarray(samples)):
            inside = arena[start : start + sample.nbytes]
            for given in (sample, inside):
                inside[:] = sample.view(np.uint8).ravel()
                getattr(library, f"{name}_logits")(pointer(given), pointer(arena), pointer(found))
                assert found.tobytes() == expected[n].tobytes()


@pytest.mark.parametrize("seed", [17, 2], ids=["pictures", "signals"])
@pytest.mark.parametrize("compiler", SANITIZED)
def test_sanitizers_find_nothing_and_the_test_says_pass(compiler, seed, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    written(tmp_path, *net_of(seed))
    for option in ("-DNET_PORTABLE", "-march=native"):
        command = [compiler, *STRICT, *SANITIZED[compiler], "-O0", option]
        compiled(tmp_path, command, "net.c", "test.c", "-o", "program")
        done = subprocess.run([tmp_path / "program"], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("PASS")


def _scale(net):
    op = next(iter(net.arch.graph.weighted_ops)).name
    scales = net.qparams.weight_scales
    return {"weight_scales": scales | {op: scales[op] * np.float32(1.05)}}


def _transposed(net):
    weights = dict(net.qparams.weights)
    name = next(n for n, w in weights.items() if w.ndim == 4 and w.shape[-1] > 1)
    return {"weights": weights | {name: np.ascontiguousarray(weights[name].swapaxes(2, 3))}}


def _swapped_classes(net):
    name = list(net.arch.graph.weighted_ops)[-1].name
    weights = dict(net.qparams.weights)
    return {"weights": weights | {name: np.ascontiguousarray(weights[name][::-1])}}


@GCC
@pytest.mark.parametrize("fault", [_scale, _transposed, _swapped_classes, None])
def test_the_test_says_fail_of_a_wrong_net(fault, tmp_path):
    net, samples = net_of(4)
    expected = exact_logits(net, samples).logits
    if fault is None:  # Another mean of pixels.
        about = net.preprocessing
        other = Preprocessing(about.zero_point + 9, about.scale)
        wrong = dataclasses.replace(net, preprocessing=other)
    else:
        wrong = dataclasses.replace(net, qparams=QParams(**vars(net.qparams) | fault(net)))
    written(tmp_path, wrong, samples, expected)
    compiled(tmp_path, ["gcc", "-std=c99", "-O0", "-o", "program"], "net.c", "test.c")
    done = subprocess.run([tmp_path / "program"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.startswith("FAIL")


@GCC
def test_make_builds_runs_and_the_library_has_the_names_of_the_classes(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    net, samples = net_of(8)
    written(tmp_path, net, samples, names=MESSY)
    before = sorted(tmp_path.iterdir())
    done = subprocess.run(
        ["make", "-s", "CFLAGS=-O1"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (done.stdout[:4], done.stderr) == ("PASS", "")
    assert sorted(tmp_path.iterdir()) == before  # The manifest of an artifact names all its files.
    compiled(tmp_path, ["gcc", *STRICT, "-O0", "-shared", "-fPIC", "-o", "a.so"], "net.c")
    labels = (ctypes.c_char_p * 5).in_dll(ctypes.CDLL(str(tmp_path / "a.so")), "net_labels")
    assert list(labels) == [name.encode().split(b"\0")[0] for name in MESSY]


@pytest.mark.parametrize("text", MESSY)
def test_a_c_string_holds_any_text_without_ending_or_trigraphs(text):
    literal = c_string(text)
    assert re.fullmatch(r'"(?:[ !#-\[\]-~]|\\[0-7]{3})*"', literal)
    assert "?" not in literal
    decoded = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), literal[1:-1])
    assert decoded.encode("latin-1").decode() == text


BYTES = np.arange(256, dtype=np.int64)
PAIRS = np.repeat(BYTES, 256), np.tile(BYTES, 256)


def drawn(seed):
    """Scales and zero points of an addition; some of them make halves common."""
    rng = np.random.default_rng(seed)
    scales = rng.uniform(0.005, 0.05, 3).astype(np.float32)
    if seed % 3 == 0:
        scales = np.float32([1, 1, 2]) * scales[0]
    zeros = rng.integers(0, 256, 3) * (seed % 2)
    return [Quantized(scale, int(zero)) for scale, zero in zip(scales, zeros, strict=True)]


@pytest.mark.parametrize("seed", range(12))
def test_an_addition_in_whole_numbers_is_exact_for_all_pairs_of_bytes(seed):
    a, b, y = drawn(seed)
    exact = float_addition(a, b, y)
    whole = whole_addition(exact)
    assert whole is not None
    # In 32 bits without a sign, as C computes.
    total = 255 * (whole.factor_a + whole.factor_b) + whole.offset
    assert min(whole.factor_a, whole.factor_b, whole.offset) >= 0
    assert total < 2**32
    assert np.array_equal(whole(*PAIRS), exact(*PAIRS))
    real = (PAIRS[0] - a.zero) * float(a.scale) + (PAIRS[1] - b.zero) * float(b.scale)
    assert np.abs(exact(*PAIRS) - np.clip(real / float(y.scale) + y.zero, 0, 255)).max() < 0.5001


@GCC
def test_an_addition_that_whole_numbers_do_not_hold_is_computed_in_double(monkeypatch, tmp_path):
    net = random_net(chain((9, 9, 2), [Stem(8), Residual(8), Head()], 5), 64, 3)
    samples = random_samples(net.arch, 12)
    monkeypatch.setattr(writer, "whole_addition", lambda _: None)
    assert net_source(net, NAMES).float_additions == 1
    as_shipped = ("-O3", "-march=native")  # As files are compiled when they are verified.
    found = CSession(written(tmp_path, net, samples), as_shipped).logits(samples)
    assert found.tobytes() == exact_logits(net, samples).logits.tobytes()


def test_what_c_cannot_hold_is_refused():
    net, _ = net_of(1)
    with pytest.raises(ArchError, match="not quantized"):
        net_source(dataclasses.replace(net, qparams=None), NAMES)
    with pytest.raises(ArchError, match="4 class names for a net with 5"):
        net_source(net, NAMES[:4])
    with pytest.raises(ArchError, match="prefix"):
        net_source(net, NAMES, "9 lives")
    biases = net.qparams.biases
    large = {name: np.full_like(bias, 2**31 - 1) for name, bias in biases.items()}
    with pytest.raises(ArchError, match="32 bits"):
        net_source(
            dataclasses.replace(net, qparams=dataclasses.replace(net.qparams, biases=large)), NAMES
        )


@pytest.mark.skipif(bool(cortex_m.missing()), reason=cortex_m.missing() or "-")
def test_a_cortex_m4_gives_the_same_bytes(tmp_path):
    net, samples = net_of(3)
    written(tmp_path, net, samples)
    found = cortex_m.emulate(tmp_path, "m4", samples, ["-Os"])
    assert found.logits.tobytes() == exact_logits(net, samples).logits.tobytes()
    assert found.instructions > net.arch.graph.macs // 2
    sizes = C().sizes(_artifact(tmp_path, net, samples))
    assert sizes.arena_bytes == plan_memory(net.arch.graph).size
    assert sizes.flash_bytes == found.flash_bytes


@pytest.mark.skipif(bool(cortex_m.missing()), reason=cortex_m.missing() or "-")
@pytest.mark.parametrize("core", ["m4", "m55"])
def test_filters_of_each_channel_give_the_same_bytes_for_any_number_of_channels(tmp_path, core):
    """Of 3, 7 and 6 channels, beyond all borders, with zero points other than 0 and with 0."""
    filters = [
        SepConv(7, kernel=5, stride=2, activation="hswish"),
        SepConv(6, kernel=7, activation="relu"),
        SepConv(4, kernel=3, activation="none"),
    ]
    arch = chain((9, 11, 3), [Stem(3, activation="hswish"), *filters, Head()], len(NAMES))
    net, samples = random_net(arch, 64, 1), random_samples(arch, 6, 1)
    written(tmp_path, net, samples)
    expected = exact_logits(net, samples).logits.tobytes()
    for options in (["-Os"], ["-O0"], ["-O1", "-DNET_PORTABLE"]):
        assert cortex_m.emulate(tmp_path, core, samples, options).logits.tobytes() == expected


@pytest.mark.skipif(bool(cortex_m.missing()), reason=cortex_m.missing() or "-")
@pytest.mark.parametrize("seed", [1, 3])
def test_the_vector_extension_of_a_cortex_m55_gives_the_same_bytes(tmp_path, seed):
    net, samples = net_of(seed)
    written(tmp_path, net, samples)
    expected = exact_logits(net, samples).logits.tobytes()
    counts = []
    for options in (["-O2"], ["-O2", "-DNET_PORTABLE"]):
        found = cortex_m.emulate(tmp_path, "m55", samples, options)
        assert found.logits.tobytes() == expected
        counts.append(found.instructions)
    assert counts[0] < counts[1]  # It is used.


def _artifact(folder: Path, net, samples) -> Path:
    golden = Golden(samples, exact_logits(net, samples).probabilities)
    for path, content in C().files(net, Words(NAMES), golden).items():
        (folder / "artifact" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "artifact" / path).write_bytes(content)
    return folder / "artifact"


def test_projects_of_other_tools_compile_against_stand_ins_of_their_headers(tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    written(tmp_path, *net_of(2))
    (tmp_path / "Arduino.h").write_text(
        "struct { void begin(long); void println(const char *); } Serial; void delay(int);\n"
    )
    for name, text in (("kernel", ""), ("sys/printk", "void printk(const char *, ...);\n")):
        header = tmp_path / "zephyr" / f"{name}.h"
        header.parent.mkdir(exist_ok=True)
        header.write_text(text)
    sketch = ["-x", "c++", "-include", "Arduino.h", "-I", "."]
    compiled(tmp_path, ["g++", "-fsyntax-only", *sketch], "examples/classify/classify.ino")
    compiled(tmp_path, ["gcc", *STRICT, "-fsyntax-only", "-I", "."], "zephyr/main.c")
