"""Further files of artifacts: those of LiteRT and C, signatures, the bill of materials."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from lepton_automl import api
from lepton_automl.artifact.model_card import card
from lepton_automl.artifact.provenance import read_provenance
from lepton_automl.artifact.signature import sign
from lepton_automl.artifact.writer import read_verdict
from lepton_automl.models.litert_export.flatbuffer import LABELS_FILE
from tests.faults.mutants import archives, models, trees
from tests.faults.mutants.arrays import archive_of
from tests.faults.mutants.content import INTEGERS, TEXTS, Content, mutated_bytes, text_bytes
from tests.faults.mutants.engine import Subject
from tests.faults.mutants.places import each_file, fresh, named, one_of, split
from tests.helpers.artifacts import seal_again

HAS_LITERT = find_spec("ai_edge_litert") is not None
_SIGNED = "signed"
_TFLITE = "model.int8.tflite"
_ANY_SIZE = "model.int8.any_size.onnx"
_C_FILES = ("c/net.c", "c/net.h")
_TEXTS = ("verdict.json", "sbom.cdx.json")
"""Files of an artifact that repeat digests of others."""


def _with_format(stage: Path, name: str) -> Path:
    """The artifact of the finished run with a further format; commands read the one beside it."""
    whole = stage / f"{name}-whole"
    if not whole.exists():
        run = stage / f"{name}-run"
        shutil.copytree(stage / "whole", run)
        api.export(run, formats=[name])
        shutil.copytree(run / "artifact", whole)
        shutil.copytree(whole, stage / f"{name}-artifact")
    return whole


def _put(stage: Path, kind: str, name: str, body: Content) -> str:
    """Put a file into the artifact, and its digest wherever that is said; the artifact's name."""
    whole = _with_format(stage, kind)
    folder = fresh(stage / f"{kind}-artifact", whole)
    old, new = (hashlib.sha256(one).hexdigest() for one in ((folder / name).read_bytes(), body))
    (folder / name).write_bytes(body)
    for other in _TEXTS:
        text = (folder / other).read_text()
        if old in text:
            (folder / other).write_text(text.replace(old, new))
    verdict = json.loads((folder / "verdict.json").read_text())
    about = json.loads((folder / "about.json").read_text())
    for figures in verdict["formats"]:
        paths = about["formats"][figures["name"]]
        figures["file_bytes"] = sum((folder / path).stat().st_size for path in paths)
    (folder / "verdict.json").write_text(json.dumps(verdict))
    text = card(read_verdict(folder), read_provenance(folder))
    (folder / "MODEL_CARD.md").write_text(text, encoding="utf-8")
    seal_again(folder)
    return folder.name


def _in_litert(stage: Path, content: Content) -> Sequence[str]:
    folder = _put(stage, "litert", _TFLITE, content)
    bench = ("bench", folder, "--seconds", "0.01", "--threads", "1")
    return one_of(content, bench, (*bench, "--json"), ("verify", folder, "few.npz"))


def _litert_seeds(stage: Path) -> list[Content]:
    return [(_with_format(stage, "litert") / _TFLITE).read_bytes()]


def mutated_litert(rng: random.Random, inputs: Sequence[Content]) -> Content:
    """A `.tflite` file with one to four changed fields, other labels, or changed bytes."""
    whole = rng.choice(inputs)
    chance = rng.random()
    start = whole.find(b"PK\x03\x04")
    if chance < 0.35 or start < 0:
        return mutated_bytes(rng, inputs)
    if chance < 0.5:
        return whole[:start] + archives.mutated_zip(rng, [whole[start:]])
    if chance < 0.6:
        lines = "\n".join(rng.choice((*TEXTS, "0", "1")) for _ in range(rng.randint(0, 12)))
        return whole[:start] + archive_of([(LABELS_FILE, text_bytes(rng, lines))])
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder

    try:
        model = schema.ModelT.InitFromPackedBuf(whole, 0)
        for _ in range(min(rng.randint(1, 4), rng.randint(1, 4))):
            _change(rng, model)
        builder = Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
    except Exception:  # noqa: BLE001 (an input that is damaged itself, or a value of no field)
        return mutated_bytes(rng, inputs)
    return bytes(builder.Output()) + whole[start:]


