"""No command unpickles, opens sockets, starts programs, or opens files outside of its folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import external_models
from tests.helpers.pictures import random_pictures
from tests.helpers.runs import EPOCHS, SPACE, quick_data

ROOT = Path(__file__).parents[2]
COMMANDS = [
    "run data.npz --space quick.toml --trials 2 --jobs 2 --objective accuracy,size_bytes --out run",
    "run data.npz --space quick.toml --trials 2 --jobs 2 --objective accuracy,size_bytes --out run",
    "search data.npz --space quick.toml --trials 1 --jobs 1 --out searched",
    "compress searched",
    "export searched",
    "compress model.onnx --data stripes.npz --out external",
    "verify run",
    "verify external stripes.npz",
    "pick run",
    "predict run pictures",
    "predict model.int8.onnx pictures --json",
    "status run",
    "spaces quick.toml",
    "bench --ops --space quick.toml --kit kit",
]


@pytest.mark.slow
def test_commands_and_their_processes_do_only_what_they_must(tmp_path):
    for name in ("tmp", "state", "pictures"):
        (tmp_path / name).mkdir()
    quick_data(tmp_path).rename(tmp_path / "data.npz")
    (tmp_path / "quick.toml").write_text(SPACE.replace(f"epochs = {EPOCHS}", "epochs = 2"))
    external_models.written(tmp_path)
    external_models.data(tmp_path)
    for number, pixels in enumerate(random_pictures(3, (8, 8))):
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    log = tmp_path / "audit.log"
    system = ["/proc", "/sys", "/usr", "/etc", "/lib", "/opt"]
    places = [str(tmp_path), str(ROOT), sys.prefix, sys.base_prefix, *system]
    paths = [str(ROOT / "tests" / "helpers" / "audited"), str(ROOT)]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "LEPTON_AUDIT_LOG": str(log),
        "LEPTON_AUDIT_PLACES": os.pathsep.join(os.path.realpath(place) for place in places),
        "LEPTON_STATE_DIR": str(tmp_path / "state"),
        "TMPDIR": str(tmp_path / "tmp"),
        "HOME": str(tmp_path),
    }
    for text in COMMANDS:
        words = [sys.executable, "-m", "lepton_automl", *text.split()]
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode in {0, 6}, (text, done.stderr)
        if text.startswith("run"):
            (tmp_path / "model.int8.onnx").write_bytes(
                (tmp_path / "run" / "artifact" / "model.int8.onnx").read_bytes()
            )
    events = [json.loads(line) for line in log.read_text().splitlines()]
    started = [words for event, _, words in events if event == "start"]
    for part in ("search.workers", "verification_process", "external.load", "session_server"):
        assert any(part in words for words in started), part
    assert [event for event in events if event[0] != "start"] == []


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import pickle; pickle.loads(pickle.dumps(print))", "pickle.find_class"),
        ("open('/dev/zero')", "open"),
        ("import subprocess; subprocess.run(['/bin/true'])", "subprocess.Popen"),
        ("import socket; socket.socket()", "socket.__new__"),
        ("exec(compile('1', '/data/code.py', 'exec'))", "exec"),
        ("import json; json.dumps(1)", None),
    ],
)
def test_what_a_command_must_not_do_is_recorded(tmp_path, program, said):
    log = tmp_path / "audit.log"
    env = os.environ | {
        "PYTHONPATH": str(ROOT / "tests" / "helpers" / "audited"),
        "LEPTON_AUDIT_LOG": str(log),
        "LEPTON_AUDIT_PLACES": os.pathsep.join(
            (str(tmp_path), sys.prefix, sys.base_prefix, "/usr")
        ),
    }
    subprocess.run([sys.executable, "-c", program], env=env, check=True, cwd=tmp_path)
    kinds = [json.loads(line)[0] for line in log.read_text().splitlines()]
    assert kinds == ["start", *([said] if said else [])]
