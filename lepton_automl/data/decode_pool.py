"""Read many picture files in several processes, each of which has its share of the memory.

Small pictures spend most of their time in Python, where threads wait for each other. A process
reads chunks of files as lines of JSON from its standard input. It ends with its parent.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from lepton_automl.core import subprocesses
from lepton_automl.core.events import Emit, silent
from lepton_automl.core.progress import Countdown
from lepton_automl.core.untrusted_archives import Member
from lepton_automl.data import picture_check
from lepton_automl.data.picture_check import CheckResult
from lepton_automl.data.pictures import decode, picture_files
from lepton_automl.data.pictures.framing import Framing
from lepton_automl.data.pictures.picture_files import REPAIR, Picture, PictureFile, Pictures
from lepton_automl.data.pictures.pixel_scale import SIXTEEN_BIT, PixelScale
from lepton_automl.errors import DataError, LeptonError, MachineError

MANY = 1000
"""Pictures from which processes are worth their start, and what is found is worth keeping."""
_CHUNK = 64
"""Pictures that a process checks at a time."""
_MOST_PROCESSES = 16

_PROGRAM = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.data.decode_pool import main; main()"
)

OnChecked = Callable[[Sequence[int], Sequence[CheckResult]], None]
"""Called with places of pictures, and what was found."""


@dataclass(frozen=True)
class ReadOptions:
    """How picture files are read; nothing here changes what is read."""

    processes: int = 0
    """Processes at most; 0: one per CPU core that this process may use."""
    memory: int = picture_files.MEMORY
    """Bytes that all pictures which are decoded at the same time take together."""
    emit: Emit = silent
    """Receives progress."""
    is_forced: bool = False
    """Whether all files are read again, also those in the cache of checks."""

    def count_for(self, pictures: Sequence[object]) -> int:
        """Processes for so many pictures; 1: this one."""
        if len(pictures) < MANY or any(isinstance(each, np.ndarray) for each in pictures):
            return 1
        allowed = self.processes or len(os.sched_getaffinity(0))
        return max(1, min(allowed, _MOST_PROCESSES, len(pictures) // (MANY // 4)))


@dataclass(frozen=True)
class Decoding:
    """How pictures are decoded: the parameters of `decode.decode`."""

    channels: int
    size: tuple[int, int]
    scale: PixelScale = SIXTEEN_BIT
    framing: Framing | None = None

    def decode(self, picture: Picture) -> NDArray[np.uint8]:
        """Decode a picture to pixels (H, W, C); errors as of `decode.decode`."""
        return decode.decode(picture, self.channels, self.size, self.scale, self.framing)

    def to_json(self) -> list[Any]:
        """As values that JSON can hold."""
        framing = None if self.framing is None else self.framing.to_json()
        return [self.channels, self.size, [self.scale.black, self.scale.white], framing]

    @classmethod
    def from_json(cls, values: list[Any]) -> Self:
        """Read what `to_json` gave."""
        channels, (height, width), scale, framing = values
        read = None if framing is None else Framing.from_json(framing)
        return cls(channels, (height, width), PixelScale(*scale), read)


class _Lost(Exception):
    """A process ended before it answered."""


class _Process:
    """One process that reads pictures."""

    def __init__(self, memory: int) -> None:
        path = os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path)
        self._process = subprocesses.start_child(
            [sys.executable, "-c", _PROGRAM, str(os.getpid()), str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )

    def call(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Answer of a request, and the bytes after it.

        Raises
        ------
        _Lost
            If the process ends.
        LeptonError
            If the machine is at fault.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps(request, separators=(",", ":")).encode() + b"\n")
            stdin.flush()
            line = stdout.readline()
            answer: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
            content = stdout.read(answer.get("bytes", 0))
        except (BrokenPipeError, ValueError, OSError) as error:
            raise _Lost from error
        if not answer or len(content) < answer.get("bytes", 0):
            raise _Lost
        if "error" in answer:
            kind = MachineError if answer["error"] == "MachineError" else DataError
            raise kind(answer["what"], fix=answer["fix"])
        return answer, content

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


class DecodePool:
    """Processes that read picture files; use it in a `with` block.

    Parameters
    ----------
    processes : int
        Their number.
    memory : int
        Bytes that all pictures which are decoded at the same time take together. A picture that
        needs more than the share of a process is left to the caller.
    """

    def __init__(self, processes: int, memory: int = picture_files.MEMORY) -> None:
        self._share = memory // processes
        self._idle: list[_Process] = []
        self._all: list[_Process] = []
        self._is_open, self._lock = True, threading.Lock()
        # Linux ends a process with the thread that has started it, so these stay to the end.
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="decode")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._is_open = False
        for process in self._all:
            process.end()
        self._threads.shutdown(cancel_futures=True)

    def answers(
        self, requests: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[int, dict[str, Any], bytes]]:
        """Number of each request, its answer and the bytes after it, in the order they come.

        A request whose process was lost has the answer `{"lost": true}`.

        Raises
        ------
        LeptonError
            If the machine is at fault.
        """
        futures = {self._threads.submit(self._call, each): n for n, each in enumerate(requests)}
        for future in as_completed(list(futures)):
            yield futures.pop(future), *future.result()

    def decode_into(
        self,
        file: Path,
        start: int,
        pictures: Sequence[PictureFile],
        chunks: Sequence[range],
        how: Decoding,
    ) -> Iterator[tuple[int, int]]:
        """Decode chunks of picture files to their places in a file of pixels.

        Parameters
        ----------
        file : Path
            Is there and has its whole size.
        start : int
            Place of the first pixel, bytes.
        pictures : sequence of Path or Member
            All pictures of the file.
        chunks : sequence of range
            Which pictures are decoded, each range at once.
        how : Decoding
            How they are decoded.

        Yields
        ------
        (int, int)
            Number of a chunk, and CRC-32 of its pixels; -1: the caller has to decode it, because it
            needs more memory than the share of a process, or since its process was lost.

        Raises
        ------
        LeptonError
            If a file cannot be read any more, or the machine is at fault.
        """
        bytes_each = how.size[0] * how.size[1] * how.channels
        requests = [
            {
                "decode": [_packed(pictures[n]) for n in chunk],
                "how": how.to_json(),
                "file": str(file.absolute()),
                "offset": start + chunk.start * bytes_each,
            }
            for chunk in chunks
        ]
        for number, answer, _ in self.answers(requests):
            yield number, answer.get("crc", -1)

    def _call(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        with self._lock:
            if not self._is_open:
                return {"lost": True}, b""
            if not self._idle:
                self._idle.append(_Process(self._share))
                self._all.append(self._idle[-1])
            process = self._idle.pop()
        try:
            answer = process.call(request)
        except _Lost:
            process.end()
            return {"lost": True}, b""
        except LeptonError:
            self._idle.append(process)
            raise
        self._idle.append(process)
        return answer


def only_files(pictures: Pictures) -> tuple[PictureFile, ...]:
    """The pictures, where all of them are files; else none."""
    if isinstance(pictures, np.ndarray):
        return ()
    found = tuple(picture for picture in pictures if not isinstance(picture, np.ndarray))
    return found if len(found) == len(pictures) else ()


def check(
    pictures: Sequence[PictureFile],
    reading: ReadOptions,
    on_checked: OnChecked | None = None,
    *,
    before: int = 0,
) -> list[CheckResult]:
    """Check picture files, in several processes where they are many.

    Parameters
    ----------
    pictures : sequence of Path or Member
        The files.
    reading : ReadOptions
        Processes, memory and where progress goes.
    on_checked : callable, optional
        Called from time to time with what was found.
    before : int
        Pictures that were checked before, for progress.

    Returns
    -------
    list of CheckedPicture or DataError
        In the order of the files.
    """
    countdown = Countdown("checking pictures", before + len(pictures), reading.emit, before)
    count = reading.count_for(pictures)
    if count == 1:
        return _check_here(pictures, on_checked, countdown)
    found: dict[int, CheckResult] = {}
    left: list[int] = []
    chunks = [range(n, min(n + _CHUNK, len(pictures))) for n in range(0, len(pictures), _CHUNK)]
    requests = [{"check": [_packed(pictures[n]) for n in chunk]} for chunk in chunks]
    with DecodePool(count, reading.memory) as pool:
        lost = _take(pool, requests, chunks, found, left, on_checked, countdown)
        # A picture on which a reader crashes takes its whole chunk with it.
        again = [range(n, n + 1) for chunk in lost for n in chunk]
        single = [{"check": [_packed(pictures[n]) for n in chunk]} for chunk in again]
        for chunk in _take(pool, single, again, found, left, on_checked, countdown):
            what = f"{pictures[chunk[0]]} cannot be read: the process that reads it ends"
            found[chunk[0]] = DataError(what, fix=REPAIR)
    for n, result in zip(left, _check_here([pictures[n] for n in left], None, None), strict=True):
        found[n] = result
        if on_checked is not None:
            on_checked([n], [result])
    return [found[n] for n in range(len(pictures))]


def _take(
    pool: DecodePool,
    requests: Sequence[Mapping[str, Any]],
    chunks: Sequence[range],
    found: dict[int, CheckResult],
    left: list[int],
    on_checked: OnChecked | None,
    countdown: Countdown,
) -> list[range]:
    """Put the answers on chunks into `found`, what needs more memory into `left`; lost chunks."""
    lost = []
    for number, answer, content in pool.answers(requests):
        chunk = chunks[number]
        if "lost" in answer:
            lost.append(chunk)
            continue
        large = set(answer["large"])
        places = [n for place, n in enumerate(chunk) if place not in large]
        results = picture_check.unpack(content, len(places))
        found.update(zip(places, results, strict=True))
        left += [chunk[place] for place in answer["large"]]
        if on_checked is not None:
            on_checked(places, results)
        countdown.add(len(chunk))
    return lost


def _check_here(
    pictures: Sequence[PictureFile], on_checked: OnChecked | None, countdown: Countdown | None
) -> list[CheckResult]:
    on_item = None if countdown is None else countdown.add_one
    results = decode.map_in_threads(picture_check.check_one, pictures, on_item)
    if on_checked is not None:
        on_checked(range(len(pictures)), results)
    return results


def _packed(picture: PictureFile) -> str | list[Any]:
    if isinstance(picture, Path):
        return str(picture)
    fields = dataclasses.asdict(picture) | {"archive": str(picture.archive)}
    return list(fields.values())


def _unpacked(value: str | list[Any]) -> PictureFile:
    if isinstance(value, str):
        return Path(value)
    archive, *rest = value
    return Member(Path(archive), *rest)


def main() -> None:
    """Answer requests until the input ends."""
    share = int(sys.argv[2])
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What a library prints does not go among the answers.
    picture_files.limit_memory(share)
    picture_files.prepare()
    for line in requests:
        try:
            answer, content = _answered(json.loads(line))
        except (LeptonError, OSError, MemoryError) as error:
            answer, content = dict[str, Any](subprocesses.error_answer(error)), b""
        _send(answers, answer, content)


def _send(out: BinaryIO, answer: Mapping[str, Any], content: bytes) -> None:
    out.write(json.dumps({**answer, "bytes": len(content)}).encode() + b"\n" + content)
    out.flush()


def _answered(request: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    if "check" in request:
        results: list[CheckResult] = []
        large: list[int] = []
        for place, picture in enumerate(request["check"]):
            try:
                results.append(picture_check.check_one(_unpacked(picture)))
            except picture_files.NeedsMemory:
                large.append(place)
        return {"large": large}, picture_check.pack(results)
    how = Decoding.from_json(request["how"])
    pixels = np.empty((len(request["decode"]), *how.size, how.channels), np.uint8)
    try:
        for place, picture in enumerate(request["decode"]):
            pixels[place] = how.decode(_unpacked(picture))
    except picture_files.NeedsMemory:
        return {"large": True}, b""
    handle = os.open(request["file"], os.O_WRONLY | os.O_CLOEXEC)
    try:
        view, offset = pixels.data.cast("B"), request["offset"]
        while view:
            written = os.pwrite(handle, view, offset)
            view, offset = view[written:], offset + written
    finally:
        os.close(handle)
    return {"crc": zlib.crc32(pixels.data)}, b""
