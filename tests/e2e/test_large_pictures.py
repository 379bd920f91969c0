"""Memory of a command that decodes several large pictures at once."""

from __future__ import annotations

import subprocess
import sys

import pytest
from PIL import Image

PROGRAM = """
import resource, subprocess, sys
words = [sys.executable, "-m", "lepton_automl", "run", "data", "--folds", "10", "--device", "cpu"]
done = subprocess.run(words, capture_output=True)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
MOST_KIB = 1 << 20


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["webp", "png"])
def test_a_pool_of_large_pictures_stays_below_a_gibibyte(tmp_path, ending):
    """The pictures are near the largest that are read, and so many that every thread has one."""
    for n, name in enumerate("ab"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for place in range(4):
            picture = Image.new("RGB", (6000, 6000), (100 * n, 60 * place, 9))
            picture.putpixel((place, n), (255, 255, 255))
            picture.save(tmp_path / "data" / name / f"{place}.{ending}")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    code, peak = map(int, done.stdout.split())
    assert code == 4  # Of --folds, after all pictures were read.
    assert 100_000 < peak < MOST_KIB
