"""A child process that verifies an artifact, which knows only its files.

For an artifact that this process has just written that is `verify_in_fresh_process`. Any other may
have been made by a stranger, with a manifest that fits: `VerificationProcess` opens it within
limits on memory and time.

- opening (digests, contradictions, one run of each file on the golden pictures): 384 MiB and 16
  times the files, and what a batch may take; 5 s of processor time, and 1 s a MB.
- measuring: 384 MiB, 16 times the files, 3 times the pictures, and 64 kB for each value of a
  picture (at most 8 GiB), which the exact integer arithmetic takes in wide nets; 120 s of processor
  time and 2 ms a picture, or more for large files.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

from lepton_automl.artifact import manifest
from lepton_automl.artifact.manifest import INT8, MODELS
from lepton_automl.artifact.provenance import read_provenance
from lepton_automl.artifact.verdict import Verdict
from lepton_automl.artifact.verify import Request, is_external, refusal, refused_verdict, verify
from lepton_automl.core import untrusted_files
from lepton_automl.core.limited_process import (
    LimitedProcess,
    Message,
    ProcessLimits,
    is_out_of_memory,
    serve,
)
from lepton_automl.core.untrusted_files import MODEL, is_of_machine
from lepton_automl.data.pictures.framing import Framing, framing_in
from lepton_automl.errors import first_line
from lepton_automl.models import onnx_file
from lepton_automl.models.untrusted.onnx_graph import MALFORMED
from lepton_automl.models.untrusted.session import run_limits

PROGRAM = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.artifact.verification_process import main; main()"
)
_FIX = "use an artifact of a source that you trust, or make it again: lepton export RUN"
_BASE_BYTES, _BYTES_PER_BYTE = 384 << 20, 16
_BYTES_PER_VALUE, _MAX_INTEGER_BYTES = 1 << 16, 8 << 30


class VerificationProcess:
    """A child process that verifies a sealed artifact of unknown origin; starts at once.

    Parameters
    ----------
    folder : Path
        The artifact folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._process = folder, LimitedProcess(PROGRAM)
        self._bytes = sum(_size(folder / name) for name in MODELS)
        self.framing: Framing | None = None
        """How the pictures of an external model get its size; known after `refusal`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()

    def refusal(self) -> Verdict | None:
        """As `verify.refusal`.

        Raises
        ------
        DataError
            As `refusal`, or if a file exceeds a limit or crashes the process.
        """
        answer = self._call({"folder": str(self._folder)}, self._opening())
        text = answer.pop("framing")
        self.framing = None if text is None else Framing.from_json(text)
        return None if answer["refused"] is None else Verdict.from_document(answer["refused"])

    def verify(self, request: Request) -> Verdict:
        """As `verify.verify`.

        Raises
        ------
        DataError
            As `verify`, or if a file exceeds a limit or crashes the process.
        """
        return Verdict.from_document(
            self._call({"request": request.to_json()}, self._measuring(request))
        )

    def _call(self, fields: dict[str, Any], limits: ProcessLimits) -> dict[str, Any]:
        subject = f"a file of {self._folder}"
        return self._process.call(fields, subject=subject, fix=_FIX, limits=limits).fields

    def _opening(self) -> ProcessLimits:
        golden = _size(self._folder / manifest.GOLDEN)
        batch = run_limits(self._bytes, golden)
        memory = _BASE_BYTES + _BYTES_PER_BYTE * self._bytes + batch.memory_bytes
        seconds = 2.0 + 1e-6 * self._bytes + len(MODELS) * (batch.processor_seconds - 3.0) + 3.0
        return ProcessLimits(memory, seconds, 60.0 + 10.0 * seconds)

    def _measuring(self, request: Request) -> ProcessLimits:
        given = [request.pixels, request.labels, *(request.validation or ())]
        given += [] if request.own_sizes is None else [request.own_sizes]
        pictures = sum(_size(path) for path in given)
        values = math.prod(read_provenance(self._folder).input)
        memory = _BASE_BYTES + _BYTES_PER_BYTE * self._bytes + 3 * pictures
        memory += min(_BYTES_PER_VALUE * values, _MAX_INTEGER_BYTES)
        picture_seconds = 2e-3 + min(self._bytes * values / 1e10, 10.0)
        seconds = 120.0 + len(MODELS) * pictures / max(1, values) * picture_seconds
        return ProcessLimits(memory, seconds, 60.0 + 10.0 * seconds)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def verify_in_fresh_process(request: Request) -> Verdict:
    """`verify` in a child process, of an artifact that this process wrote.

    There are limits only where its graph is of a model made elsewhere.

    Raises
    ------
    DataError
        As `verify`, or if a file of a model made elsewhere exceeds a limit or crashes the process.
    MachineError
        If the process was killed, for example because memory ran out.
    """
    if is_external(request.folder):
        with VerificationProcess(request.folder) as verification:
            return verification.verify(request)
    with LimitedProcess(PROGRAM) as process:
        fields = {"request": request.to_json()}
        subject = f"the artifact {request.folder}"
        answer = process.call(fields, subject=subject, fix=_FIX, limits=None)
    return Verdict.from_document(answer.fields)


def main() -> None:
    """Answer requests until the parent process closes the pipe."""
    serve(answer)


def answer(message: Message) -> Message:
    """Open an artifact (`folder`), or verify it (`request`).

    Raises
    ------
    DataError
        As `refusal` and `verify`.
    """
    if "folder" in message.fields:
        folder = Path(message.fields["folder"])
        try:
            refused = refusal(folder)
        except MALFORMED as error:
            if is_of_machine(error) or is_out_of_memory(error):
                raise
            refused = refused_verdict([_unmeasurable(error)])
        framing = None if refused else _framing(folder)
        return Message({"refused": refused and refused.document(), "framing": framing})
    request = Request.from_json(message.fields["request"])
    try:
        return Message(verify(request).document())
    except MALFORMED as error:
        is_own = request.digests is not None and not is_external(request.folder)
        if is_own or is_of_machine(error) or is_out_of_memory(error):
            raise  # A bug, where this process's parent made the graphs.
        return Message(refused_verdict([_unmeasurable(error)], request).document())


def _unmeasurable(error: BaseException) -> str:
    return f"its files cannot be measured: {type(error).__name__}: {first_line(error)}"


def _framing(folder: Path) -> str | None:
    """How pictures get the size of an external model, in the metadata of its file."""
    file = untrusted_files.read_bytes(folder / INT8, MODEL, fix=manifest.FRESH)
    try:
        found = framing_in(onnx_file.read_metadata(file))
    except (ValueError, TypeError, KeyError) as error:
        raise manifest.unusable(folder / INT8, f"framing in its metadata: {error}") from error
    return None if found is None else found.to_json()
