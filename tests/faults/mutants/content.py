"""Mutants of any file: bytes changed, moved, lost and doubled, and texts that are often misread."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

Content = bytes
INTEGERS = (
    *(0, 1, 2, 3, 7, 8, 16, 64, 127, 128, 255, 256, 257, 1000, 4095, 4096, 32767, 32768),
    *(65535, 65536, 1 << 20, (1 << 24) - 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32),
    *(1 << 40, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -1, -2, -(1 << 31)),
)
TEXTS = (
    *("", " ", "\n", "a", "0", "-1", "null", "None", "nan", "inf", "1e999", "true", "%s%n", "{}"),
    *("\x1b[31m", "\x1b]0;title\x07", "\x9b2J", "\r", "\b\b", "\u202egnp", "\u2066a\u2069", "\0"),
    *("\u200f", "\x7f", "\ufeff", "\U0001f600", "\ud800", "\udcff", "[red]bold[/red]", "<script>"),
    *("../outside/secret", "../../outside/secret.onnx", "/etc/passwd", "/dev/zero", "/dev/stdin"),
    *("OUTSIDE/secret", "..", ".", "/", "~", "$HOME", "a/b", "CON", "a" * 300, "a" * 5000),
    *("(" * 500, "[" * 3000, "9" * 400, "9" * 5000, "(a+)+$", "a\nb", "`|*_", "\u0661\u0662"),
)
TOKENS = (
    *(b"\0" * 8, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"PK\x05\x06"),
    *(b"\x1b[2J", b"\xe2\x80\xae", b"\xed\xa0\x80", b"\xc0\xaf", b"\x93NUMPY", b"SQLite format 3"),
    *(b"99999999999999999999", b"1e999", b"NaN", b"-1", b"[" * 99, b"{" * 99, b"../outside/secret"),
)


def mutated_bytes(rng: random.Random, inputs: Sequence[Content]) -> Content:
    """One of the inputs with one to six changes of its bytes."""
    body = bytearray(rng.choice(inputs))
    for _ in range(min(rng.randint(1, 6), rng.randint(1, 6))):
        rng.choice(_CHANGES)(rng, body, inputs)
        if not body:
            body = bytearray(rng.randbytes(1))
    return bytes(body)


def _flip(rng: random.Random, body: bytearray, inputs: Sequence[Content]) -> None:
    body[_place(rng, body)] ^= 1 << rng.randrange(8)


def _byte(rng: random.Random, body: bytearray, inputs: Sequence[Content]) -> None:
    body[_place(rng, body)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _number(rng: random.Random, body: bytearray, inputs: Sequence[Content]) -> None:
    code, size = rng.choice((("H", 2), ("I", 4), ("Q", 8)))
    value = rng.choice(INTEGERS) & ((1 << 8 * size) - 1)
    place = _place(rng, body)
    body[place : place + size] = struct.pack(rng.choice("<>") + code, value)


def _step(rng: random.Random, body: bytearray, inputs: Sequence[Content]) -> None:
    place = _place(rng, body)
    body[place] = (body[place] + rng.choice((-2, -1, 1, 2, 16))) % 256


def _cut(rng: random.Random, body: bytearray, inputs: Sequence[Content]) -> None:
    place = _place(rng, body)
    del body[place : place + rng.choice((1, 2, 4, rng.randint(1, 64), len(body)))]


def _doubled(rng: random.Random, body: bytearray, inputs: Sequence[Content]) -> None:
    place, size = _place(rng, body), rng.choice((1, 4, rng.randint(1, 64)))
    body[place:place] = body[place : place + size] * rng.choice((1, 1, 2, 50))


def _moved(rng: random.Random, body: bytearray, inputs: Sequence[Content]) -> None:
    first, second, size = _place(rng, body), _place(rng, body), rng.randint(1, 32)
    body[first : first + size] = body[second : second + size]


def _token(rng: random.Random, body: bytearray, inputs: Sequence[Content]) -> None:
    place, token = _place(rng, body), rng.choice(TOKENS)
    body[place : place + (len(token) if rng.random() < 0.5 else 0)] = token


def _joined(rng: random.Random, body: bytearray, inputs: Sequence[Content]) -> None:
    other = rng.choice(inputs)
    place, start = _place(rng, body), rng.randrange(len(other) or 1)
    body[place:] = other[start:]


def _place(rng: random.Random, body: bytearray) -> int:
    # Headers lie at the beginning, directories at the end.
    if rng.random() < 0.3:
        return rng.randrange(min(len(body), 64))
    if rng.random() < 0.15:
        return len(body) - 1 - rng.randrange(min(len(body), 64))
    return rng.randrange(len(body))


_CHANGES: tuple[Callable[[random.Random, bytearray, Sequence[Content]], None], ...] = (
    *(_flip, _flip, _byte, _number, _number, _step, _cut, _doubled, _moved, _token, _joined),
)


def text_bytes(rng: random.Random, text: str) -> Content:
    """Encode a text, rarely in another way than as UTF-8."""
    content = text.encode("utf-8", "surrogatepass")
    chance = rng.random()
    if chance < 0.9:
        return content
    if chance < 0.92:
        return b"\xef\xbb\xbf" + content
    if chance < 0.94:
        return text.encode(rng.choice(("utf-16", "utf-32", "utf-16-le")), "surrogatepass")
    if chance < 0.96:
        return text.encode("latin-1", "replace")
    return mutated_bytes(rng, [content or b" "])
