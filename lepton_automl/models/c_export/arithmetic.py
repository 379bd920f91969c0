"""Constants under which C in whole numbers gives the bytes of ONNX Runtime's float arithmetic.

What has one byte as input is a table. An addition has 65,536 pairs of inputs, all of which are
compared while its constants are chosen. ONNX Runtime means its kernels for x86-64 with AVX2 and
FMA; those for ARM64 round some halves in additions otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_automl.models.graph import GateKind

_NEIGHBOURS = 12
"""Whole factors on either side of the rounded ones that are tried."""
SIXTH = np.float32(6) * np.float32(1 / 255)
"""Step of clip(x + 3, 0, 6) in a hard sigmoid, whose output has steps of 1/255."""


@dataclass(frozen=True)
class Quantized:
    """Scale (float32) and zero point of a feature map."""

    scale: np.float32
    zero: int


@dataclass(frozen=True)
class WholeAddition:
    """(a * factor_a + b * factor_b + offset) / 2^shift - base, rounded down.

    Halves are met to even where `ties` is 2^shift - 1 and not 2^32 - 1.
    """

    factor_a: int
    factor_b: int
    offset: int
    ties: int
    shift: int
    base: int

    def __call__(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes of pairs of bytes."""
        total = a * self.factor_a + b * self.factor_b + self.offset
        whole = total >> self.shift
        whole &= ~(total & self.ties == 0).astype(np.int64)
        return np.asarray(np.clip(whole - self.base, 0, 255), np.int64)


@dataclass(frozen=True)
class FloatAddition:
    """a * factor_a + (b * factor_b + offset), each step rounded to float32 once."""

    factor_a: np.float32
    factor_b: np.float32
    offset: np.float32

    def __call__(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes of pairs of bytes."""
        steps = np.rint(_fused(a, self.factor_a, _fused(b, self.factor_b, self.offset)))
        return np.asarray(np.clip(steps, 0, 255), np.int64)


def float_addition(a: Quantized, b: Quantized, y: Quantized) -> FloatAddition:
    """The arithmetic of ONNX Runtime (qladd_avx2.cpp)."""
    factor_a, factor_b = np.float32(a.scale / y.scale), np.float32(b.scale / y.scale)
    zeros = _fused(np.int64(a.zero), factor_a, factor_b * np.float32(b.zero))
    return FloatAddition(factor_a, factor_b, np.float32(np.float32(y.zero) - zeros))


def whole_addition(exact: FloatAddition) -> WholeAddition | None:
    """Constants that give the same bytes for all pairs, None if none are found."""
    low = np.arange(256, dtype=np.int64)
    a, b = np.repeat(low, 256), np.tile(low, 256)
    wanted = exact(a, b)
    real_a, real_b, offset = map(float, (exact.factor_a, exact.factor_b, exact.offset))
    base = max(0, int(np.ceil(-offset)) + 2) // 2 * 2  # Even, so that ties stay to even.
    top = 255 * (real_a + real_b) + offset + base + 2
    shift = 31 - int(np.floor(np.log2(top)))
    if not 8 <= shift <= 31:
        return None
    unit = 1 << shift
    near_a, near_b = round(real_a * unit), round(real_b * unit)
    half = round((offset + base + 0.5) * unit)
    even = WholeAddition(near_a, near_b, half, unit - 1, shift, base)
    if np.array_equal(even(a, b), wanted):
        return even
    inner = (wanted > 0, wanted < 255)
    for distance in range(_NEIGHBOURS + 1):
        for step_a, step_b in _ring(distance):
            product = a * (near_a + step_a) + b * (near_b + step_b)
            # Pairs above 0 need at least their byte, pairs below 255 less than the next one.
            least = ((wanted + base) * unit - product)[inner[0]].max(initial=0)
            most = ((wanted + base + 1) * unit - 1 - product)[inner[1]].min(initial=1 << 32)
            if least <= most and (found := int((least + most) // 2)) >= 0:
                chosen = WholeAddition(
                    near_a + step_a, near_b + step_b, found, (1 << 32) - 1, shift, base
                )
                largest = 255 * (chosen.factor_a + chosen.factor_b) + found
                if largest < 1 << 32 and np.array_equal(chosen(a, b), wanted):
                    return chosen
    return None


def _ring(distance: int) -> list[tuple[int, int]]:
    """Pairs of whole numbers of which the larger magnitude is `distance`."""
    span = range(-distance, distance + 1)
    return [(i, j) for i in span for j in span if max(abs(i), abs(j)) == distance]


def gate_table(kind: GateKind, x: Quantized, y: Quantized) -> NDArray[np.uint8]:
    """Byte of a gate for each byte of its input."""
    bytes_ = np.arange(256, dtype=np.int64)
    if kind == "hard_sigmoid":  # Written as clip(x + 3, 0, 6) in 255 steps.
        six = Quantized(SIXTH, 0)
        three = Quantized(np.float32(3), 0)
        return np.asarray(float_addition(x, three, six)(bytes_, np.ones_like(bytes_)), np.uint8)
    real = (bytes_ - x.zero).astype(np.float64) * float(x.scale)
    with np.errstate(over="ignore"):
        steps = np.rint(1 / (1 + np.exp(-real)) / float(y.scale)) + y.zero
    return np.asarray(np.clip(steps, 0, 255), np.uint8)


def product_factor(x: Quantized, gate: Quantized, y: Quantized) -> np.float32:
    """Factor of a product of two feature maps."""
    return np.float32(np.float32(x.scale * gate.scale) / y.scale)


def swish_table(kind: GateKind, x: Quantized, gate: Quantized, y: Quantized) -> NDArray[np.uint8]:
    """Byte of x * gate(x) for each byte x."""
    table = gate_table(kind, x, gate).astype(np.int64)
    whole = (np.arange(256) - x.zero) * (table - gate.zero)
    product = whole.astype(np.float32) * product_factor(x, gate, y)
    return np.asarray(np.clip(np.rint(product + np.float32(y.zero)), 0, 255), np.uint8)


def _fused(
    q: NDArray[np.int64] | np.int64, factor: np.float32, rest: NDArray[np.float32] | np.float32
) -> NDArray[np.float32]:
    """Fused multiply-add of float32: the product is exact in float64."""
    return np.asarray(np.asarray(q, np.float64) * float(factor) + rest, np.float32)
