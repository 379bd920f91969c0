from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import socket
import time
import tomllib
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_automl.core import untrusted_files as untrusted
from lepton_automl.core.untrusted_files import JSON, MAX_DEPTH, TEXT, FileKind
from lepton_automl.errors import DataError, SpaceError

FIX = "give another file"


def make(kind, path):
    """Something at `path` that is not a regular file."""
    match kind:
        case "a named pipe":
            os.mkfifo(path)
        case "a socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(path))
        case "a folder":
            path.mkdir()
        case "a device":
            path.symlink_to("/dev/zero")
        case "symbolic links":
            path.symlink_to(path)
        case "No such file":
            path.symlink_to(path.parent / "nowhere")
    return path


SPECIAL = (
    "a named pipe",
    "a socket",
    "a folder",
    "a device",
    "symbolic links",
    "No such file",
)


@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files_are_opened(tmp_path, monkeypatch, kind):
    # What waits for a pipe waits for ever, until the suite's limit for a test.
    monkeypatch.chdir(tmp_path)  # The path of a socket has at most 107 characters.
    path = make(kind, Path("x"))
    for read in (untrusted.read_text, untrusted.read_json, untrusted.read_toml):
        with pytest.raises(SpaceError, match=kind) as caught:
            read(path, fix=FIX, error=SpaceError)
        assert caught.value.fix == FIX
        assert str(path) in caught.value.what
    with pytest.raises(DataError, match=kind):
        untrusted.sha256(path, TEXT, fix=FIX)


def test_a_link_to_a_regular_file_is_read(tmp_path):
    (tmp_path / "real").write_text("text")
    (tmp_path / "link").symlink_to("real")
    assert untrusted.read_text(tmp_path / "link", fix=FIX) == "text"
    digest = untrusted.sha256(tmp_path / "link", TEXT, fix=FIX)
    assert digest == hashlib.sha256(b"text").hexdigest()


def test_the_digest_is_that_of_all_bytes_of_a_large_file(tmp_path):
    content = bytes(range(256)) * 20_000
    kind = FileKind("pictures", len(content))
    for last in (b"a", b"b"):
        whole = content[:-1] + last
        (tmp_path / "large").write_bytes(whole)
        digest = untrusted.sha256(tmp_path / "large", kind, fix=FIX)
        assert digest == hashlib.sha256(whole).hexdigest()


def test_a_name_with_nul_is_an_error_not_an_exception(tmp_path):
    with pytest.raises(DataError, match="null byte"):
        untrusted.read_text(tmp_path / "a\0b", fix=FIX)


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # A sparse file: nothing is on the disk.
    tracemalloc.start()
    with pytest.raises(DataError, match=f"{1 << 40} bytes, JSON files of at most {JSON.max_bytes}"):
        untrusted.read_json(path, fix=FIX)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    kind = FileKind("pictures", 4)
    for size, is_read in ((4, True), (5, False)):
        path.write_bytes(b"x" * size)
        if is_read:
            assert untrusted.read_bytes(path, kind, fix=FIX) == b"xxxx"
        else:
            with pytest.raises(DataError, match="5 bytes, pictures of at most 4 bytes"):
                untrusted.read_bytes(path, kind, fix=FIX)


BAD_TEXTS = {
    "UTF-16 or UTF-32": "{}".encode("utf-16"),
    "byte 1 is NUL": b"{\0}",
    r"byte 2 \(0xff\) is not UTF-8": b'{"\xff": 1}',
}
BAD_JSON = {
    **BAD_TEXTS,
    "Expecting": b"",
    "nested deeper than 64": b"[" * 65 + b"]" * 65,
    "nested deeper": b"[" * 100_000,
    "more than 64 bits": b"[1" + b"0" * 20 + b"]",
    "an integer has more than 64 bits": b"1" * 5000,
    "-inf is not finite": b"-1e999",
    "nan is not finite": b'{"a": [NaN]}',
    "'a' stands twice": b'{"b": {"a": 1, "a": 1}}',
    "NUL or a half": b'{"a": "\\u0000"}',
    "half of a surrogate": b'{"\\ud800": 1}',
    "Invalid control": b'"\x01"',
    "Extra data": b"{} {}",
}
BAD_TOML = {
    **BAD_TEXTS,
    "nested deeper than 64": b"a = " + b"[" * 64 + b"]" * 64,
    "nested deeper": b"a = " + b"[" * 900 + b"]" * 900,
    "line 2 has 4001 characters": b"b = 1\n" + b".".join([b"a"] * 2000) + b"=1",
    "more than 64 bits": b"a = 99999999999999999999",
    "has more than 64 bits": b"a = " + b"9" * 1900,
    "inf is not finite": b"a = inf",
    "is a date": b"a = 2020-01-01",
    "or a time": b"a = 10:00:00",
    "Cannot overwrite": b"a = 1\na = 2",
}


