from __future__ import annotations

import pytest

from tests.helpers.cli import Lepton


@pytest.fixture
def lepton(monkeypatch, capfd, tmp_path):
    """`lepton ARGUMENTS`, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Lepton(monkeypatch, capfd)


@pytest.fixture
def run_folder(tmp_path):
    """A run folder as far as commands look at it."""
    folder = tmp_path / "runs" / "mine"
    (folder / "artifact").mkdir(parents=True)
    (folder / "artifact" / "manifest.json").write_text("{}")
    (folder / "models" / "best").mkdir(parents=True)
    (folder / "models" / "best" / "recipe.json").write_text("{}")
    (folder / "run.toml").write_text(
        'format = 2\ndata = "digits"\ntest = ""\ndata_fingerprint = "ab"\nspace = "tiny"\n'
        'space_digest = "cd"\nobjectives = ["accuracy", "macs"]\nseed = 7\n'
        'target = "x86-any"\nprefer = "latency"\nskip_corrupt = false\n'
        "[limits]\nmax_size_bytes = 9000\n"
    )
    return folder
