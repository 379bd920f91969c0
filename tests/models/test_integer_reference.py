from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lepton_automl.compress.quantization.calibration import calibrate
from lepton_automl.compress.quantization.equalization import fold_batchnorm
from lepton_automl.compress.quantization.rounding import quantize
from lepton_automl.errors import ArchError
from lepton_automl.models.arch import chain
from lepton_automl.models.integer_reference import integer_reference, with_last_quantized_output
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.onnx_export import float_onnx, int8_onnx
from lepton_automl.models.onnx_file import OnnxWriter, open_session
from lepton_automl.models.random_weights import random_int8_onnx
from tests.helpers.nets import random_arch, random_model, random_pixels

ANY = ("relu", "relu6", "hswish", "silu", "none")
LABELS = list("01234")


def half_even(x: Fraction) -> int:
    return round(x)  # Python rounds halves of a Fraction to even


def one_operator(build, zero_point=20) -> bytes:
    """A file around one operator on the 2x2 pixels, dequantized by scale 1/2, zero point 10."""
    write = OnnxWriter()
    pixels = write.node("Transpose", "pixels", perm=[0, 3, 1, 2])
    x = write.node(
        "DequantizeLinear", pixels, write.constant(np.float32(0.5)), write.constant(np.uint8(10))
    )
    scale, zero = write.constant(np.float32(0.25)), write.constant(np.uint8(zero_point))
    q = write.node("QuantizeLinear", build(write, x), scale, zero)
    flat = write.node("DequantizeLinear", write.node("Flatten", q), scale, zero)
    eye = write.node(
        "DequantizeLinear",
        write.constant(np.eye(4, dtype=np.int8)),
        write.constant(np.ones(4, np.float32)),
        write.constant(np.zeros(4, np.int8)),
        axis=0,
    )
    bias = write.node(
        "DequantizeLinear",
        write.constant(np.zeros(4, np.int32)),
        write.constant(np.full(4, 0.25, np.float32)),
        axis=0,
    )
    logits = write.node("Gemm", flat, eye, bias, transB=1)
    write.node("Softmax", logits, output="probabilities", axis=1)
    return write.file((2, 2, 1), 4, {})


def eighth(write: OnnxWriter) -> str:
    scale, zero = write.constant(np.float32(0.125)), write.constant(np.uint8(0))
    return write.node("DequantizeLinear", write.constant(np.uint8(1)), scale, zero)


BYTES = np.array([0, 9, 12, 11, 32, 120, 252, 255], np.uint8).reshape(2, 2, 2, 1)
OPERATORS = {
    "Add": (lambda w, x: w.node("Add", x, x), lambda v: 2 * v),
    "Mul": (lambda w, x: w.node("Mul", x, x), lambda v: v * v),
    "Mul by an eighth": (lambda w, x: w.node("Mul", x, eighth(w)), lambda v: v / 8),
    "Sigmoid": (
        lambda w, x: w.node("Sigmoid", x),
        lambda v: Fraction(1 / (1 + math.exp(-v))),
    ),
    "HardSigmoid": (
        lambda w, x: w.node("HardSigmoid", x, alpha=0.125, beta=0.5),
        lambda v: min(max(v / 8 + Fraction(1, 2), Fraction(0)), Fraction(1)),
    ),
}


@pytest.mark.parametrize("kind", OPERATORS)
def test_an_operator_of_one_element_is_exact_arithmetic_rounded_half_to_even(kind):
    build, exact = OPERATORS[kind]
    found = integer_reference(one_operator(build)).run(BYTES).last_quantized
    for byte, stored in zip(BYTES.ravel(), found.ravel(), strict=True):
        real = Fraction(int(byte) - 10, 2)
        expected = min(max(half_even(Fraction(exact(real)) * 4) + 20, 0), 255)
        assert int(stored) == expected


def test_a_product_is_rounded_after_an_odd_zero_point_is_added():
    build, exact = OPERATORS["Mul by an eighth"]
    file = one_operator(build, zero_point=21)
    found = integer_reference(file).run(BYTES).last_quantized
    expected = [
        min(max(half_even(exact(Fraction(int(byte) - 10, 2)) * 4 + 21), 0), 255)
        for byte in BYTES.ravel()
    ]
    assert found.ravel().tolist() == expected
    _, stored = open_session(with_last_quantized_output(file)).run(None, {"pixels": BYTES})
    np.testing.assert_array_equal(stored, found)


def test_logits_are_accumulators_times_scales():
    arch = chain((8, 8, 1), [Stem(4), Head()], 5)
    found = integer_reference(random_int8_onnx(arch, 64)).run(random_pixels(arch, 3).numpy())
    powers = np.exp(found.logits.astype(np.float64))
    np.testing.assert_allclose(found.probabilities, powers / powers.sum(1, keepdims=True), 1e-6)


def test_a_mean_is_exact_arithmetic():
    write = OnnxWriter()
    pixels = write.node("Transpose", "pixels", perm=[0, 3, 1, 2])
    half, ten = write.constant(np.float32(0.5)), write.constant(np.uint8(10))
    x = write.node("DequantizeLinear", pixels, half, ten)
    mean = write.node("GlobalAveragePool", x)
    quarter, twenty = write.constant(np.float32(0.25)), write.constant(np.uint8(20))
    write.node("QuantizeLinear", mean, quarter, twenty, output="probabilities")
    file = write.file((2, 2, 1), 1, {})
    found = integer_reference(file).run(BYTES).last_quantized
    for picture, stored in zip(BYTES, found.ravel(), strict=True):
        real = Fraction(int(picture.astype(int).sum()) - 40, 8)
        assert int(stored) == min(max(half_even(real * 4) + 20, 0), 255)


