"""Files from outside through the command: one message with the way out, no wait, no traceback."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.core.test_untrusted_arrays import claims, packed
from tests.helpers import runs
from tests.helpers.external_models import written
from tests.helpers.pictures import random_pictures, write_folder

LABELS = np.arange(8) % 2


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def refused(done, *words):
    """One message that holds all `words`, exit code 3 or 4, no traceback."""
    assert done.exit_code in {3, 4}, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert done.err.count("error: ") == 1
    assert done.err.count("fix: ") == 1
    for word in words:
        assert word in done.err


@pytest.fixture
def few():
    np.savez("few.npz", x=random_pictures(8, (6, 6)), y=LABELS)
    return "few.npz"


def bound(path):
    """A socket at a path."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


SPECIAL = {
    "a named pipe": os.mkfifo,
    "a socket": bound,
    "a device": lambda path: Path(path).symlink_to("/dev/zero"),
    "symbolic links": lambda path: Path(path).symlink_to(Path(path).name),
    "a folder": os.mkdir,
}
ARGUMENTS = [
    "run X",
    "run few.npz --test X",
    "run few.npz --space X.toml",
    "run few.npz --latency-from X",
    "run few.npz --warm-start X --out new",
    "run few.npz --out X",
    "search X",
    "compress X",
    "compress X --data few.npz",
    "compress X.onnx --data few.npz",
    "compress model.onnx --data X",
    "compress model.onnx --data few.npz --test X",
    "compress model.onnx --data few.npz --preprocessing X",
    "compress model.onnx --data few.npz --labels X",
    "export X",
    "verify X",
    "verify run X",
    "verify run few.npz --test X",
    "pick X",
    "predict X one.png",
    "predict X.onnx one.png",
    "predict run X",
    "predict run X.png",
    "status X",
    "status X --watch",
    "dashboard X",
    "spaces X",
    "spaces X.toml",
    "bench --ops --space X",
    "bench --ops --space tiny --out X/table.json",
    "bench --ops --kit X --space X.toml",
]
"""Commands; X stands for a path that is not a regular file."""


# The reader is tested with every kind (tests/core/test_untrusted_files.py); here commands count.
OFTEN = ("a named pipe", "symbolic links")


@pytest.mark.parametrize(
    "kind",
    [kind if kind in OFTEN else pytest.param(kind, marks=pytest.mark.slow) for kind in SPECIAL],
)
def test_what_is_no_regular_file_is_refused_at_once_in_every_argument(
    lepton, few, finished_run, tmp_path, kind
):
    written(tmp_path)
    shutil.copytree(finished_run[0].out, "run")
    Image.fromarray(random_pictures(1, (8, 8))[0]).save("one.png")
    for name in ("X", "X.toml", "X.onnx", "X.png", "X.npz"):
        SPECIAL[kind](tmp_path / name)
    for text in ARGUMENTS:
        if kind == "a folder" and ("--out X" in text or "--kit" in text):
            continue  # An empty folder is a place for results.
        # What waits for a pipe waits for ever, until the suite's limit for a test.
        done = lepton(*text.split())
        assert done.exit_code in {3, 4, 7}, (text, done.err)
        assert "Traceback" not in done.err
        assert done.err.count("error: ") == done.err.count("fix: ") == 1, (text, done.err)
        assert "X" in done.err or text.startswith("predict run X"), (text, done.err)


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_picture_that_is_no_regular_file_is_named(lepton, kind):
    write_folder(Path("data"), {"cat": 4, "dog": 4})
    SPECIAL[kind]("data/cat/x.png")
    if kind != "a folder":  # Folders below a class belong to it.
        said = kind if kind != "symbolic links" else ""
        refused(lepton("run", "data"), "data/cat/x.png", said, "--skip-corrupt")


def test_pictures_and_models_of_predict_are_regular_files(lepton, finished_run):
    artifact = Path(shutil.copytree(finished_run[1].artifact, "artifact"))
    os.mkfifo("pipe.png")
    Path("zero.png").symlink_to("/dev/zero")
    refused(lepton("predict", "artifact", "pipe.png"), "pipe.png", "a named pipe")
    refused(lepton("predict", "artifact", "zero.png"), "zero.png", "a device")
    for name in ("model.int8.onnx", "model.fp32.onnx"):
        (artifact / name).unlink()
        os.mkfifo(artifact / name)
    refused(lepton("predict", "artifact", "pipe.png"), ".onnx", "a named pipe")
    (artifact / "manifest.json").unlink()
    os.mkfifo(artifact / "manifest.json")
    refused(lepton("verify", "artifact"), "manifest.json")


