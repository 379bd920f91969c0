"""Mutants of JSON and TOML: values of other types and sizes, keys lost, doubled, renamed."""

from __future__ import annotations

import copy
import json
import math
import random
import re
import tomllib
from collections.abc import Sequence
from typing import Any

from tests.faults.mutants.content import INTEGERS, TEXTS, Content, mutated_bytes, text_bytes

FLOATS = (0.0, -0.0, 0.5, 1.0, -1.0, 1e-320, 1e300, 1.7e308, math.nan, math.inf, -math.inf)
Path = tuple[Any, ...]


def mutated_json(rng: random.Random, inputs: Sequence[Content]) -> Content:
    """A JSON text with one to four changes; of its bytes in one case of eight."""
    content = rng.choice(inputs)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return mutated_bytes(rng, inputs)
    if rng.random() < 0.12:
        return mutated_bytes(rng, inputs)
    changed = mutated_tree(rng, document)
    text = json.dumps(changed, ensure_ascii=rng.random() < 0.3, indent=rng.choice((None, None, 1)))
    return text_bytes(rng, _odd_text(rng, text) if rng.random() < 0.15 else text)


def mutated_toml(rng: random.Random, inputs: Sequence[Content]) -> Content:
    """A TOML text with one to four changes; of its lines or bytes in some cases."""
    content = rng.choice(inputs)
    chance = rng.random()
    try:
        document = tomllib.loads(content.decode())
    except (ValueError, RecursionError):
        chance = 0.0
    if chance < 0.1:
        return mutated_bytes(rng, inputs)
    if chance < 0.4:
        return text_bytes(rng, _mutated_lines(rng, content.decode("utf-8", "replace")))
    return text_bytes(rng, toml_text(mutated_tree(rng, document)))


def mutated_lines(rng: random.Random, inputs: Sequence[Content]) -> Content:
    """A text whose lines are changed, lost, doubled and moved."""
    content = rng.choice(inputs)
    if rng.random() < 0.2:
        return mutated_bytes(rng, inputs)
    return text_bytes(rng, _mutated_lines(rng, content.decode("utf-8", "replace")))


def mutated_tree(rng: random.Random, document: Any) -> Any:
    """A copy of lists, mappings and values with one to four changes."""
    document = json.loads(json.dumps(document, default=str))
    for _ in range(min(rng.randint(1, 4), rng.randint(1, 4))):
        places = list(_places(document, ()))
        place = rng.choice(places)
        if not place:
            if rng.random() < 0.2:
                return odd_value(rng)
            continue
        parent = _at(document, place[:-1])
        _change(rng, parent, place[-1], document, places)
    return document


def _change(
    rng: random.Random, parent: Any, key: Any, document: Any, places: Sequence[Path]
) -> None:
    chance = rng.random()
    if chance < 0.15:
        del parent[key]
    elif chance < 0.25:
        other = copy.deepcopy(_at(document, rng.choice(places)))
        parent[key] = other
    elif chance < 0.35 and isinstance(parent, dict):
        name = rng.choice((f"{key}s", f"{key}".upper(), rng.choice(TEXTS), "unknown"))
        parent[name] = parent[key] if rng.random() < 0.5 else parent.pop(key)
    elif chance < 0.4 and isinstance(parent, list):
        parent[key:key] = [copy.deepcopy(parent[key])] * rng.choice((1, 2, 100, 3000))
    elif chance < 0.45:
        for _ in range(rng.choice((1, 5, 70, 400))):
            parent[key] = rng.choice(([parent[key]], {"a": parent[key]}))
    elif chance < 0.7:
        parent[key] = _near(rng, parent[key])
    else:
        parent[key] = odd_value(rng)


def _near(rng: random.Random, value: Any) -> Any:
    """A value of the same type, where there is another one."""
    match value:
        case bool():
            return not value
        case int():
            return rng.choice((value + 1, value - 1, -value, value * 2, 0, rng.choice(INTEGERS)))
        case float():
            return rng.choice(
                (
                    value * 2,
                    -value,
                    value / 1e9,
                    int(value) if math.isfinite(value) else 0,
                    rng.choice(FLOATS),
                )
            )
        case str():
            place = rng.randrange(len(value) + 1)
            part = rng.choice(TEXTS)
            return rng.choice(
                (
                    value[:place] + part + value[place:],
                    value[:place],
                    value * 2,
                    part,
                    value.upper(),
                )
            )
        case list():
            return rng.choice((value[::-1], value[:1], [], value * 2, value[1:]))
        case dict():
            return rng.choice(({}, dict(list(value.items())[::-1]), list(value)))
    return odd_value(rng)