def convolved(x, weight, bias, stride, pad, groups):
    """A convolution of integers by loops, as a schoolbook has it."""
    n, _, height, width = x.shape
    out, fan_in, kernel, _ = weight.shape
    rows, columns = ((size + 2 * pad - kernel) // stride + 1 for size in (height, width))
    y = np.zeros((n, out, rows, columns), object)
    for index in np.ndindex(*y.shape):
        picture, o, r, c = index
        total = int(bias[o])
        for i, dr, dc in np.ndindex(fan_in, kernel, kernel):
            row, column = r * stride + dr - pad, c * stride + dc - pad
            if 0 <= row < height and 0 <= column < width:
                channel = o if groups > 1 else i
                total += int(x[picture, channel, row, column]) * int(weight[o, i, dr, dc])
        y[index] = total
    return y


@pytest.mark.parametrize("layer", ["conv", "sepconv"])
def test_convolutions_are_exact_sums_of_products(layer):
    arch = random_arch(2, input=(5, 6, 3), layers=(layer,), activations=("none",))
    model = onnx.ModelProto.FromString(random_int8_onnx(arch, 127, 3))
    stored = [n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {n.output[0]: n for n in model.graph.node}
    # Cut the file after each convolution; the one before gives its input.
    pixels = random_pixels(arch, 2).numpy()
    before, seen = pixels.transpose(0, 3, 1, 2), 0
    for name in stored:
        conv = makers[makers[name].input[0]]
        if conv.op_type != "Conv":
            break
        x, weight, bias = (makers[of].input for of in conv.input)
        more = {a.name: onnx.helper.get_attribute_value(a) for a in conv.attribute}
        total = convolved(
            before.astype(int) - int(constants[x[2]]),
            constants[weight[0]],
            constants[bias[0]],
            more.get("strides", [1])[0],
            more.get("pads", [0])[0],
            more.get("group", 1),
        )
        scale, zero_point = (constants[of] for of in makers[name].input[1:])
        ratio = (constants[bias[1]] / scale).astype(np.float32).reshape(-1, 1, 1)
        exact = np.rint(total.astype(np.float32) * ratio) + int(zero_point)
        shorter = onnx.ModelProto.FromString(model.SerializeToString())
        position = [n.output[0] for n in shorter.graph.node].index(name)
        del shorter.graph.node[position + 1 :]
        shorter.graph.output[0].name = name
        before = integer_reference(shorter.SerializeToString()).run(pixels).last_quantized
        np.testing.assert_array_equal(before, np.clip(exact, 0, 255))
        seen += 1
    assert seen >= 2


@pytest.mark.parametrize("seed", range(6))
def test_trained_like_weights_give_what_onnx_runtime_gives(seed):
    arch = random_arch(seed + 60, activations=ANY)
    model = fold_batchnorm(random_model(arch, seed))
    pixels = random_pixels(arch, 48, seed)
    file = int8_onnx(quantize(model, calibrate(model, pixels), 64), LABELS, {})
    expected = integer_reference(file).run(pixels.numpy())
    _, stored = open_session(with_last_quantized_output(file)).run(None, {"pixels": pixels.numpy()})
    assert np.abs(stored.astype(int) - expected.last_quantized).max() <= 1
    shipped = open_session(file).run(None, {"pixels": pixels.numpy()})[0]
    np.testing.assert_allclose(shipped, expected.probabilities, atol=0.02)


def test_calling_the_reference_gives_probabilities():
    arch = chain((8, 8, 1), [Stem(4), Head()], 5)
    reference, pixels = (
        integer_reference(random_int8_onnx(arch, 64)),
        random_pixels(arch, 3).numpy(),
    )
    np.testing.assert_array_equal(reference(pixels), reference.run(pixels).probabilities)
    np.testing.assert_allclose(reference(pixels).sum(1), 1, rtol=1e-6)


def test_a_float_file_is_refused():
    arch = chain((8, 8, 1), [Stem(4), Head()], 5)
    with pytest.raises(ArchError, match="float tensors"):
        integer_reference(float_onnx(random_model(arch), LABELS, {}))(
            random_pixels(arch, 1).numpy()
        )


def test_an_unknown_operator_is_refused():
    file = one_operator(lambda write, x: write.node("Cos", x))
    with pytest.raises(ArchError, match="does not know the operator Cos"):
        integer_reference(file)(BYTES)


def test_a_bias_with_a_scale_of_its_own_is_refused():
    arch = chain((8, 8, 1), [Stem(4), Head()], 5)
    model = onnx.ModelProto.FromString(random_int8_onnx(arch, 64))
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    maker = next(node for node in model.graph.node if node.output[0] == conv.input[2])
    scale = next(t for t in model.graph.initializer if t.name == maker.input[1])
    scale.raw_data = (numpy_helper.to_array(scale) * np.float32(1.01)).tobytes()
    with pytest.raises(ArchError, match="bias"):
        integer_reference(model.SerializeToString())(random_pixels(arch, 1).numpy())


def test_sums_beyond_32_bits_are_refused():
    arch = chain((8, 8, 1), [Stem(4), Head()], 5)
    model = onnx.ModelProto.FromString(random_int8_onnx(arch, 64))
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    maker = next(node for node in model.graph.node if node.output[0] == conv.input[2])
    bias = next(t for t in model.graph.initializer if t.name == maker.input[0])
    bias.raw_data = np.full(4, 2**31 - 1, np.int32).tobytes()
    with pytest.raises(ArchError, match="32 bits"):
        integer_reference(model.SerializeToString())(random_pixels(arch, 8).numpy())
