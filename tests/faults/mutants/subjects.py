"""The formats that lepton reads from outside, each with the command that reads it soonest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import sqlite3
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lepton_automl.artifact.manifest import canonical
from tests.faults.mutants import (
    arrays,
    bundles,
    ledgers,
    models,
    pictures,
    settings,
    sources,
    stores,
    trees,
)
from tests.faults.mutants.content import Content, mutated_bytes
from tests.faults.mutants.engine import Subject
from tests.faults.mutants.places import STOP, each_file, fresh, named, one_of, split, written
from tests.helpers import external_models
from tests.helpers.artifacts import seal_again
from tests.helpers.pictures import random_pictures, write_folder
from tests.helpers.runs import SPACE

_RUN = "run"
_TABLE = {
    "lepton_latency_table": 1,
    "machine": {"cpu": "Tiny Core", "flags": [], "cores": 1, "system": "Linux arm"},
    "onnxruntime": "1.20.0",
    "reference_ms": 0.2,
    "error": {"median": 0.05, "most": 0.25, "nets": 10, "folds": 10},
    "nanoseconds": {"call": 1000.0, "conv.macs": 2.0, "linear.op": 3},
    "nets": [],
}
_TIMM = {
    "architecture": "mobilenetv3_small",
    "num_classes": 3,
    "label_names": ["0", "1", "2"],
    "pretrained_cfg": {
        "input_size": [1, 8, 8],
        "crop_pct": 0.875,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": [0.4],
        "std": [0.25],
    },
}
_HUGGING_FACE = {
    "image_processor_type": "MobileNetV2ImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 9},
    "resample": 2,
    "do_center_crop": True,
    "crop_size": {"height": 8, "width": 8},
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": [0.4],
    "image_std": [0.25],
    "id2label": {"0": "0", "1": "1", "2": "2"},
}


def prepare(stage: Path, run: Path, data: Path) -> None:
    """Fill a folder with what the subjects need.

    Parameters
    ----------
    stage : Path
        An empty folder.
    run : Path
        The folder of a finished run of `tests.helpers.runs`.
    data : Path
        Its data.
    """
    shutil.copytree(run, stage / _RUN)
    shutil.copy(data, stage / "few.npz")
    definition = stage / _RUN / "run.toml"
    text = re.sub(r"(?m)^data = .*", f'data = "{stage / "few.npz"}"', definition.read_text())
    definition.write_text(text)
    shutil.copytree(stage / _RUN, stage / "whole")
    shutil.copy(stage / "whole" / "artifact" / "model.int8.onnx", stage / "net.onnx")
    (stage / "space.toml").write_text(SPACE)
    np.savez(stage / "tiny.npz", x=random_pictures(12, (6, 6)), y=np.arange(12) % 2)
    np.savez(stage / "three.npz", x=random_pictures(24, (8, 8)), y=np.arange(24) % 3)
    write_folder(stage / "data", {"cat": 5, "dog": 5})
    Image.fromarray(random_pictures(1, (8, 8))[0]).save(stage / "one.png")
    (stage / "taken").mkdir()
    (stage / "taken" / "else.txt").write_text("no run")
    (stage / "net").mkdir()
    (stage / "external").mkdir()
    external_models.written(stage / "external")
    sources.prepare(stage)


def _read(*names: str) -> Callable[[Path], list[Content]]:
    return lambda stage: [(stage / name).read_bytes() for name in names]


def _fresh(stage: Path) -> Path:
    """The finished run as it was made."""
    return fresh(stage / _RUN, stage / "whole")


def _in_picture(stage: Path, content: Content) -> Sequence[str]:
    name = one_of(content, ("a.png",), ("a.jpg",), ("a.tif",))[0]
    (stage / name).write_bytes(content)
    return ("predict", "net.onnx", name, *one_of(content, ("--json",), ()))


def _in_data(stage: Path, content: Content) -> Sequence[str]:
    for old in (stage / "data" / "cat").glob("mutant.*"):
        old.unlink()
    suffix = one_of(content, ("png",), ("jpg",))[0]
    (stage / "data" / "cat" / f"mutant.{suffix}").write_bytes(content)
    return ("run", "data", *STOP, *one_of(content, ("--skip-corrupt",), ()))


def _npz_seeds(stage: Path) -> list[Content]:
    x, y = random_pictures(8, (6, 6)), np.arange(8) % 2
    names = arrays.npy(np.array(["cat", "dog"]))
    return [
        arrays.archive_of(
            [("x.npy", arrays.npy(x)), ("y.npy", arrays.npy(y)), ("class_names.npy", names)]
        ),
        arrays.archive_of([("x.npy", arrays.npy(x / 255)), ("y.npy", arrays.npy(np.eye(2)[y]))]),
        arrays.archive_of(
            [
                (f"{key}_{part}.npy", arrays.npy(array))
                for part in ("train", "val", "test")
                for key, array in (
                    ("x", x.astype(np.uint16) * 16),
                    ("y", np.array(["a", "b"])[y]),
                    ("group", np.arange(8)),
                )
            ]
        ),
        arrays.archive_of([("arr_0.npy", arrays.npy(x)), ("arr_1.npy", arrays.npy(y))]),
    ]


def _in_npz(stage: Path, content: Content) -> Sequence[str]:
    (stage / "mutant.npz").write_bytes(content)
    test = ("run", "tiny.npz", "--test", "mutant.npz", *STOP)
    return one_of(content, ("run", "mutant.npz", *STOP), ("run", "mutant.npz", *STOP), test)


_ARTIFACT = (
    "about.json",
    "verdict.json",
    "arch.json",
    "reference/arch.json",
    "labels.txt",
    "MODEL_CARD.md",
)
_GOLDEN = (
    "golden/pixels.npy",
    "golden/int8.npy",
    "golden/float.npy",
    "reference_test_predictions.npy",
)
_MODELS = ("model.int8.onnx", "model.fp32.onnx", "reference/model.fp32.onnx")


def _in_artifact(stage: Path, content: Content) -> Sequence[str]:
    """A file of an artifact whose manifest is computed again."""
    name, body = split(content)
    folder = _fresh(stage) / "artifact"
    if name not in (*_ARTIFACT, *_GOLDEN, *_MODELS):
        name = _ARTIFACT[0]  # The mutant is of the content, but its name was changed too.
    is_same = (folder / name).read_bytes() == body
    (folder / name).write_bytes(body)
    seal_again(folder)
    # What nothing contradicts is measured, which takes longer.
    commands = [
        ("status", _RUN),
        ("verify", _RUN),
        ("verify", f"{_RUN}/artifact"),
        ("status", _RUN, "--json"),
    ]
    return ("status", _RUN) if is_same else one_of(content, *commands)


def _in_manifest(stage: Path, content: Content) -> Sequence[str]:
    """A manifest, in half of the cases with the digest of what it says now."""
    folder = _fresh(stage) / "artifact"
    if zlib.crc32(content) % 2:
        with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
            content = canonical(json.loads(content)).encode()
    (folder / "manifest.json").write_bytes(content)
    return one_of(
        content,
        ("predict", _RUN, "one.png"),
        ("status", _RUN),
        ("verify", f"{_RUN}/artifact", "few.npz"),
    )


def _in_model(stage: Path, content: Content) -> Sequence[str]:
    (stage / "mutant.onnx").write_bytes(content)
    return ("predict", "mutant.onnx", "one.png")


def _in_run(stage: Path, content: Content) -> Sequence[str]:
    """A file of a run folder."""
    name, body = split(content)
    (_fresh(stage) / name).write_bytes(body)
    commands = [("status", _RUN), ("pick", _RUN), ("status", _RUN, "--json")]
    if name == "run.toml":
        commands += [("search", "tiny.npz", "--out", _RUN, *STOP), ("export", _RUN)]
    elif name != "ledger.db":
        commands = [("export", _RUN), ("compress", _RUN)]
    return one_of(content, *commands)


def _in_ledger(stage: Path, content: Content) -> Sequence[str]:
    folder = _fresh(stage)
    (folder / "ledger.db").write_bytes(content)
    warm = ("run", "tiny.npz", "--space", "space.toml", "--warm-start", _RUN, "--out", "taken")
    return one_of(content, ("status", _RUN), ("pick", _RUN), ("status", _RUN, "--json"), warm)


def _in_other_run(stage: Path, content: Content) -> Sequence[str]:
    """The ledger of a run of the same data and space, whose results a search copies.

    The folder is taken, so that the search ends once it has read them.
    """
    (_fresh(stage) / "ledger.db").write_bytes(content)
    words = ("search", "few.npz", "--space", "space.toml", "--jobs", "1", "--trials", "3")
    words += ("--warm-start", _RUN, "--out", "taken")
    # Without measured latencies results are only reused where latency does not count.
    return one_of(content, (*words, "--objective", "accuracy,size_bytes"), words)


_CACHE = ("pixels.npy", "labels.npy")
"""Ends of the names of cache files; each has its digest beside it."""


def _cache_seeds(stage: Path) -> list[Content]:
    found = (stage / "whole" / "cache").glob("*.npy*")
    return named(*sorted(path.name for path in found), folder="whole/cache")(stage)


def _in_cache(stage: Path, content: Content) -> Sequence[str]:
    """A cache file, in half of the cases with the digest of what it holds now; or a digest."""
    name, body = split(content)
    path = _fresh(stage) / "cache" / name
    path.write_bytes(body)
    if name.endswith(_CACHE) and zlib.crc32(body) % 2:
        line = f"{hashlib.sha256(body).hexdigest()}  {name}\n"
        path.with_name(f"{name}.sha256").write_text(line)
    return ("export", _RUN)


def _uses_seeds(stage: Path) -> list[Content]:
    """What the user's state folder says of the test part of the run."""
    artifact = stage / "whole" / "artifact"
    part = json.loads((artifact / "verdict.json").read_text())["test_fingerprint"]
    files = json.loads((artifact / "manifest.json").read_text())["files"]
    known = [files[name]["sha256"] for name in _MODELS]
    documents = [{part: known}, {part: known[:1], "0" * 16: known[1:]}, {}]
    return [json.dumps({"format": 1, "parts": parts}).encode() for parts in documents]


