from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPEN = """
from lepton_automl.models.onnx_file import open_session
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.cost.latency import REFERENCE
open_session(random_int8_onnx(REFERENCE, 64))
"""
PROGRAMS = {
    "package": OPEN,
    "kit for devices": (ROOT / "lepton_automl" / "cost" / "device_bench.py").read_text(),
    "example": f"import runpy; runpy.run_path({str(ROOT / 'examples' / 'classify.py')!r})",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_onnx_runtime_leaves_no_usage_data(name, tmp_path):
    """Version 1.32 keeps an identifier of the device and a queue of events in the home folder."""
    kept = {
        k: v for k, v in os.environ.items() if k not in {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}
    }
    program = PROGRAMS[name].replace('if __name__ == "__main__":', "if False:")
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        cwd=ROOT,
        env=kept | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
