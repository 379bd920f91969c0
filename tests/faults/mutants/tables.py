"""Mutants of tables of text: cells, names, columns, rows, quotation marks, delimiters."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from tests.faults.mutants.content import TEXTS, Content, mutated_bytes, text_bytes
from tests.faults.mutants.trees import mutated_json

NUMBERS = (
    *("nan", "NaN", "inf", "-inf", "1e400", "-1e400", "1e308", "1e38", "1e-400", "0x10", "1_000"),
    *("1,5", "--1", "+", "1e", "\u0661", "00", "-0", "1.0", "9" * 400, "true", "None", " 1 "),
)
NAMES = (
    *("path", "file", "label", "split", "group", "weight", "subject", "session", "recording"),
    *("time", "timestamp", "t", "x", "y", "z", "activity", "class", "id", "", "Unnamed: 0"),
)
_PATHS = (
    *("../outside/secret", "/etc/passwd", "/dev/zero", "http://a/b.png", "cat", ".", "..", "a\\b"),
    *("cat/000.png", "cat/../dog/000.png", "OUTSIDE/secret", "cat/000.csv", "r0.csv", "/r1.csv"),
)


def mutated_table(rng: random.Random, inputs: Sequence[Content]) -> Content:
    """A table with one to four changes; of its bytes in one case of six."""
    content = rng.choice(inputs)
    text = content.decode("utf-8", "replace")
    if rng.random() < 0.16:
        return mutated_bytes(rng, inputs)
    lines = text.split("\n")
    if lines[0].startswith("{"):
        return _mutated_lines(rng, lines)
    delimiter = "\t" if "\t" in lines[0] else ","
    rows = [line.split(delimiter) for line in lines if line][:400]
    for _ in range(min(rng.randint(1, 4), rng.randint(1, 4))):
        rows = _changed(rng, rows)
    text = _joined(rng, rows, delimiter)
    return text_bytes(rng, text)


def _mutated_lines(rng: random.Random, lines: list[str]) -> Content:
    """JSON lines of which some are changed, one may be very deep."""
    made = list(lines)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(made))
        match rng.randrange(5):
            case 0:
                made[place] = rng.choice(("[" * 5000, '{"a":' * 3000, "null", "[1]", '"a"', "{"))
            case 1:
                made[place] = json.dumps({"path": rng.choice(_PATHS), "label": rng.choice(TEXTS)})
            case 2:
                made.insert(place, rng.choice(made))
            case _:
                changed = mutated_json(rng, [(made[place] or "{}").encode("utf-8", "replace")])
                made[place] = changed.decode("utf-8", "replace").replace("\n", " ")
    return text_bytes(rng, "\n".join(made))


def _changed(  # noqa: C901 (a table)
    rng: random.Random, rows: list[list[str]]
) -> list[list[str]]:
    if not rows or not rows[0]:
        return [["path", "label"]]
    made = [list(row) for row in rows]
    row = rng.choice(made)
    column = rng.randrange(len(row)) if row else 0
    match rng.randrange(13):
        case 0 | 1:
            row[column : column + 1] = [rng.choice((*NUMBERS, *TEXTS))]
        case 2:
            row[column : column + 1] = [rng.choice(_PATHS)]
        case 3:
            names = made[0]
            place = rng.randrange(len(names) or 1)
            names[place : place + 1] = [rng.choice((*NAMES, *NAMES, rng.choice(TEXTS)))]
        case 4:
            for each in made:
                if column < len(each):
                    del each[column]
        case 5:
            for each in made:
                each.append(each[column] if column < len(each) else "")
            made[0][-1] = rng.choice(NAMES)
        case 6:
            made.remove(row)
        case 7:
            made += [list(row)] * rng.choice((1, 2, 100))
        case 8:
            rng.shuffle(made)
        case 9:
            other = rng.choice((*NUMBERS, "a", ""))
            for each in made[1:]:
                if column < len(each):
                    each[column] = other
        case 10:
            row.append(rng.choice(("", "1", "a")))
        case 11:
            row[column : column + 1] = [rng.choice(('"', 'a"b', '"a', '""', '"a\nb"', "a\nb"))]
        case 12:
            wide = rng.choice((20, 300, 5000))
            made = [each + [str(n) for n in range(wide)] for each in made[:20]]
    return made


def _joined(rng: random.Random, rows: list[list[str]], delimiter: str) -> str:
    chance = rng.random()
    if chance < 0.12:
        delimiter = rng.choice((";", "|", "\t", " ", ":", "\0"))
    text = "\n".join(delimiter.join(row) for row in rows) + "\n"
    if chance > 0.95:
        place = rng.randrange(len(text))
        text = text[:place] + "7" * rng.choice((1 << 17, 1 << 20, 3 << 20)) + text[place:]
    elif chance > 0.9:
        text = text.replace("\n", rng.choice(("\r\n", "\r", "\n\n", "\x0b", "\u2028")))
    elif chance > 0.85:
        text = rng.choice(("sep=;\n", "\ufeff", "#", "\0", "\n" * 50)) + text
    return text