_INSERT = "INSERT INTO events (kind, key, value, at, digest) VALUES (?, ?, ?, ?, ?)"


def _log_seeds(stage: Path) -> list[Content]:
    """A write-ahead log with the last events of a run, as a killed command leaves it."""
    folder = stage / "log"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(stage / "whole" / "ledger.db", folder / "ledger.db")
    with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("PRAGMA journal_mode = WAL")
        rows = db.execute("SELECT kind, key, value, at, digest FROM events ORDER BY seq").fetchall()
        db.execute("DELETE FROM events WHERE seq > 5")
        db.execute("UPDATE run SET events = 5")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for row in rows[5:]:
            with db:
                db.execute(_INSERT, row)
                db.execute("UPDATE run SET events = events + 1")
        (stage / "log.db").write_bytes((folder / "ledger.db").read_bytes())
        return [(folder / "ledger.db-wal").read_bytes()]


def _in_log(stage: Path, content: Content) -> Sequence[str]:
    folder = _fresh(stage)
    (folder / "ledger.db").write_bytes((stage / "log.db").read_bytes())
    (folder / "ledger.db-wal").write_bytes(content)
    return one_of(content, ("status", _RUN), ("pick", _RUN))


def _net_seeds(stage: Path) -> list[Content]:
    return named(*_NET, folder="whole/models/best")(stage)


