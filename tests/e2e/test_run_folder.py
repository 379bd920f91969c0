"""A run folder belongs to one command: others are refused, and it is never taken for another."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.helpers import crash, runs
from tests.helpers.processes import LONGEST_SECONDS, begun_training, eventually

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def searching(tmp_path):
    """A command at work on a run, and the run."""
    runs.quick_data(tmp_path)
    run = crash.Run(tmp_path, "run", epochs=40)
    process = run.start()
    try:
        assert eventually(lambda: begun_training(run.folder / "ledger.db"), LONGEST_SECONDS)
        yield process, run
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def kept(folder: Path) -> dict[str, str]:
    """Digests of the files that are not changed by the command at work."""
    names = ("run.toml", "space.toml", "latency_table.json")
    return {name: digest for name, digest in runs.digests(folder).items() if name in names}


def test_no_other_command_changes_a_run_at_work_and_it_leaves_a_folder_in_its_place_alone(
    searching, lepton
):
    process, run = searching
    before, beside = kept(run.folder), set(run.home.iterdir())
    for words in (
        [*run.arguments, "--fresh"],
        run.arguments,
        ["search", *run.arguments[1:], "--seed", "3", "--fresh"],
        ["compress", str(run.folder)],
        ["export", str(run.folder)],
        ["pick", str(run.folder), "--prefer", "size"],
    ):
        done = lepton(*words)
        assert done.exit_code == 4, words
        assert done.err.count("error: another command works on the run in ") == 1, words
        assert (kept(run.folder), set(run.home.iterdir())) == (before, beside), words
    assert process.poll() is None

    aside = run.home / "aside"
    run.folder.rename(aside)
    run.folder.mkdir()
    for name in ("run.toml", "ledger.db"):
        (run.folder / name).write_text("another's")
    stranger = runs.digests(run.folder)
    said = process.communicate(timeout=LONGEST_SECONDS)[1]
    assert process.returncode == 4, said
    assert "was moved, deleted or replaced while this command worked in it" in said
    assert said.count("error: ") == said.count("fix: ") == 1
    assert "Traceback" not in said
    assert runs.digests(run.folder) == stranger
    assert [path.name for path in run.folder.iterdir() if path.is_dir()] == []
    # Its worker process may have been killed while it wrote; the next command deletes that file.
    assert not list(aside.rglob(f"*.{process.pid}.tmp"))
