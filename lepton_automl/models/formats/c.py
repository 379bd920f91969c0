"""C99 without a runtime: `c/net.h` and `c/net.c`, compiled and called where there is a compiler."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import untrusted_files
from lepton_automl.core.limited_process import ProcessLimits
from lepton_automl.errors import DataError
from lepton_automl.models.c_export.log_mel import c_features
from lepton_automl.models.c_export.project import GOLDEN_SAMPLES, project_files
from lepton_automl.models.c_export.source import net_source
from lepton_automl.models.formats import FileFormat, Golden, Session, Sizes, Words
from lepton_automl.models.integer_reference import integer_reference
from lepton_automl.models.onnx_export import int8_onnx
from lepton_automl.models.quantization import QuantizedNet, behind_front_end

COMPILERS = ("cc", "gcc", "clang")
CROSS_COMPILER = "arm-none-eabi-gcc"
CORTEX_M4 = ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
"""Options for the core that flash is counted for."""
_STRICT = ("-std=c99", "-ffp-contract=off")
_FAST = (("-O3", "-march=native"), ("-O3",))
"""Options that are tried in turn: not every compiler knows its own machine."""
_GOLDEN_VALUES = 32768
"""Values of the samples of `test.c` together, beyond which there are fewer samples."""
_FEATURE_SHARE, _SOUND_DIFFERENCE = 1e-4, 0.05
"""Share of features of sound that may be a step apart, and the largest difference of a probability
then ("Features of sound in C" in docs/decisions.md)."""
_FOLDER = "c"
_FIX = "make the files again: lepton export RUN --format c"

# Beside the net: its constants, and all samples of an array in one call.
_SHIM = """#include "net.h"
int32_t lepton_arena_bytes(void) { return NET_ARENA_BYTES; }
int32_t lepton_input_bytes(void) { return NET_INPUT_BYTES; }
int32_t lepton_classes(void) { return NET_CLASSES; }
void lepton_run(const uint8_t *samples, int32_t count, uint8_t *arena, float *outputs)
{
    int32_t n;
    for (n = 0; n < count; n++, samples += NET_INPUT_BYTES, outputs += NET_CLASSES)
        net_probabilities((const void *)samples, arena, outputs);
}
void lepton_logits(const uint8_t *samples, int32_t count, uint8_t *arena, float *outputs)
{
    int32_t n;
    for (n = 0; n < count; n++, samples += NET_INPUT_BYTES, outputs += NET_CLASSES)
        net_logits((const void *)samples, arena, outputs);
}
"""


class C(FileFormat):
    """C99 source without a runtime, for microcontrollers and programs: a header and a file."""

    main = "c/net.c"
    max_difference = 2e-6
    runs_code = True
    session_limits = ProcessLimits(2 << 30, 120.0, 900.0)

    def files(self, net: QuantizedNet, words: Words, golden: Golden) -> dict[str, bytes]:
        """Header, source, a test with golden samples, and what other tools build them with.

        The test has the logits that exact integer arithmetic gives, whatever this machine is.
        """
        source = net_source(net, words.class_names)
        count = max(1, min(GOLDEN_SAMPLES, _GOLDEN_VALUES // int(np.prod(net.arch.file_input))))
        samples = np.ascontiguousarray(golden.samples[:count])
        texts = {"net.h": source.header, "net.c": source.source}
        texts |= project_files(samples, c_logits(net, samples))
        return {f"{_FOLDER}/{path}": text.encode() for path, text in texts.items()}

    def session(self, folder: Path) -> Session:
        """Compile a shared library into the folder for temporary files, and load it."""
        return CSession(folder / _FOLDER)

    def sizes(self, folder: Path) -> Sizes:
        """The files, flash of a Cortex-M4 with -Os where its compiler is, and the arena."""
        paths = [path for path in (folder / _FOLDER).rglob("*") if path.is_file()]
        header = _text(folder / _FOLDER / "net.h")
        found = re.search(r"^#define NET_ARENA_BYTES (\d+)$", header, re.MULTILINE)
        if found is None:
            raise DataError(f"{folder / _FOLDER / 'net.h'} states no NET_ARENA_BYTES", fix=_FIX)
        return Sizes(
            sum(path.stat().st_size for path in paths),
            flash_bytes(folder / _FOLDER),
            int(found[1]),
        )

    def beyond_promise(
        self,
        found: NDArray[np.float32],
        expected: NDArray[np.float32],
        net: QuantizedNet | None = None,
    ) -> tuple[str, ...]:
        """As of all formats; a net for sound may have features that are a step apart."""
        front_end = None if net is None else net.arch.front_end
        if front_end is None or not len(found):
            return super().beyond_promise(found, expected, net)
        apart, problems = np.abs(found - expected).max(1), []
        share = min(1.0, _FEATURE_SHARE * float(np.prod(front_end.feature_shape)))
        differing, most = int((apart > self.max_difference).sum()), np.ceil(share * len(found))
        if differing > most:
            problems.append(
                f"{differing} of {len(found)} samples differ from the ONNX file, the rule is at "
                f"most {most:.0f}: 1 of {1 / _FEATURE_SHARE:.0f} features a step apart"
            )
        if apart.max() > _SOUND_DIFFERENCE:
            problems.append(
                f"a probability differs from the ONNX file's by {apart.max():.3g}, the rule is at "
                f"most {_SOUND_DIFFERENCE:g}"
            )
        return tuple(problems)

    def differences(self, net: QuantizedNet) -> tuple[str, ...]:
        """The features of sound."""
        if net.arch.front_end is None:
            return ()
        return (
            "features of sound are summed in another order: single ones may be a step of 255 apart",
        )

    def missing(self) -> str:
        """That there is no compiler."""
        return "" if _compiler() else f"no C compiler ({', '.join(COMPILERS)})"


def c_logits(net: QuantizedNet, samples: NDArray[Any]) -> NDArray[np.float32]:
    """Logits (n, classes) that the C files of a net give: by exact integer arithmetic.

    Features of sound are computed as C computes them.
    """
    front_end = net.arch.front_end
    if front_end is not None:
        samples, net = c_features(front_end, samples), behind_front_end(net)
    names = [str(n) for n in range(net.arch.classes)]
    return integer_reference(int8_onnx(net, names, {})).run(samples).logits


class CSession(Session):
    """`net.c` as a shared library in this process.

    Parameters
    ----------
    folder : Path
        Of `net.c` and `net.h`.
    options : sequence of str, optional
        Of the compiler; the fastest ones for this machine by default.
    compiler : str, optional
        Its name; the first that is found by default.

    Raises
    ------
    DataError
        If the files cannot be compiled.
    """

    def __init__(
        self, folder: Path, options: Sequence[str] | None = None, compiler: str | None = None
    ) -> None:
        untrusted_files.read_bytes(folder / "net.c", untrusted_files.MODEL, fix=_FIX)
        scratch = tempfile.mkdtemp(prefix="lepton-c-")
        try:
            shim, library = Path(scratch) / "shim.c", Path(scratch) / "net.so"
            shim.write_text(_SHIM)
            cc = compiler or _compiler()
            said = ""
            tried = _FAST if options is None else (tuple(options),)
            for given in tried:
                made = ["-shared", "-fPIC", "-I", str(folder), "-o", str(library)]
                said = _run([cc, *_STRICT, *given, *made, str(folder / "net.c"), str(shim)])
                if not said:
                    break
            if said:
                raise DataError(f"{folder / 'net.c'} does not compile: {said}", fix=_FIX)
            self._library = ctypes.CDLL(str(library))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self.arena_bytes = int(self._library.lepton_arena_bytes())
        self._input_bytes = int(self._library.lepton_input_bytes())
        self._classes = int(self._library.lepton_classes())
        self._arena = np.zeros(self.arena_bytes, np.uint8)

    def predict(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        """Probabilities (n, classes)."""
        return self._outputs(self._library.lepton_run, samples)

    def logits(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        """Logits (n, classes)."""
        return self._outputs(self._library.lepton_logits, samples)

    def prepared(self, sample: NDArray[Any]) -> Callable[[], object]:
        """One call of the library, with its pointers at hand."""
        sample = np.ascontiguousarray(sample)
        found = np.zeros(self._classes, np.float32)
        arguments = [_pointer(each) for each in (sample, self._arena, found)]
        kept = (self, sample, found)  # What the pointers point to lives as long as the function.
        call = self._library.net_probabilities
        return lambda: (call(*arguments), kept)

    def _outputs(self, call: Any, samples: NDArray[Any]) -> NDArray[np.float32]:
        samples = np.ascontiguousarray(samples)
        if len(samples) and samples[0].nbytes != self._input_bytes:
            raise DataError(
                f"a sample has {samples[0].nbytes} bytes, net.c reads {self._input_bytes}", fix=_FIX
            )
        found = np.zeros((len(samples), self._classes), np.float32)
        call(_pointer(samples), len(samples), _pointer(self._arena), _pointer(found))
        return found


def flash_bytes(
    folder: Path, core: Sequence[str] = CORTEX_M4, options: Sequence[str] = ("-Os",)
) -> int | None:
    """Bytes of code and constants of a linked net; None without a cross compiler.

    Parameters
    ----------
    folder : Path
        Of `net.c` and `net.h`.
    core, options : sequence of str
        Of the cross compiler.
    """
    if shutil.which(CROSS_COMPILER) is None:
        return None
    scratch = tempfile.mkdtemp(prefix="lepton-c-")
    try:
        linked = Path(scratch) / "net.elf"
        linker = ["-nostdlib", "-Wl,--gc-sections,--entry=net_probabilities", "-o", str(linked)]
        sections = ["-ffunction-sections", "-fdata-sections", *linker, str(folder / "net.c")]
        said = _run([CROSS_COMPILER, *_STRICT, *core, *options, *sections, "-lgcc"])
        if said:
            raise DataError(f"{folder / 'net.c'} does not compile: {said}", fix=_FIX)
        sizes = subprocess.run(
            ["arm-none-eabi-size", str(linked)], capture_output=True, text=True, check=True
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    text, data = sizes.stdout.splitlines()[1].split()[:2]
    return int(text) + int(data)


def _run(command: list[str]) -> str:
    """Run a compiler; the first line of what it says if it fails, else empty."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if "error" in line] or ["it failed"]
    return lines[0][:200] if done.returncode else ""


def _compiler() -> str:
    return next((path for name in COMPILERS if (path := shutil.which(name))), "")


def _text(path: Path) -> str:
    return untrusted_files.read_text(path, fix=_FIX)


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
