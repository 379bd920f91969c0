from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_automl import api
from lepton_automl.cost.latency import Latency
from lepton_automl.errors import ConfigError, MachineError
from lepton_automl.pipeline import sweep, sweep_table
from lepton_automl.pipeline.sweep_table import SweepResult, SweepRow
from tests.helpers.processes import alive, eventually

FAKE = """
import json, os, sys, time
from pathlib import Path
words = sys.argv[2:]
options = dict(word[2:].split("=", 1) for word in words if "=" in word)
out, data, seed = Path(options["out"]), words[-1], int(options.get("seed", 0))
out.mkdir(parents=True, exist_ok=True)
with (out.parent / "calls.txt").open("a") as file:
    file.write(f"{out.name} {os.getpid()}\\n")
if data == "slow" and not (out / "begun").exists():
    (out / "begun").touch()
    time.sleep(600)
if data == "dies":
    os.kill(os.getpid(), 9)
if data == "bug":
    sys.exit("ValueError: no such thing")
codes = {"bad": 3, "impossible": 5, "full": 7}
if data in codes:
    document = {"error": f"{data} data", "fix": "none", "exit_code": codes[data]}
    print(json.dumps(document))
    sys.exit(codes[data])
path = out / "artifact" / "model.int8.onnx"
path.parent.mkdir(exist_ok=True)
path.write_bytes(b"a file")
int8 = {
    "file": path.name, "sha256": "ab" * 32, "accuracy": 0.5 + seed / 100,
    "accuracy_interval": [0.4, 0.6], "n_samples": 50, "size_bytes": 1000 + seed, "latency_ms": 0.25,
}
broken = data == "broken"
document = {
    "verdict": "broken" if broken else "holds", "exit_code": 6 * broken, "primary": "int8",
    "reasons": ["too large"] * broken, "balanced": False, "int8": int8,
}
print(json.dumps(document))
sys.exit(6 * broken)
"""
"""Answers as `lepton run` does, and writes its call to a file."""


@pytest.fixture
def fake(monkeypatch):
    latency = Latency(2.0, 1.9, 2.1, 0.1, 0.2)
    monkeypatch.setattr(sweep, "_PROGRAM", FAKE)
    monkeypatch.setattr(sweep, "measure", lambda files, **_: {"file": latency})


def stated(folder, text):
    path = folder / "s.toml"
    path.write_text(text)
    return path


def calls(out):
    return [line.split()[0] for line in (out / "calls.txt").read_text().splitlines()]


@pytest.mark.usefixtures("fake")
def test_every_cell_is_a_row_with_figures_or_the_reason_of_its_failure(tmp_path):
    data = ["good", "bad", "impossible", "broken", "dies", "bug"]
    path = stated(tmp_path, f"[run]\ndata = {json.dumps(data)}\nseed = 3\n")
    made = api.sweep(path, out=tmp_path / "out")
    assert [row.name for row in made.rows] == data == calls(tmp_path / "out")
    assert [row.exit_code for row in made.rows] == [0, 3, 5, 6, -9, 1]
    errors = [row.error for row in made.rows]
    assert errors[:5] == ["", "bad data", "impossible data", "too large", "killed by SIGKILL"]
    assert "ValueError: no such thing" in errors[5]
    good = made.rows[0]
    assert (good.verdict, good.accuracy, good.size_bytes, good.n_samples) == (
        "holds",
        0.53,
        1003,
        50,
    )
    assert (good.latency_ratio, good.latency_ratio_interval) == (2.0, (1.9, 2.1))
    assert (made.out / good.file).read_bytes() == b"a file"
    assert made.exit_code == 6
    states = [row.state(made.out) for row in made.rows]
    assert states == ["done", "failed", "failed", "done", "failed", "failed"]


@pytest.mark.usefixtures("fake")
def test_the_same_command_repeats_no_result_and_tries_failures_again(tmp_path):
    path = stated(tmp_path, '[run]\ndata = ["good", "broken", "impossible", "bad", "dies"]\n')
    made = api.sweep(path, out=tmp_path / "out")
    again = api.sweep(path, out=tmp_path / "out")
    assert calls(tmp_path / "out")[5:] == ["bad", "dies"]
    assert again.rows[:3] == made.rows[:3]
    assert api.sweep_table(tmp_path / "out") == again


@pytest.mark.usefixtures("fake")
def test_a_sweep_that_grows_runs_the_new_cells_only(tmp_path):
    out = tmp_path / "out"
    api.sweep(stated(tmp_path, '[run]\ndata = "good"\nseed = 1\n'), out=out)
    made = api.sweep(stated(tmp_path, '[run]\ndata = "good"\nseed = [0, 1]\n'), out=out)
    assert calls(out) == ["good", "good_seed=0"]
    found = [(row.name, row.options["seed"]) for row in made.rows]
    assert found == [("good_seed=0", 0), ("good", 1)]
    assert made.exit_code == 0


@pytest.mark.usefixtures("fake")
def test_a_cell_with_another_budget_continues_in_its_folder(tmp_path):
    out = tmp_path / "out"
    api.sweep(stated(tmp_path, '[run]\ndata = "good"\nseed = [0, 1]\nbudget = "1m"\n'), out=out)
    api.sweep(stated(tmp_path, '[run]\ndata = "good"\nseed = [0, 1]\nbudget = "2m"\n'), out=out)
    assert calls(out) == ["good_seed=0", "good_seed=1"] * 2


