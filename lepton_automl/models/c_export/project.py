"""Files around `net.c`: a test with golden samples, a Makefile, and projects of other tools."""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core.version import __version__
from lepton_automl.models.c_export.source import c_array

GOLDEN_SAMPLES = 8
"""Samples of `test.c` at most: so many that each path through a net is met, and few bytes."""
_TEMPLATES = {
    "test.c": "test.c",
    "Makefile": "Makefile",
    "README.md": "README.md",
    "CMakeLists.txt": "CMakeLists.txt",
    "library.properties": "library.properties",
    "examples/classify/classify.ino": "classify.ino",
    "zephyr/CMakeLists.txt": "zephyr.cmake",
    "zephyr/prj.conf": "prj.conf",
    "zephyr/main.c": "zephyr_main.c",
}
"""Path below the folder of the net -> template; `@net`, `@NET` and the like are replaced."""
_TYPES = {"uint8": "uint8_t", "uint16": "uint16_t", "int16": "int16_t", "float32": "float"}


def project_files(
    samples: NDArray[Any], logits: NDArray[np.float32], prefix: str = "net"
) -> dict[str, str]:
    """The files beside `net.h` and `net.c`: path -> text.

    Parameters
    ----------
    samples : array (n, *shape)
        As the net reads them.
    logits : float32 array (n, classes)
        Logits that it must give, bit for bit.
    prefix : str
        Of all C names, as of `source.write_source`.
    """
    upper = prefix.upper()
    values = {"@net": prefix, "@NET": upper, "@TYPE": _TYPES[samples.dtype.name]}
    values |= {"@VERSION": __version__, "@COUNT": str(len(samples))}
    is_sound = samples.ndim == 2
    values |= {"@BITS": "the bits that were computed" if is_sound else "the bits of the ONNX file"}
    values |= {"@SAMPLES": c_array(samples), "@LOGITS": _hexadecimal(logits)}
    files = {}
    for path, template in _TEMPLATES.items():
        text = resources.files(__package__).joinpath("templates", template).read_text()
        for key, value in values.items():
            text = text.replace(key, value)
        files[path] = text
    return files


def _hexadecimal(logits: NDArray[np.float32]) -> str:
    """Bits of float32 numbers, some in a line."""
    words = [f"0x{int(word):08X}," for word in logits.ravel().view(np.uint32)]
    lines = (" ".join(words[start : start + 8]) for start in range(0, len(words), 8))
    return "\n".join(f"    {line}" for line in lines)
