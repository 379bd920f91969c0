"""Code blocks and command lines of README, CONTRIBUTING and docs/."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES_PAGE = ROOT / "CONTRIBUTING.md"
"""Its examples are executed by tests/e2e/test_newcomer.py."""
PAGES = tuple(
    page
    for page in (
        ROOT / "README.md",
        EXAMPLES_PAGE,
        ROOT / "examples" / "README.md",
        ROOT / "benchmarks" / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
    )
)


def fences(text: str) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def commands() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Page and words of each `lepton ...` command line, in blocks and in inline code.

    Optional parts in brackets are given; comments and a prompt are left out. A command's name alone
    in inline code is no command line.
    """
    for page in PAGES:
        lines = [
            line
            for language, body in fences(page.read_text())
            if language in ("", "sh", "console")
            for line in body.replace("\\\n", " ").splitlines()
        ]
        lines += re.findall(r"`(lepton [a-z]+ [^`]+)`", prose(page).replace("\n", " "))
        for line in lines:
            if re.match(r"(\$ )?lepton [a-z]", line):
                words = shlex.split(re.sub(r"[\[\]]", "", line), comments=True)
                yield page.name, tuple(words[words[0] == "$" :])


def mentioned() -> set[str]:
    """Names of the commands that the pages name or show."""
    inline = (re.findall(r"`lepton ([a-z]+)", prose(page)) for page in PAGES)
    return {name for names in inline for name in names} | {words[1] for _, words in commands()}