@pytest.mark.parametrize(("said", "text"), BAD_JSON.items())
def test_json_that_no_later_step_could_use_is_one_error(tmp_path, said, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(DataError, match=said) as caught:
        untrusted.read_json(tmp_path / "a.json", fix=FIX)
    assert "a.json" in caught.value.what


@pytest.mark.parametrize(("said", "text"), BAD_TOML.items())
def test_toml_that_no_later_step_could_use_is_one_error(tmp_path, said, text):
    (tmp_path / "a.toml").write_bytes(text)
    with pytest.raises(SpaceError, match=said) as caught:
        untrusted.read_toml(tmp_path / "a.toml", fix=FIX, error=SpaceError)
    assert "a.toml" in caught.value.what


@pytest.mark.parametrize(
    ("top", "text", "said"),
    [
        (dict, "[]", "an array, the rule is an object"),
        (list, "{}", "an object, the rule is an array"),
        (dict, "null", "null, the rule"),
        (list, '"a"', "a text, the rule"),
        (list, "1.5", "a number, the rule"),
        (dict, "true", "true or false, the rule"),
    ],
)
def test_a_value_of_another_type_at_the_top_is_refused(top, text, said):
    with pytest.raises(DataError, match=said):
        untrusted.parse_json(text, "it", fix=FIX, top=top)


def test_marks_limits_and_infinities_that_are_allowed_are_read():
    assert untrusted.parse_json(b'\xef\xbb\xbf{"a": 1}', "it", fix=FIX) == {"a": 1}
    assert untrusted.parse_toml("\ufeffa = 1".encode(), "it", fix=FIX) == {"a": 1}
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert untrusted.parse_json(deep, "it", fix=FIX) == json.loads(deep)
    assert untrusted.parse_json("[18446744073709551615, -9223372036854775808]", "it", fix=FIX)
    assert math.isnan(untrusted.parse_json("NaN", "it", fix=FIX, finite=False))
    long = "labels = " + json.dumps("a.b\n" * 2000)
    assert untrusted.parse_toml(long, "it", fix=FIX) == {"labels": "a.b\n" * 2000}


def test_a_key_of_many_parts_takes_no_time():
    lines = b"\n".join(b"k%d." % n + b".".join([b"a"] * 990) + b" = 1" for n in range(40))
    begun = time.process_time()
    with pytest.raises(DataError, match="nested deeper"):
        untrusted.parse_toml(lines, "it", fix=FIX)
    assert time.process_time() - begun < 30


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abcé", max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES, st.booleans())
def test_what_is_written_as_json_is_read_again(value, is_ascii):
    text = json.dumps(value, ensure_ascii=is_ascii).encode()
    assert untrusted.parse_json(text, "it", fix=FIX) == value


PIECES = st.lists(
    st.sampled_from([*"[]{}:,\"'=.#\n -+eE0123456789", "[[", "]]", '"""', "'''", "true", "NaN"])
    | st.sampled_from(["inf", "\\u0000", "\\ud800", "1979-05-27", "07:32:00", "a", "\x00", "é"]),
    max_size=40,
).map("".join)


@given(st.binary(max_size=200) | PIECES.map(str.encode))
def test_any_bytes_are_a_value_or_the_error_asked_for(content):
    for parse, loads in ((untrusted.parse_json, json.loads), (untrusted.parse_toml, tomllib.loads)):
        try:
            value = parse(content, "it", fix=FIX, error=SpaceError)
        except SpaceError as error:
            assert error.what.startswith("it")  # noqa: PT017
            assert error.fix == FIX  # noqa: PT017
        else:
            assert value == loads(content.decode("utf-8-sig"))


@pytest.mark.parametrize(
    "read", [untrusted.read_bytes, functools.partial(untrusted.open_or_read, most=99)]
)
def test_a_file_that_is_read_in_pieces_is_read_whole(tmp_path, monkeypatch, read):
    """As some network file systems answer."""
    path, real = tmp_path / "x", os.read
    path.write_bytes(bytes(range(99)))
    monkeypatch.setattr(os, "read", lambda handle, count: real(handle, min(count, 10)))
    found = read(path, TEXT, fix=FIX)
    content = found if isinstance(found, bytes) else found.read()
    assert content == bytes(range(99))


@pytest.mark.parametrize("content", [b"123", b"12345"])
def test_a_file_whose_size_changes_while_it_is_read_is_refused(tmp_path, monkeypatch, content):
    path, real = tmp_path / "x", os.read
    path.write_bytes(b"1234")

    def read(handle, count):
        path.write_bytes(content)
        return real(handle, count)

    monkeypatch.setattr(os, "read", read)
    with pytest.raises(DataError, match="its size changed from 4 bytes"):
        untrusted.read_bytes(path, TEXT, fix=FIX)


def test_a_large_file_is_opened_only(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    with untrusted.open_or_read(path, TEXT, most=4, fix=FIX) as file:
        assert file.fileno() > 2
        assert file.read() == b"12345"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("-12", -12),
        ("007", 7),
        ("\u0663", 3),
        ("9" * 1000, 10**1000 - 1),
        ("9" * 5000, None),  # Python refuses to convert it.
        ("\xb2", None),  # A digit to str.isdigit, and no number to int.
        ("1.0", None),
        ("1_0", None),
        ("", None),
    ],
)
def test_a_text_is_a_whole_number_or_none(text, wanted):
    assert untrusted.whole_number(text) == wanted