def _change(rng: random.Random, model: Any) -> None:
    """Change a field of a table somewhere in a model."""
    table, name = model, ""
    for _ in range(rng.randint(2, 9)):
        fields = [key for key, value in vars(table).items() if value is not None]
        name = rng.choice(fields or list(vars(table)))
        value = getattr(table, name)
        if isinstance(value, list) and value and hasattr(value[0], "__dict__"):
            table, name = rng.choice(value[:64]), ""
        elif hasattr(value, "__dict__"):
            table, name = value, ""
        else:
            break
    name = name or rng.choice(list(vars(table)))
    setattr(table, name, _other(rng, getattr(table, name)))


def _other(rng: random.Random, value: Any) -> Any:
    """Another value of the same type."""
    match value:
        case np.ndarray() if value.size:
            changed = value.copy()
            with np.errstate(all="ignore"):
                changed[rng.randrange(value.size)] = np.array(_number(rng)).astype(value.dtype)
            cut = value[: rng.randrange(value.size)]
            return rng.choice((changed, changed, cut, np.concatenate([value, value])))
        case [_, *_]:
            return rng.choice((value[::-1], value[:-1], value + value[:1], []))
        case bool():
            return not value
        case int():
            return rng.choice((value + 1, max(0, value - 1), _number(rng) % 128, _number(rng)))
        case float():
            return rng.choice((0.0, -value, 1e30, float("nan"), float("inf")))
        case bytes() | str():
            return rng.choice(TEXTS)
    return value


def _number(rng: random.Random) -> int:
    number = rng.choice((*INTEGERS, -1, -2, -7, 1 << 30))
    return number if -(1 << 31) <= number < 1 << 31 else (1 << 31) - 1


def _in_any_size(stage: Path, content: Content) -> Sequence[str]:
    folder = _put(stage, "any_size", _ANY_SIZE, content)
    bench = ("bench", folder, "--seconds", "0.01", "--threads", "1")
    predict = ("predict", folder, "one.png", "--format", "any_size")
    return one_of(content, bench, predict, ("verify", folder, "few.npz"))


def _any_size_seeds(stage: Path) -> list[Content]:
    return [(_with_format(stage, "any_size") / _ANY_SIZE).read_bytes()]


def _c_seeds(stage: Path) -> list[Content]:
    return named(*_C_FILES, folder=_with_format(stage, "c").name)(stage)


def _in_c(stage: Path, content: Content) -> Sequence[str]:
    name, body = split(content)
    folder = _put(stage, "c", name if name in _C_FILES else _C_FILES[0], body)
    return one_of(
        content,
        ("bench", folder, "--seconds", "0.01", "--threads", "1"),
        *(("verify", folder, "few.npz"), ("verify", folder, "few.npz", "--json")),
        *(("boards", folder), ("inspect", folder)),
    )


def _bill_seeds(stage: Path) -> list[Content]:
    return [(stage / "whole" / "artifact" / "sbom.cdx.json").read_bytes()]


def _in_bill(stage: Path, content: Content) -> Sequence[str]:
    folder = fresh(stage / "run", stage / "whole") / "artifact"
    (folder / "sbom.cdx.json").write_bytes(content)
    seal_again(folder)
    return one_of(
        content,
        *(("verify", "run/artifact"), ("verify", "run"), ("status", "run")),
        ("status", "run", "--json"),
    )


_SIGNATURE = "manifest.json.sig"
_TRUSTED = ("key.pub", "allowed")


def _signature_seeds(stage: Path) -> list[Content]:
    """A signature, and the key and the allowed signers that it is checked against."""
    place = stage / _SIGNED
    if not place.exists():
        shutil.copytree(stage / "whole" / "artifact", place)
        words = ["-q", "-t", "ed25519", "-N", "", "-C", "anna@example.org"]
        subprocess.run(["ssh-keygen", *words, "-f", str(stage / "key")], check=True)
        sign(place, stage / "key")
        kind, key, _ = (stage / "key.pub").read_text().split()
        lines = [
            "# friends",
            f'anna@example.org,*@example.com namespaces="lepton,git" {kind} {key}',
            f'ben valid-after="20200101",valid-before="20990101" {kind} {key} of ben',
            f"carl cert-authority {kind} {key}",
        ]
        (stage / "allowed").write_text("\n".join(lines) + "\n")
        for name in _TRUSTED:
            shutil.copy(stage / name, stage / f"whole-{name}")
        shutil.copy(place / _SIGNATURE, stage / f"whole-{_SIGNATURE}")
    names = (*_TRUSTED, _SIGNATURE)
    return [name.encode() + b"\n" + (stage / f"whole-{name}").read_bytes() for name in names]