def odd_value(rng: random.Random) -> Any:
    """A value of any type."""
    return rng.choice(
        (
            *(None, True, False, [], {}, [None], {"": None}, [[]], [1, "a", None]),
            *(rng.choice(INTEGERS), rng.choice(INTEGERS), rng.choice(FLOATS)),
            *(
                rng.choice(TEXTS),
                rng.choice(TEXTS),
                [rng.choice(TEXTS)],
                [rng.choice(INTEGERS)] * 3,
            ),
            *({rng.choice(TEXTS): rng.choice(INTEGERS)}, 10**400, [0] * 1000),
            *({"low": 1, "high": rng.choice((9, 4000, 10_000, 1 << 40)), "step": 1},),
            list(range(1, 4000)),
        )
    )


def _places(value: Any, path: Path) -> Any:
    yield path
    if len(path) > 60:
        return
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, each in list(inner)[:200]:
        yield from _places(each, (*path, key))


def _at(document: Any, path: Path) -> Any:
    for key in path:
        document = document[key]
    return document


def _odd_text(rng: random.Random, text: str) -> str:
    """A JSON text that no serialiser writes."""
    place = rng.randrange(len(text) + 1)
    keys = re.findall(r'"[^"\\]*":', text)
    return rng.choice(
        (
            text + rng.choice(("x", "{}", ",", "\0", " " * 100, "\n" * 1000)),
            text[:place],
            text.replace("{", "{" + (rng.choice(keys) + "1," if keys else ""), 1),
            text.replace(":", ": " + "[" * 2000, 1),
            re.sub(r"\d+", lambda found: found[0] + "0" * rng.choice((1, 30, 5000)), text, count=1),
            text.replace("}", ",}", 1),
            text.replace('"', "'"),
            "/* a */" + text,
        )
    )


def _mutated_lines(rng: random.Random, text: str) -> str:
    lines = text.split("\n")
    for _ in range(rng.randint(1, 3)):
        place, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        chance = rng.random()
        if chance < 0.2:
            del lines[place]
            lines = lines or [""]
        elif chance < 0.4:
            lines.insert(other, lines[place])
        elif chance < 0.5:
            lines[place], lines[other] = lines[other], lines[place]
        elif chance < 0.7 and "=" in lines[place]:
            lines[place] = f"{lines[place].partition('=')[0]}= {_toml_value(odd_value(rng))}"
        elif chance < 0.8:
            lines[place] = _near(rng, lines[place])
        elif chance < 0.9:
            lines.insert(
                place, rng.choice(("[x]", "[[x]]", "[all]", "a = 1", "a.b.c = 1", "x = {"))
            )
        else:
            lines[place] = rng.choice(TEXTS)
    return "\n".join(lines)


def toml_text(document: Any) -> str:
    """A document as TOML; values that TOML lacks become others."""
    if not isinstance(document, dict):
        return _toml_value(document)
    lines = [f"{_toml_key(k)} = {_toml_value(v)}" for k, v in document.items() if not _is_table(v)]
    for key, value in document.items():
        if _is_table(value):
            for each in value if isinstance(value, list) else [value]:
                head = f"[[{_toml_key(key)}]]" if isinstance(value, list) else f"[{_toml_key(key)}]"
                lines += ["", head]
                lines += [f"{_toml_key(k)} = {_toml_value(v)}" for k, v in each.items()]
    return "\n".join(lines) + "\n"


def _is_table(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(each, dict) for each in value)
    return isinstance(value, dict)


def _toml_key(key: Any) -> str:
    return str(key) if re.fullmatch(r"[\w-]+", str(key), re.ASCII) else json.dumps(str(key))


def _toml_value(value: Any) -> str:
    match value:
        case dict():
            inner = (f"{_toml_key(k)} = {_toml_value(v)}" for k, v in value.items())
            return "{ " + ", ".join(inner) + " }"
        case list():
            return "[" + ", ".join(map(_toml_value, value)) + "]"
        case bool():
            return str(value).lower()
        case float():
            return str(value).replace("e+", "e")
        case None:
            return '""'
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)