BAD_JSON = {
    "nested deeper": b"[" * 100_000,
    "more than 64 bits": b'{"format": 1' + b"0" * 5000 + b"}",
    "not finite": b'{"format": 1e999}',
    "UTF-16": "{}".encode("utf-16"),
    "NUL": b"\0" * 9,
    "not UTF-8": b'{"\xff": 1}',
    "stands twice": b'{"format": 2, "format": 2}',
    "an object": b"[]",
}


@pytest.mark.parametrize("said", BAD_JSON)
def test_json_of_any_content_is_a_message(lepton, few, run_folder, said):
    Path("bad.json").write_bytes(BAD_JSON[said])
    refused(lepton("run", few, "--latency-from", "bad.json"), "bad.json", said)
    manifest = run_folder / "artifact" / "manifest.json"
    manifest.write_bytes(BAD_JSON[said])
    refused(lepton("predict", str(run_folder / "artifact"), "a.png"), "manifest.json", said)


@pytest.mark.parametrize(
    ("name", "said"),
    [("config.json", "nested deeper"), ("config.json", "more than 64 bits")],
)
def test_json_beside_a_model_of_any_content_is_a_message(lepton, few, name, said):
    np.savez("few.npz", x=random_pictures(12, (6, 6)), y=np.arange(12) % 3)
    model = written(Path.cwd())
    (model.parent / name).write_bytes(BAD_JSON[said])
    refused(lepton("compress", str(model), "--data", few), name, said)


BAD_TOML = {
    "nested deeper": b"a = " + b"[" * 900 + b"]" * 900,
    "more than 64 bits": b"a = 99999999999999999999",
    "not finite": b"a = nan",
    "a date": b"few = {samples = 2020-01-01}",
    "at most 2000": b"[" + b".".join([b"a"] * 5000) + b"]",
    "UTF-16": "a = 1".encode("utf-16"),
    "NUL": b"a = 1\0",
    "not UTF-8": b'a = "\xff"',
}


@pytest.mark.parametrize("said", BAD_TOML)
def test_toml_of_any_content_is_a_message(lepton, few, run_folder, said):
    Path("bad.toml").write_bytes(BAD_TOML[said])
    refused(lepton("search", few, "--space", "bad.toml"), "bad.toml", said)
    (run_folder / "run.toml").write_bytes(BAD_TOML[said])
    # Its names of files may be no UTF-8.
    reason = said if said != "not UTF-8" else ""
    refused(lepton("search", few, "--out", str(run_folder)), "run.toml", reason)


def test_sizes_are_limited_with_the_limit_in_the_message(lepton, few):
    for name in ("a.toml", "a.json"):
        with Path(name).open("wb") as file:
            file.truncate(1 << 36)
    refused(lepton("search", few, "--space", "a.toml"), "68719476736 bytes", "at most 262144")
    refused(lepton("run", few, "--latency-from", "a.json"), "at most 16777216 bytes")


@pytest.mark.parametrize(
    ("said", "x"),
    [
        ("1099511627776 bytes", claims(shape="(1099511627776, 1, 1)")),
        ("its shape is", claims(shape="(-1, 2, 2)")),
        ("several fields", claims(descr="[('a', '|u1')]")),
        ("header has 65535 bytes", b"\x93NUMPY\x01\x00\xff\xff"),
        ("not that of an array", b"\x93NUMPY\x01\x00\x88\x13" + b"(" * 5000),
    ],
)
def test_arrays_whose_headers_claim_what_is_not_there_are_refused(lepton, said, x):
    packed("bad.npz", [("x.npy", x), ("y.npy", npy(LABELS))])
    refused(lepton("run", "bad.npz"), "bad.npz", said)


def test_a_picture_of_too_many_pixels_is_refused_with_the_limit(lepton):
    write_folder(Path("data"), {"cat": 4, "dog": 4})
    Image.new("1", (9000, 9000)).save("data/cat/x.png")
    refused(lepton("run", "data"), "data/cat/x.png", "9000x9000 pixels, at most 62914560")


def test_a_ledger_that_is_a_pipe_is_refused(lepton, finished_run):
    config = runs.copy(finished_run[0], Path.cwd())
    for file in config.out.glob("ledger.db*"):
        file.unlink()
    os.mkfifo(config.out / "ledger.db")
    done = lepton("status", str(config.out))
    refused(done, "ledger.db")


def test_sockets_are_refused(lepton, few):
    bound("a.json")
    refused(lepton("run", few, "--latency-from", "a.json"), "a socket")
    assert json.loads(lepton("run", few, "--latency-from", "a.json", "--json").out)["error"]