def _in_signed(stage: Path, content: Content) -> Sequence[str]:
    name, body = split(content)
    name = name if name in _TRUSTED else _SIGNATURE
    for one in (*_TRUSTED, _SIGNATURE):
        path = stage / _SIGNED / one if one == _SIGNATURE else stage / one
        path.write_bytes(body if one == name else (stage / f"whole-{one}").read_bytes())
    trust = name if name in _TRUSTED else one_of(content, _TRUSTED[:1], _TRUSTED[1:])[0]
    return ("verify", _SIGNED, "few.npz", "--trust", trust, *one_of(content, (), ("--json",)))


_BLOB = re.compile(rb"[A-Za-z0-9+/=\n]{48,}")


def _mutated_armour(rng: random.Random, inputs: Sequence[Content]) -> Content:
    """Changed lines, or changed bytes of what is written in base64."""
    content = rng.choice(inputs)
    found = _BLOB.search(content)
    if found is None or rng.random() < 0.4:
        return trees.mutated_lines(rng, inputs)
    try:
        inner = base64.b64decode(found[0].replace(b"\n", b"") + b"==")
    except ValueError:
        return trees.mutated_lines(rng, inputs)
    text = base64.b64encode(mutated_bytes(rng, [inner]))
    width = 70 if b"\n" in found[0] else len(text)
    lines = [text[at : at + width] for at in range(0, len(text), width)]
    return content[: found.start()] + b"\n".join(lines) + content[found.end() :]


def _mutated_signers(rng: random.Random, inputs: Sequence[Content]) -> Content:
    """Allowed signers with other names and options."""
    content = rng.choice(inputs)
    if rng.random() < 0.4:
        return _mutated_armour(rng, inputs)
    lines = content.decode(errors="replace").split("\n")
    place = rng.randrange(len(lines))
    words = lines[place].split(" ")
    words[rng.randrange(len(words))] = rng.choice((*TEXTS, *_SIGNER_WORDS))
    lines[place] = " ".join(words)
    if rng.random() < 0.3:
        lines = [line for line in lines for _ in range(rng.choice((1, 1, 200)))]
    return text_bytes(rng, "\n".join(lines))


_SIGNER_WORDS = (
    *("*", "!anna@example.org,*", "-f", "-Y", "a,b,c", '"', "anna\x1b[31m@b", "\u202eanna"),
    *('namespaces="*"', 'namespaces="', 'valid-after="99999999999999999999"', "valid-before=0"),
    *("verify-required", "cert-authority,cert-authority", "signer", "ssh-ed25519", "ssh-dss"),
)


def _by_name(
    change: Callable[[random.Random, Sequence[Content]], Content],
) -> Callable[[random.Random, Sequence[Content]], Content]:
    """As `each_file`; the allowed signers, which have no suffix, by their own mutants."""
    others = each_file(pub=change, sig=change)

    def mutate(rng: random.Random, inputs: Sequence[Content]) -> Content:
        own = [body for one in inputs for name, body in (split(one),) if name == "allowed"]
        if rng.random() < 0.4:
            return b"allowed\n" + _mutated_signers(rng, own)
        rest = [one for one in inputs if split(one)[0] != "allowed"]
        return others(rng, rest)

    return mutate


_C_MUTANTS: dict[str, Any] = {"c": trees.mutated_lines, "h": trees.mutated_lines}

SUBJECTS = (
    Subject("litert", _litert_seeds, mutated_litert, _in_litert),
    Subject("any-size", _any_size_seeds, models.mutated_model, _in_any_size),
    Subject("c-files", _c_seeds, each_file(**_C_MUTANTS), _in_c),
    Subject("bill-of-materials", _bill_seeds, trees.mutated_json, _in_bill),
    Subject("signature", _signature_seeds, _by_name(_mutated_armour), _in_signed, ("ssh-keygen",)),
)