@pytest.mark.usefixtures("fake")
def test_what_every_run_lacks_ends_the_sweep_and_is_no_row(tmp_path):
    path = stated(tmp_path, '[run]\ndata = ["good", "full", "broken"]\n')
    with pytest.raises(MachineError, match="full: full data"):
        api.sweep(path, out=tmp_path / "out")
    found = api.sweep_table(tmp_path / "out")
    assert [row.exit_code for row in found.rows] == [0, None, None]
    assert calls(tmp_path / "out") == ["good", "full"]


def test_a_killed_sweep_leaves_no_run_behind_and_goes_on_where_it_was(tmp_path, monkeypatch, fake):
    out = tmp_path / "out"
    path = stated(tmp_path, '[run]\ndata = ["good", "slow", "broken"]\n')
    watched = "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent()\n"
    program = (
        "import sys; from lepton_automl import api; from lepton_automl.pipeline import sweep\n"
        "from tests.pipeline.test_sweep import FAKE, Latency\n"
        f"sweep._PROGRAM = {watched!r} + FAKE\n"
        "sweep.measure = lambda files, **_: {'file': Latency(2.0, 1.9, 2.1, 0.1, 0.2)}\n"
        "api.sweep(sys.argv[1], out=sys.argv[2])\n"
    )
    words = [sys.executable, "-c", program, str(path), str(out)]
    with subprocess.Popen(words, cwd=Path(__file__).parents[2]) as killed:
        assert eventually(lambda: (out / "slow" / "begun").exists())
        row = api.sweep_table(out).rows[1]
        assert row.exit_code is None
        with pytest.raises(ConfigError, match="another command works"):
            api.sweep(path, out=out)
        killed.send_signal(signal.SIGKILL)
    pids = [int(line.split()[1]) for line in (out / "calls.txt").read_text().splitlines()]
    assert eventually(lambda: not alive(pids))
    made = api.sweep(path, out=out)
    assert calls(out) == ["good", "slow", "slow", "broken"]
    assert [row.verdict for row in made.rows] == ["holds", "holds", "broken"]


def test_a_run_that_ended_before_its_row_was_written_is_not_repeated(finished_run, tmp_path):
    config, outcome = finished_run
    out = tmp_path / "out"
    shutil.copytree(config.out, out / "few")
    path = stated(
        tmp_path,
        f'[run]\ndata = "{config.data}"\nspace = "{config.space}"\ntrials = 2\njobs = 1\n'
        'objective = "accuracy,size_bytes"\n',
    )
    sweep_table.write_table(SweepResult(out, (), (SweepRow("few", {"data": "none"}),)))
    shown = []
    (row,) = api.sweep(path, out=out, emit=shown.append).rows
    assert row.name == "few"
    assert row.sha256 == outcome.verdict.shipped.sha256
    assert row.accuracy == outcome.verdict.shipped.accuracy
    low, high = row.latency_ratio_interval
    assert 0 < low <= row.latency_ratio <= high
    assert row.seconds > 0
    assert [event.message.split(":")[0] for event in shown] == ["1 of 1", "1 of 1"]


@pytest.mark.usefixtures("fake")
def test_the_table_is_written_for_people_and_for_programs(tmp_path):
    path = stated(tmp_path, '[run]\ndata = ["good", "a|b", "=bad"]\nmax-size-kb = 20.5\n')
    made = api.sweep(path, out=tmp_path / "out")
    with (made.out / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["data"] for row in rows] == ["good", "a|b", "=bad"]
    figures = ("accuracy", "size_bytes", "verdict")
    assert [rows[0][name] for name in figures] == ["0.5", "1000", "holds"]
    text = (made.out / "table.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 5
    assert all(line.replace("\\|", "").count("|") == lines[0].count("|") for line in lines)
    assert "50.00 % [40.00, 60.00]" in lines[2]


@pytest.mark.usefixtures("fake")
def test_the_command_prints_the_table_and_status_reads_it(tmp_path, monkeypatch, capfd):
    from tests.helpers.cli import Lepton

    lepton = Lepton(monkeypatch, capfd)
    path, out = stated(tmp_path, '[run]\ndata = ["good", "bad"]\n'), str(tmp_path / "out")
    done = lepton("sweep", str(path), "--out", out, "--json")
    assert done.exit_code == 6
    document = json.loads(done.out)
    assert [row["state"] for row in document["rows"]] == ["done", "failed"]
    assert json.loads(lepton("status", out, "--json").out) == document
    shown = lepton("status", out)
    assert (shown.exit_code, "bad: bad data" in shown.out) == (0, True)
    assert lepton("status", out, "--watch").exit_code == 4


@pytest.mark.parametrize("file", ["run.toml", "photo.png"])
def test_a_folder_with_other_files_is_refused(tmp_path, file):
    out = tmp_path / "out"
    out.mkdir()
    (out / file).touch()
    with pytest.raises(ConfigError, match=r"is a run|other files"):
        api.sweep(stated(tmp_path, '[run]\ndata = "good"\n'), out=out)
    assert [path.name for path in out.iterdir()] == [file]


@pytest.mark.parametrize(
    "text", ["{", '{"format": 2}', '{"format": 1, "varied": [], "rows": [{"name": "../x"}]}', "[]"]
)
def test_a_table_that_cannot_be_read_is_refused_with_its_name(tmp_path, text):
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(ConfigError, match=r"table\.json"):
        api.sweep_table(tmp_path)
