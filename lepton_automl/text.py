"""Escape text from outside where people see it: in a terminal, in Markdown, in SVG and HTML.

File, folder and class names, labels, the content of the user's files and messages of libraries may
hold terminal codes, marks that reverse the reading direction, line breaks and markup. Files that
programs read keep such text as it is.
"""

from __future__ import annotations

import html
import re
import string
from typing import Any

LONGEST = 4096
"""Characters of one text that are shown; the longest path of Linux."""
_CUT = " [...] "
_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_UNSAFE = (
    "\x00-\x1f\x7f-\x9f"  # control characters: C0, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction of writing
    "\u2028\u2029"  # line and paragraph separators
    "\ud800-\udfff"  # lone surrogates: bytes of a file name that are not UTF-8
    "\ufffe\uffff"  # not characters, and not allowed in XML
)
UNSAFE = re.compile(f"[{_UNSAFE}]")
"""A character that `printable` escapes."""
_UNSAFE_IN_LINES = re.compile(f"(?!\n)[{_UNSAFE}]")


def printable(text: str) -> str:
    r"""Show `text` on one line, control and bidirectional characters as escapes such as `\x1b`.

    Printable text of at most `LONGEST` characters is unchanged; the middle of a longer one is left
    out.
    """
    shown = UNSAFE.sub(_escape, text)
    if len(shown) <= LONGEST:
        return shown
    half = (LONGEST - len(_CUT)) // 2
    return shown[:half] + _CUT + shown[-half:]


def printable_lines(text: str) -> str:
    """As `printable` for text of several lines: line breaks stay, and the length is not bounded."""
    return _UNSAFE_IN_LINES.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return _NAMED.get(found[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def encodable(text: str, encoding: str) -> str:
    r"""`text` with characters that `encoding` lacks as escapes such as `\xe9`."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def markup(text: str) -> str:
    """Escape `text` for elements and quoted attributes of HTML and SVG, and make it printable."""
    return html.escape(printable(text))


class Markdown(str):
    """Text that is Markdown already; `markdown` does not escape it again."""

    __slots__ = ()

    def fill(self, **values: object) -> Markdown:
        """Put values into the fields of this text, as `str.format` does, escaped by `markdown`."""
        return Markdown(_Filler().vformat(self, (), values))


class _Filler(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        return markdown(value if isinstance(value, str) else format(value, format_spec))


_MARKS = re.compile(
    r"[\\`*~|<]"
    r"|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # emphasis; not inside of a word
    r"|\](?=[(\[:])|!(?=\[)"  # links and pictures
    r"|&(?=#|\w+;)"  # character references
    r"|:(?=//)|(?<=\bwww)\.|@(?=\w)"  # addresses that renderers turn into links
)
_START = re.compile(r" |[#>]|[-+=](?=[-+= ]|$)|[0-9]{1,9}(?=[.)](?: |$))")
"""What makes a line a block of its own: code, heading, quotation, list, rule."""
_ENTITIES = {"<": "&lt;", "&": "&amp;", ":": "&#58;", ".": "&#46;", "@": "&#64;", " ": "&#32;"}


def markdown(text: str) -> Markdown:
    """Escape `text` so that Markdown with HTML and tables shows it literally, on one line."""
    if isinstance(text, Markdown):
        return text
    escaped = _MARKS.sub(_mark, printable(text))
    if found := _START.match(escaped):
        mark = found[0]
        first = f"{mark}\\" if mark.isdigit() else _ENTITIES.get(mark, f"\\{mark}")
        escaped = first + escaped[found.end() :]
    return Markdown(escaped)


def _mark(found: re.Match[str]) -> str:
    return _ENTITIES.get(found[0], f"\\{found[0]}")


def code(text: str) -> Markdown:
    """`text` as inline code of Markdown, which shows it literally."""
    if not (words := printable(text)):
        return Markdown("")
    fence = "`" * (1 + max(map(len, re.findall("`+", words)), default=0))
    space = " " if "`" in words or words.strip() != words else ""
    return Markdown(f"{fence}{space}{words}{space}{fence}")
