"""What every file format keeps, ours and third parties'; a new one is covered at once.

Nets of random weights, pictures and signals, are written and answered in a child process. A format
whose files cannot be run on this machine is skipped there, with the reason that it gives.
"""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest

from lepton_automl.errors import ArchError, LeptonError
from lepton_automl.models import formats
from lepton_automl.models.format_session import FormatSession
from lepton_automl.models.formats import FileFormat, Golden, Words
from lepton_automl.models.front_end import LogMel
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.onnx_file import onnx_probabilities
from lepton_automl.models.quantization import QParams
from lepton_automl.models.random_weights import random_net
from tests.helpers.nets import random_arch, random_samples

NAMES = formats.names()
SHAPES = {"grey": (12, 12, 1), "colour": (16, 16, 3), "signal": (37, 6), "sound": (600,)}
SEEDS = range(2)
CLASSES = ("a", 'quote " and \\', "line\nbreak */ //", "ä ✓", "*/ int main(void) { for (;;); }")


def made(shape, seed):
    """A net, samples that its files read, and what its ONNX file answers."""
    if len(shape) == 1:
        net, samples = random_sound(shape[0], 24, seed)
    else:
        net = random_net(random_arch(seed, input=shape, activations=ALL), 64, seed)
        samples = random_samples(net.arch, 24, seed)
    expected = onnx_probabilities(int8_onnx(net, CLASSES, {}), samples)
    return net, samples, expected


def random_sound(window, count, seed):
    """A net for sound and recordings of noise, from silent to the loudest."""
    front_end = LogMel(
        8000, window, window, 64, 40, 12, 0.0, 4000.0, 1e3, 0.08, is_centred=bool(seed)
    )
    arch = random_arch(seed, input=front_end.feature_shape, activations=ALL)
    rng = np.random.default_rng(seed)
    loudness = 10 ** rng.uniform(0, 4, (count, 1))
    samples = np.clip(rng.normal(0, 1, (count, window)) * loudness, -32768, 32767)
    samples[0] = 0
    net = random_net(dataclasses.replace(arch, front_end=front_end), 64, seed)
    return net, samples.astype(np.int16)


def written(kind, net, samples, expected):
    golden = Golden(samples[:4], expected[:4])
    try:
        return kind.files(net, Words(CLASSES, {"note": "x"}), golden)
    except ArchError as error:
        pytest.skip(f"it cannot hold this net: {error.what}")


def stored(folder, kind, net, samples, expected):
    """Written files in a folder, beside those of ONNX, with which latency is compared."""
    onnx = formats.load(formats.ONNX)
    for one in (onnx, kind):
        for name, content in written(one, net, samples, expected).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return folder


def answering(name):
    """The format of a name, if its files can be answered here."""
    kind = formats.load(name)
    if kind.missing():
        pytest.skip(f"not run here: {kind.missing()}")
    return kind


ALL = ("relu", "relu6", "hswish", "silu", "none")


def test_onnx_is_the_first_format():
    assert NAMES[0] == "onnx"


@pytest.mark.parametrize("name", NAMES)
def test_a_format_is_one_documented_class_that_says_what_it_promises(name):
    kind = formats.load(name)
    assert type(kind).__mro__[1] is FileFormat
    assert type(kind).__doc__
    assert inspect.getmodule(type(kind)).__doc__
    assert 0 <= kind.max_difference < 0.5
    assert 0.9 <= kind.same_class_share <= 1
    assert 0.999 <= kind.within_share <= 1
    assert isinstance(kind.missing(), str)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_net_gives_the_same_files_and_none_outside_of_its_place(name, shape):
    kind, net = formats.load(name), made(shape, 1)
    files = written(kind, *net)
    assert files == written(formats.load(name), *net)
    assert kind.main in files
    others = {path for other in NAMES if other != name for path in [formats.load(other).main]}
    for path in files:
        parts = path.split("/")
        assert all(part not in ("", ".", "..") for part in parts)
        assert path.startswith("model.") if len(parts) == 1 else parts[0] == name
        assert path not in others