_NET = ("arch.json", "model.json", "recipe.json", "weights.safetensors")


def _in_net(stage: Path, content: Content) -> Sequence[str]:
    name, body = split(content)
    for each in _NET:
        shutil.copy(stage / "whole" / "models" / "best" / each, stage / "net" / each)
    (stage / "net" / name).write_bytes(body)
    return ("compress", "net", "--data", "tiny.npz", "--out", "taken")


def _sidecar_seeds(stage: Path) -> list[Content]:
    toml = b"scale = 0.0039\nmean = 0.4\nstd = 0.25\norder = 'grey'\nsize = 8\nresize = 'squash'\n"
    documents: dict[str, Any] = {
        "config.json": _TIMM,
        "preprocessor_config.json": _HUGGING_FACE,
        "processor_config.json": {"image_processor": _HUGGING_FACE},
        "preprocessing.json": {"mean": 0.4, "std": [0.25], "scale": 1, "order": "grey"},
        "labels.json": {"id2label": {"0": "0", "1": "1", "2": "2"}},
        "labels.list.json": ["0", "1", "2"],
    }
    found = [f"{name}\n{json.dumps(body)}".encode() for name, body in documents.items()]
    texts = {
        "preprocessing.toml": toml,
        "labels.txt": b"0\n1\n2\n",
        "README.md": _CARD,
        "classes.txt": b"0\n1\n2\n",
    }
    return found + [name.encode() + b"\n" + body for name, body in texts.items()]


_CARD = (
    b"---\nlicense: mit\nmetrics:\n- accuracy\nmodel-index:\n- name: a\n---\n"
    b"# Net\nAccuracy: 93.1 %\n| top-1 | 0.93 |\n"
)


def _in_sidecar(stage: Path, content: Content) -> Sequence[str]:
    name, body = split(content)
    folder = stage / "external"
    for old in folder.iterdir():
        if old.name != "model.onnx":
            old.unlink()
    (folder / name).write_bytes(body)
    words = [
        "compress",
        "external/model.onnx",
        "--data",
        "three.npz",
        "--expects",
        "100",
        "--out",
        "made",
    ]
    if "labels" in name and name != "labels.txt":
        words += ["--labels", f"external/{name}"]
    if not name.startswith(("config", "pre", "pro")):
        (folder / "preprocessing.toml").write_text("mean = 0.4\nstd = 0.25\n")
    elif name.startswith("preprocessing") and zlib.crc32(content) % 2:
        words += ["--preprocessing", f"external/{name}"]
    return words


