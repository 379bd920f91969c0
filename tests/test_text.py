from __future__ import annotations

import unicodedata
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from lepton_automl import text
from lepton_automl.errors import DataError
from lepton_automl.text import LONGEST, Markdown, code, markdown, markup, printable

MARKS = "\\`*_~|<>&;#[]()!:/.@-+= 01ab\n\r\x1b\u202e\u2028\udcff\x9b\t"
ANY = st.text() | st.text(MARKS, max_size=30) | st.text(st.characters(codec=None), max_size=30)
MARKED = st.text(MARKS, max_size=30) | st.sampled_from(
    [
        "# a",
        "1. a",
        "- a",
        "> a",
        "---",
        "    a",
        "a  ",
        "[a]: b",
        "<b>a</b>",
        "![a](b)",
        "&lt;",
        "+",
    ]
)
RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def is_unsafe(char: str) -> bool:
    """As the Unicode database classes it, independent of the list of the product."""
    marks = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return (
        unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"}
        or unicodedata.bidirectional(char) in marks
        or char in "\u200e\u200f\u061c"
    )


def words(shown: str) -> list[str]:
    return shown.split()


def inline(rendered: str) -> list[tuple[str, str]]:
    """Kinds and texts inside the only block of a page."""
    blocks = [token for token in RENDERER.parse(rendered) if token.type == "inline"]
    assert len(blocks) == 1, rendered
    return [(each.type, each.content) for each in blocks[0].children or ()]


def test_every_character_that_unicode_calls_unsafe_is_escaped():
    chars = [chr(code) for code in range(0x11000)]
    escaped = {char for char in chars if printable(char) != char}
    assert escaped == {char for char in chars if is_unsafe(char)} | {"\ufffe", "\uffff"}
    assert printable("a\x1b[31m\n\t\x9b\u202e\udcff") == r"a\x1b[31m\n\t\x9b\u202e\udcff"


@given(ANY)
def test_no_unsafe_character_leaves_and_safe_text_is_unchanged(given_text):
    shown = printable(given_text)
    assert not any(map(is_unsafe, shown))
    assert printable(shown) == shown
    shown.encode()
    lines = text.printable_lines(given_text)
    assert not any(map(is_unsafe, lines.replace("\n", "")))
    if not any(map(is_unsafe, given_text)) and not set(given_text) & {"\ufffe", "\uffff"}:
        assert (shown, lines) == (given_text, given_text)
    for escaped in (markdown(given_text), code(given_text), markup(given_text)):
        assert not any(map(is_unsafe, escaped))


def test_the_length_is_bounded():
    shown = printable("a" * LONGEST + "\x1b" * LONGEST + "b")
    assert LONGEST - 1 <= len(shown) <= LONGEST
    assert (shown[0], shown[-1]) == ("a", "b")
    assert printable("a" * LONGEST) == "a" * LONGEST


@given(MARKED)
def test_markdown_shows_text_literally(given_text):
    if not words(shown := printable(given_text)):
        return
    found = inline(markdown(given_text))
    assert {kind for kind, _ in found} <= {"text", "text_special"}
    assert words("".join(part for _, part in found)) == words(shown)
    in_item = inline(Markdown("- {text}").fill(text=given_text))
    assert words("".join(part for _, part in in_item)) == words(shown)


@given(MARKED)
def test_inline_code_shows_text_literally(given_text):
    shown = printable(given_text)
    if shown:
        ((kind, found),) = inline(Markdown("{code}").fill(code=code(given_text)))
        assert (kind, found) == ("code_inline", shown)
    else:
        assert code(given_text) == ""


@pytest.mark.parametrize("address", ["http://a.b/c", "https://a.b", "www.a.b", "me@a.b", "ftp://a"])
def test_addresses_do_not_become_links(address):
    escaped = markdown(f"see {address}")
    assert address not in escaped
    assert "".join(part for _, part in inline(escaped)) == f"see {address}"


def test_harmless_text_reads_the_same_in_markdown():
    for plain in (
        "98.61 % [96.81, 99.40], one-sided 95 % bound 0.9",
        "-0.5 points; max_size_bytes, größe 8x9 (grey)",
        "Intel(R) Xeon(R) CPU @ 2.10GHz: cats & dogs!",
    ):
        assert markdown(plain) == plain


def test_text_that_is_markdown_already_is_not_escaped_again():
    made = Markdown("**{name}** {code} {number:.1f}").fill(name="a*b", code=code("x"), number=0.25)
    assert made == r"**a\*b** `x` 0.2"
    assert markdown(made) is made


@given(ANY)
def test_an_element_holds_the_text(given_text):
    element = ET.fromstring(f'<a b="{markup(given_text)}">{markup(given_text)}</a>')
    assert (element.text or "", element.attrib["b"]) == (printable(given_text),) * 2


def test_an_error_in_a_traceback_is_printable():
    shown = str(DataError("a\x1b[2J\nb is wrong", fix="for instance\n    c\u202e"))
    assert shown == r"a\x1b[2J\nb is wrong" + "\n  fix: for instance\n    c" + r"\u202e"