@pytest.mark.parametrize("name", NAMES)
def test_a_net_without_quantization_is_refused(name):
    net, samples, expected = made(SHAPES["grey"], 1)
    float_net = dataclasses.replace(net, qparams=None)
    with pytest.raises(ArchError):
        formats.load(name).files(float_net, Words(CLASSES), Golden(samples, expected))


@pytest.mark.parametrize("name", NAMES)
def test_what_a_format_computes_otherwise_is_said_in_sentences(name):
    kind, (net, *_) = formats.load(name), made(SHAPES["colour"], 1)
    for text in kind.differences(net):
        assert text
        assert "\n" not in text


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_written_files_answer_as_the_onnx_file_within_what_the_format_promises(
    name, shape, seed, tmp_path
):
    kind, (net, samples, expected) = answering(name), made(shape, seed)
    folder = stored(tmp_path, kind, net, samples, expected)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with FormatSession(name, folder, net.arch.classes) as session:
        found = session.predict(samples)
        one = session.predict(samples[3:4])
        assert session.predict(samples[:0]).shape == (0, net.arch.classes)
        own, other = session.times(samples[:1], rounds=2, seconds=0.002)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert found.dtype == np.float32
    assert np.array_equal(one[0], found[3]), "an answer depends on the batch it is in"
    assert kind.beyond_promise(found, expected, net) == ()
    assert len(own) == len(other) == 2
    assert min(own + other) > 0


@pytest.mark.parametrize("name", NAMES)
def test_sizes_count_the_files(name, tmp_path):
    kind, (net, *rest) = answering(name), made(SHAPES["grey"], 1)
    folder = stored(tmp_path, kind, net, *rest)
    files = written(kind, net, *rest)
    with FormatSession(name, folder, net.arch.classes) as session:
        sizes = session.sizes
    assert sizes.file_bytes == sum(map(len, files.values()))
    for known in (sizes.flash_bytes, sizes.arena_bytes):
        assert known is None or known > 0


def _scale(net):
    op = next(iter(net.arch.graph.weighted_ops)).name
    scales = net.qparams.weight_scales
    return {"weight_scales": scales | {op: scales[op] * np.float32(1.05)}}


def _transposed(net):
    weights = dict(net.qparams.weights)
    name = next(n for n, w in weights.items() if w.ndim == 4 and w.shape[-1] > 1)
    return {"weights": weights | {name: np.ascontiguousarray(weights[name].swapaxes(2, 3))}}


def _swapped_classes(net):
    weights = dict(net.qparams.weights)
    name = list(net.arch.graph.weighted_ops)[-1].name
    return {"weights": weights | {name: np.ascontiguousarray(weights[name][::-1])}}


@pytest.mark.parametrize("fault", [_scale, _transposed, _swapped_classes])
@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_export_answers_otherwise(name, fault, tmp_path):
    """What verification rests on: a fault of the writer is seen in the answers."""
    kind, (net, samples, expected) = answering(name), made(SHAPES["colour"], 2)
    wrong = dataclasses.replace(net, qparams=QParams(**vars(net.qparams) | fault(net)))
    folder = stored(tmp_path, kind, wrong, samples, expected)
    with FormatSession(name, folder, net.arch.classes) as session:
        found = session.predict(samples)
    assert kind.beyond_promise(found, expected, net)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_an_error_of_the_data(name, tmp_path):
    kind, (net, *rest) = answering(name), made(SHAPES["grey"], 1)
    folder = stored(tmp_path, kind, net, *rest)
    (folder / kind.main).write_bytes(b"\x00#error no\n" * 9)
    with pytest.raises(LeptonError) as caught, FormatSession(name, folder, 5) as session:
        session.predict(rest[0])
    assert caught.value.exit_code == 3


def test_what_breaks_a_promise_is_counted():
    class Loose(type(formats.load("onnx"))):
        max_difference, within_share, same_class_share = 0.1, 0.99, 0.99

    expected = np.tile(np.float32([0.7, 0.3]), (50, 1))
    found = expected.copy()
    found[0] = 0.3, 0.7
    assert Loose().beyond_promise(found, expected) == ()
    found[1] = 0.3, 0.7
    first, second = Loose().beyond_promise(found, expected)
    assert "2 of 50 samples differ from the ONNX file by more than 0.1" in first
    assert "48 of 50 clear samples" in second