def _external_seeds(stage: Path) -> list[Content]:
    made = [
        external_models.model(kind, dynamic=dynamic)
        for kind in ("plain", "mobile")
        for dynamic in (False, True)
    ]
    return [bytes(model.SerializeToString()) for model in (*made, external_models.keras_like())]


def _in_external(stage: Path, content: Content) -> Sequence[str]:
    folder = stage / "external"
    for old in folder.iterdir():
        old.unlink()
    (folder / "preprocessing.toml").write_text("mean = 0.4\nstd = 0.25\n")
    (folder / "mutant.onnx").write_bytes(content)
    (folder / "secret").write_bytes(bytes(64))
    return (
        "compress",
        "external/mutant.onnx",
        "--data",
        "three.npz",
        "--expects",
        "100",
        "--out",
        "made",
    )


def _spaces(stage: Path) -> list[Content]:
    folder = Path(__file__).parents[3] / "search_spaces"
    return [SPACE.encode(), *(path.read_bytes() for path in sorted(folder.glob("*.toml")))]


def _run_seeds(stage: Path) -> list[Content]:
    whole = stage / "whole"
    names = ["run.toml", "space.toml"]
    for pattern in (
        "models/*/steps.json",
        "models/*/calibration.json",
        "models/*/quantized/*.json",
    ):
        names += [path.relative_to(whole).as_posix() for path in sorted(whole.glob(pattern))]
    return named(*names, folder="whole")(stage)


SUBJECTS = (
    Subject(
        "picture-predict", lambda stage: pictures.seeds(), pictures.mutated_picture, _in_picture
    ),
    Subject("picture-data", lambda stage: pictures.seeds(), pictures.mutated_picture, _in_data),
    Subject("npz", _npz_seeds, arrays.mutated_npz, _in_npz),
    Subject(
        "npy",
        named(*_GOLDEN, folder="whole/artifact"),
        each_file(npy=arrays.mutated_npy),
        _in_artifact,
    ),
    Subject("manifest", _read("whole/artifact/manifest.json"), trees.mutated_json, _in_manifest),
    Subject(
        "documents",
        named(*_ARTIFACT, folder="whole/artifact"),
        each_file(json=trees.mutated_json),
        _in_artifact,
    ),
    Subject(
        "onnx-predict",
        _read(*(f"whole/artifact/{n}" for n in _MODELS)),
        models.mutated_model,
        _in_model,
    ),
    Subject(
        "onnx-verify",
        named(*_MODELS, folder="whole/artifact"),
        each_file(onnx=models.mutated_model),
        _in_artifact,
    ),
    Subject("onnx-compress", _external_seeds, models.mutated_model, _in_external),
    Subject(
        "sidecar",
        _sidecar_seeds,
        each_file(json=trees.mutated_json, toml=trees.mutated_toml),
        _in_sidecar,
    ),
    Subject(
        "latency-table",
        lambda stage: [json.dumps(_TABLE).encode()],
        trees.mutated_json,
        written("table.json", "run", "tiny.npz", "--latency-from", "table.json", *STOP),
    ),
    Subject("space", _spaces, trees.mutated_toml, written("mutant.toml", "spaces", "mutant.toml")),
    Subject(
        "run-folder",
        _run_seeds,
        each_file(json=trees.mutated_json, toml=trees.mutated_toml),
        _in_run,
    ),
    Subject("ledger", _read("whole/ledger.db"), ledgers.mutated_ledger, _in_ledger),
    Subject("warm-start", _read("whole/ledger.db"), ledgers.mutated_ledger, _in_other_run),
    Subject("cache", _cache_seeds, each_file(npy=arrays.mutated_npy), _in_cache),
    Subject(
        "test-set-uses",
        _uses_seeds,
        trees.mutated_json,
        written("state/test_set_uses.json", "verify", _RUN),
    ),
    Subject("ledger-log", _log_seeds, mutated_bytes, _in_log),
    Subject(
        "net", _net_seeds, each_file(json=trees.mutated_json, safetensors=mutated_bytes), _in_net
    ),
    *stores.SUBJECTS,
    *settings.SUBJECTS,
    *bundles.SUBJECTS,
    *sources.SUBJECTS,
)
"""Every format, in the order in which they are tried."""
