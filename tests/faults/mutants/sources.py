"""The forms of data that `lepton run` reads besides folders of pictures and arrays of pixels."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lepton_automl.models.arch import chain
from lepton_automl.models.layers.conv import Conv
from lepton_automl.models.layers.head import Head
from lepton_automl.models.layers.stem import Stem
from lepton_automl.models.onnx_export import float_onnx
from tests.faults.mutants import archives, arrays, sound, tables
from tests.faults.mutants.content import Content, mutated_bytes
from tests.faults.mutants.engine import Subject
from tests.faults.mutants.places import STOP
from tests.helpers.nets import random_model
from tests.helpers.pictures import random_pictures, write_folder

_CLASSES = ("run", "walk")


def prepare(stage: Path) -> None:
    """What the subjects of this module need beside the mutant."""
    write_folder(stage / "table", {"cat": 4, "dog": 4}, (6, 6))
    rng = np.random.default_rng(0)
    for n in range(8):
        values = rng.normal(0, 3, (24, 2))
        for path in (stage / "rec" / f"r{n}.csv", stage / "moves" / _CLASSES[n % 2] / f"r{n}.csv"):
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savetxt(path, values, "%.6g", ",", header="x,y", comments="")
        (stage / "rows").mkdir(exist_ok=True)
        (stage / "rows" / f"r{n}.csv").write_text(_rows([n], with_session=False))
        path = stage / "sound" / _CLASSES[n % 2] / f"r{n}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(-2000, 2000, 900).astype("<i2").tobytes()
        path.write_bytes(sound.wav([(b"fmt ", sound.form(1, 1, 8000, 16)), (b"data", noise)]))
    arch = chain((16, 2), [Stem(8), Conv(8, stride=2), Head()], len(_CLASSES))
    words = {"channels": json.dumps(["x", "y"])}
    (stage / "signal.onnx").write_bytes(float_onnx(random_model(arch), _CLASSES, words))


def _rows(sessions: Sequence[int], *, with_session: bool = True) -> str:
    """A table with a row each time, of recordings whose label changes once."""
    rng = np.random.default_rng(sum(sessions))
    lines = ["session,subject,time,x,y,activity" if with_session else "time,x,y,activity"]
    for session in sessions:
        for k in range(24):
            x, y = rng.normal(0, 3, 2).round(4)
            label = _CLASSES[(session + (k > 12)) % 2]
            first = f"{session},p{session % 4}," if with_session else ""
            lines.append(f"{first}{k * 0.02:.2f},{x},{y},{label}")
    return "\n".join(lines) + "\n"


def _suffixed(
    folder: str, names: Sequence[str], *commands: Sequence[str]
) -> Callable[[Path, Content], Sequence[str]]:
    """The mutant becomes one of the files, as its content says; a word NAME is its path."""

    def place(stage: Path, content: Content) -> Sequence[str]:
        chosen = zlib.crc32(content)
        for name in names:
            (stage / folder / name).unlink(missing_ok=True)
        fitting = _SUFFIXES.get(_form(content), "")
        name = next((name for name in names if name.endswith(fitting)), names[0])
        path = Path(folder) / (names[chosen % len(names)] if chosen % 8 == 7 else name)
        (stage / path).parent.mkdir(parents=True, exist_ok=True)
        (stage / path).write_bytes(content)
        words = commands[chosen // len(names) % len(commands)]
        return [str(path) if word == "NAME" else word for word in words]

    return place


def _form(content: Content) -> str:
    line = content.partition(b"\n")[0]
    return "json" if line.startswith(b"{") else "tabs" if b"\t" in line else "commas"


_SUFFIXES = {"json": ".jsonl", "tabs": ".tsv", "commas": ".csv"}
_WINDOW = ("--window", "8")
_READ = (("run", "NAME", *STOP), ("run", "NAME", *STOP), ("data", "NAME", "--json"))


def _table_seeds(stage: Path) -> list[Content]:
    names = [f"{label}/{n:03}.png" for label in ("cat", "dog") for n in range(4)]
    rows = [
        (name, name[:3], f"p{n // 2}", "test" if n % 4 == 3 else "train", 2000 + n)
        for n, name in enumerate(names)
    ]
    head = ("path", "label", "subject", "split", "year")
    found = []
    for delimiter in (",", "\t"):
        lines = [delimiter.join(map(str, row)) for row in (head, *rows)]
        found.append(("\n".join(lines) + "\n").encode())
    documents = (json.dumps(dict(zip(head, row, strict=True))) for row in rows)
    return [*found, "\n".join(documents).encode()]


def _index_seeds(stage: Path) -> list[Content]:
    lines = [f"r{n}.csv,{_CLASSES[n % 2]},p{n // 2},{n}" for n in range(8)]
    return ["\n".join(["file,label,subject,day", *lines]).encode()]


def _series_seeds(stage: Path) -> list[Content]:
    text = _rows(range(8))
    return [text.encode(), text.replace(",", "\t").encode(), _rows([3] * 16).encode()]


def _recording_seeds(stage: Path) -> list[Content]:
    values = np.random.default_rng(1).normal(0, 3, (24, 2))
    return [
        (stage / "rec" / "r0.csv").read_bytes(),
        b"".join(b"%g;%g\n" % (x, y) for x, y in values),
        ("t,x,y\n" + "".join(f"{n},{x:.4},{y:.4}\n" for n, (x, y) in enumerate(values))).encode(),
    ]


def _ucr_seeds(stage: Path) -> list[Content]:
    """A `.ts` file of two channels, one of series of several lengths, and a table of UCR."""
    rng, head = np.random.default_rng(4), "@problemName m\n@timestamps false\n@univariate "
    texts = [
        [",".join(f"{v:.3f}" for v in rng.normal(0, 3, n)) for n in (16, 16)] for _ in range(8)
    ]
    ends = "@classLabel true run walk\n@data\n"
    even = f"{head}false\n@dimensions 2\n@equalLength true\n{ends}" + "".join(
        f"{a}:{b}:{_CLASSES[n % 2]}\n" for n, (a, b) in enumerate(texts)
    )
    uneven = f"{head}true\n@missing true\n@equalLength false\n{ends}" + "".join(
        f"{a[: 40 + 6 * n].rpartition(',')[0]},?:{_CLASSES[n % 2]}\n"
        for n, (a, _) in enumerate(texts)
    )
    table = "".join(f"{n % 2}\t{a}\n".replace(",", "\t") for n, (a, _) in enumerate(texts))
    return [even.encode(), uneven.encode(), table.encode()]


def _as_ucr(stage: Path, content: Content) -> Sequence[str]:
    """The mutant becomes a training part, a test part, or a file by itself."""
    suffix = ".tsv" if b"@" not in content[:2000] else ".ts"
    shutil.rmtree(stage / "ucr", ignore_errors=True)
    (stage / "ucr").mkdir()
    chosen, seeds = zlib.crc32(content) % 4, _ucr_seeds(stage)
    names = ("ucr_TEST", "ucr_TRAIN") if chosen == 0 else ("ucr_TRAIN", "ucr_TEST")
    (stage / "ucr" / f"{names[0]}{suffix}").write_bytes(content)
    if chosen < 2:
        whole = seeds[2] if suffix == ".tsv" else seeds[0]
        (stage / "ucr" / f"{names[1]}{suffix}").write_bytes(whole)
    data = "ucr" if chosen < 3 else f"ucr/{names[0]}{suffix}"
    return ("data", data, "--json") if chosen == 2 else ("run", data, *STOP)


def _array_seeds(stage: Path) -> list[Content]:
    values = np.random.default_rng(1).normal(0, 3, (40, 2))
    made = (values, values.T.astype(np.float32), (values * 100).astype(np.int16), values[:16][None])
    return [arrays.npy(array) for array in made]


def _signal_npz_seeds(stage: Path) -> list[Content]:
    rng, y = np.random.default_rng(2), np.arange(12) % 2
    x = rng.normal(0, 3, (12, 40, 2)).astype(np.float32)
    texts = arrays.npy(np.array(_CLASSES))
    forms = (
        {"x": x, "y": y},
        {"x_train": x, "y_train": y, "group_train": np.arange(12) // 2, "x_test": x, "y_test": y},
        {"windows": np.moveaxis(x * 100, 2, 1).astype(np.int16), "labels": y},
    )
    found = []
    for form in forms:
        members = [(f"{key}.npy", arrays.npy(array)) for key, array in form.items()]
        found.append(arrays.archive_of([*members, ("class_names.npy", texts)]))
    return found


def _png(n: int) -> Content:
    file = io.BytesIO()
    Image.fromarray(random_pictures(1, (6, 6), n)[0]).save(file, "PNG")
    return file.getvalue()


def _zip_seeds(stage: Path) -> list[Content]:
    names = [f"{label}/{n}.png" for label in ("cat", "dog") for n in range(4)]
    plain = [(name, _png(n)) for n, name in enumerate(names)]
    divided = [
        (f"{part}/{name}", content) for part in ("train", "test") for name, content in plain[:6]
    ]
    return [archives.zip_of(plain), archives.zip_of(divided)]


def _tar_seeds(stage: Path) -> list[Content]:
    with_text, with_json = [], []
    for n in range(8):
        label = ("cat", "dog")[n % 2]
        document = json.dumps({"label": label, "subject": f"p{n // 2}"}).encode()
        with_text += [(f"{n:03}.png", _png(n)), (f"{n:03}.cls", label.encode())]
        with_json += [(f"a/{n:03}.png", _png(n)), (f"a/{n:03}.json", document)]
    return [archives.tar_of(with_text), archives.tar_of(with_json)]


def _idx_pictures(stage: Path) -> list[Content]:
    whole = archives.idx_of(8, (12, 6, 6), random_pictures(12, (6, 6)).tobytes())
    return [whole, gzip.compress(whole, 1)]


def _idx_labels(stage: Path) -> list[Content]:
    whole = archives.idx_of(8, (12,), bytes(n % 2 for n in range(12)))
    return [whole, gzip.compress(whole, 1)]


def _in_idx(which: str) -> Callable[[Path, Content], Sequence[str]]:
    """The mutant is the pictures or the labels, beside the other file of the pair."""

    def place(stage: Path, content: Content) -> Sequence[str]:
        shutil.rmtree(stage / "idx", ignore_errors=True)
        (stage / "idx").mkdir()
        seeds = {"images-idx3": _idx_pictures(stage)[0], "labels-idx1": _idx_labels(stage)[0]}
        for kind, whole in seeds.items():
            body = content if kind.startswith(which) else whole
            suffix = ".gz" if body.startswith(b"\x1f\x8b") else ""
            (stage / "idx" / f"train-{kind}-ubyte{suffix}").write_bytes(body)
        return ("run", "idx", *STOP)

    return place


def _parquet_seeds(stage: Path) -> list[Content]:
    """Picture files with labels, and arrays of numbers, as pyarrow writes them."""
    import pyarrow as pa
    from pyarrow import parquet

    y = [n % 2 for n in range(12)]
    files = [{"bytes": _png(n), "path": f"{n}.png"} for n in range(12)]
    forms = ({"image": files, "label": y}, {"image": files, "label": [_CLASSES[n] for n in y]})
    found = []
    for columns, options in zip(
        forms, ({"compression": "none"}, {"row_group_size": 5}), strict=True
    ):
        file = pa.BufferOutputStream()
        parquet.write_table(pa.table(columns), file, **options)
        found.append(file.getvalue().to_pybytes())
    return found


def _cifar_seeds(stage: Path) -> list[Content]:
    rng = np.random.default_rng(3)
    return [b"".join(bytes([n % 10]) + rng.bytes(3072) for n in range(40))]


SUBJECTS = (
    Subject(
        "table",
        _table_seeds,
        tables.mutated_table,
        _suffixed(
            "table",
            ("m.csv", "m.tsv", "m.jsonl"),
            *_READ,
            ("run", "NAME", "--skip-corrupt", *STOP),
        ),
    ),
    Subject(
        "series",
        _series_seeds,
        tables.mutated_table,
        _suffixed(
            "series",
            ("m.csv", "m.tsv"),
            ("run", "NAME", *_WINDOW, *STOP),
            ("data", "NAME", *_WINDOW, "--json"),
            ("run", "NAME", *_WINDOW, "--columns", "recording=session,label=activity", *STOP),
            ("run", "NAME", *_WINDOW, "--time", "time", "--group", "none", *STOP),
        ),
    ),
    Subject(
        "index",
        _index_seeds,
        tables.mutated_table,
        _suffixed(
            "rec", ("index.csv",), ("run", "NAME", *_WINDOW, *STOP), ("data", "NAME", *_WINDOW)
        ),
    ),
    Subject(
        "recording",
        _recording_seeds,
        tables.mutated_table,
        _suffixed(
            "moves/walk",
            ("m.csv",),
            ("run", "moves", *_WINDOW, *STOP),
            ("predict", "signal.onnx", "NAME", "--json"),
            ("predict", "signal.onnx", "NAME"),
        ),
    ),
    Subject(
        "recording-npy",
        _array_seeds,
        arrays.mutated_npy,
        _suffixed(
            "moves/run",
            ("m.npy",),
            ("run", "moves", *_WINDOW, *STOP),
            ("predict", "signal.onnx", "NAME", "--json"),
        ),
    ),
    Subject(
        "labelled-rows",
        lambda stage: [(stage / "rows" / "r1.csv").read_bytes()],
        tables.mutated_table,
        _suffixed("rows", ("r0.csv", "r1.csv"), ("run", "rows", *_WINDOW, *STOP)),
    ),
    Subject("ucr", _ucr_seeds, tables.mutated_table, _as_ucr),
    Subject(
        "npz-signals",
        _signal_npz_seeds,
        arrays.mutated_npz,
        _suffixed("", ("signals.npz",), ("run", "NAME", *STOP)),
    ),
    Subject("zip", _zip_seeds, archives.mutated_zip, _suffixed("", ("m.zip",), *_READ)),
    Subject("tar", _tar_seeds, archives.mutated_tar, _suffixed("", ("m.tar", "m.tar.gz"), *_READ)),
    Subject("idx", _idx_pictures, archives.mutated_idx, _in_idx("images")),
    Subject("idx-labels", _idx_labels, archives.mutated_idx, _in_idx("labels")),
    Subject(
        "cifar",
        _cifar_seeds,
        archives.mutated_cifar,
        _suffixed("cifar", ("data_batch_1.bin",), ("run", "cifar", *STOP)),
    ),
    Subject(
        "wav",
        lambda stage: sound.seeds(),
        sound.mutated_wav,
        _suffixed("sound/run", ("m.wav",), ("run", "sound", *STOP)),
    ),
    Subject(
        "parquet",
        _parquet_seeds,
        mutated_bytes,
        _suffixed("", ("m.parquet",), ("run", "NAME", *STOP)),
    ),
)
"""Every form, in the order in which they are tried."""
