"""The small runs that faults are injected into, and what has to hold after each of them."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image

from tests.faults import warm as shim
from tests.faults.operations import counted
from tests.faults.warm import Command, Warm, scratch
from tests.helpers.processes import Row, read_rows

CLASSES, SAMPLES = 3, 120
SPACE = """
doc = "two small nets, an epoch each"
[input]
resolution = "native"
example = [8, 8, 1]
[all]
activation = "relu"
[stem]
out = [4, 8]
stride = 2
[[stage]]
layer = "conv"
out = [8, 12]
depth = 1
stride = 1
[head]
features = 0
[train]
optimizer = "adamw"
lr = 0.01
batch_size = 32
epochs = 1
[[candidate]]
name = "only"
stem.out = 4
stage1.out = 8
"""
EXIT_CODES = {0, 3, 4, 5, 6, 7}
"""Documented codes of a command that was not interrupted."""
VERDICT, INTERRUPTED = 6, 130
MEASURED = {"verdict.json", "MODEL_CARD.md", "manifest.json", "sbom.cdx.json"}
"""Files of an artifact that hold times, or hashes of those."""


@dataclass
class Scenario:
    """A folder with everything that commands read and write: data, run, state, temporary files."""

    base: Path
    trials: int = 2
    jobs: int = 1

    @property
    def run(self) -> Path:
        return self.base / "run"

    @property
    def run_arguments(self) -> list[str]:
        """Of `lepton run`; nothing in its result depends on a clock."""
        return [
            *("run", "few.npz", "--space", "space.toml", "--trials", str(self.trials)),
            *("--jobs", str(self.jobs), "--objective", "accuracy,size_bytes", "--out", "run"),
        ]

    def make(self) -> Scenario:
        """Write data and search space."""
        self.base.mkdir(parents=True)
        for name in ("state", "tmp"):
            (self.base / name).mkdir()
        from sklearn.datasets import load_digits

        digits = load_digits()
        chosen = np.flatnonzero(digits.target < CLASSES)[:SAMPLES]
        x = (digits.images[chosen] * 15.9375).astype(np.uint8)
        np.savez(self.base / "few.npz", x=x, y=digits.target[chosen])
        (self.base / "space.toml").write_text(SPACE)
        (self.base / "preprocessing.toml").write_text("mean = 0.0\nstd = 1.0\n")
        Image.fromarray(x[0]).save(self.base / "picture.png")
        onnx.save(float_net(x[..., None], digits.target[chosen]), self.base / "net.onnx")
        return self

    def copy(self, base: Path) -> Scenario:
        """The same in another folder, as it is now."""
        shutil.copytree(self.base, base, symlinks=True)
        return Scenario(base, self.trials, self.jobs)

    def start(
        self,
        warm: Warm,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        **more: object,
    ) -> Command:
        """Start a command in this folder; `more` as for `Warm.start`."""
        settings = {
            "LEPTON_STATE_DIR": str(self.base / "state"),
            "TMPDIR": str(self.base / "tmp"),
            "HOME": str(self.base / "state"),
        }
        return warm.start(
            *arguments, cwd=self.base, environment=settings | dict(environment or {}), **more
        )  # type: ignore[arg-type]

    def files(self, folder: str = "run/artifact") -> dict[str, str]:
        """sha256 of every file of an artifact in which no time is written."""
        return {
            str(path.relative_to(self.base)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((self.base / folder).rglob("*"))
            if path.is_file() and path.name not in MEASURED
        }


def float_net(pixels: np.ndarray, labels: np.ndarray) -> onnx.ModelProto:
    """A classifier made elsewhere: random filters, and a fully connected layer fitted to them."""
    filters = np.random.default_rng(0).normal(size=(6, 1, 8, 8)).astype(np.float32) / 8
    x = pixels.astype(np.float32).reshape(len(pixels), -1) / 255
    features = np.maximum(x @ filters.reshape(6, -1).T, 0)
    design = np.hstack([features, np.ones((len(x), 1), np.float32)])
    fitted = np.linalg.lstsq(design, np.eye(CLASSES, dtype=np.float32)[labels], rcond=None)[0]
    weights = {
        "filters": filters,
        "matrix": (8 * fitted[:-1]).astype(np.float32),
        "bias": (8 * fitted[-1]).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["input", "filters"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("Gemm", ["c", "matrix", "bias"], ["output"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("input", ["n", 1, 8, 8]), ("output", ["n", CLASSES]))
    ]
    initial = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], initial)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@dataclass
class Watched:
    """What was seen of a run while faults are injected into it; what was there stays there."""

    folder: Path
    rows: list[Row] = field(default_factory=list)
    trainings: dict[str, set[int]] = field(default_factory=dict)
    """Checkpoint -> times at which its weights were written, in ns: one each time it was made."""
    has_true_times: bool = True
    """Times of files and of events can be compared."""

    def look(self) -> list[str]:
        """Look at ledger and checkpoints; what is wrong with them."""
        now, problems = read_rows(self.folder / "ledger.db"), []
        if now[: len(self.rows)] != self.rows:
            lost = [row[1:3] for row in self.rows if row not in now]
            problems.append(f"recorded events are lost or changed: {lost[:3]}")
        self.rows = now or self.rows
        for weights in self.folder.glob("checkpoints/*/weights.safetensors"):
            try:
                written = weights.stat().st_mtime_ns
            except FileNotFoundError:
                continue
            self.trainings.setdefault(weights.parent.name, set()).add(written)
        recorded = {_checkpoint(row[2]): row[4] for row in now if row[1] in {"rung", "fold"}}
        for name, times in self.trainings.items():
            if self.has_true_times and name in recorded and max(times) > recorded[name] * 1e9:
                problems.append(f"{name} was trained again after its result was recorded")
        return problems


def _checkpoint(key: str) -> str:
    """Folder of what the task with this key saves."""
    number, _, rung = key.partition("-")
    return f"{int(number):05d}-{rung}"


def message_problems(command: Command, code: int | None, allowed: Iterable[int]) -> list[str]:
    """What is wrong with the end of a command: its code, a traceback, not one message."""
    problems, err = list[str](), command.err
    if code is None:
        return ["it does not end"]
    if code not in set(allowed):
        problems.append(f"exit code {code}: {last_line(err)}")
    if "Traceback (most recent call last)" in err or "Exception ignored" in err:
        start = max(err.find("Traceback (most recent"), err.find("Exception ignored"))
        problems.append(f"traceback: {last_line(err)}\n{err[max(0, start - 300) :]}\n")
    messages = len(re.findall(r"^(?:[Ee]rror: |.*\berror: )", err, re.MULTILINE))
    is_verdict = code == VERDICT and "broken" in command.out
    if code and code > 0 and not problems and not messages and not is_verdict:
        problems.append(f"exit code {code} without a message: {last_line(err)}")
    if messages > 1:
        problems.append(f"{messages} messages: {last_line(err)}")
    return problems


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or [""])[-1][:300]


def end_problems(scenario: Scenario, artifact: str = "run/artifact") -> list[str]:
    """What is wrong with a finished run: temporary files, an incomplete artifact.

    The folder for temporary files of a command that was killed is deleted by the next one.
    """
    problems, passing = [], scenario.base / "tmp"
    left = [
        str(path.relative_to(scenario.base))
        for path in scenario.base.rglob("*")
        if path.name.endswith(".tmp") or passing in path.parents
    ]
    if left:
        problems.append(f"temporary files are left: {left[:3]}")
    manifest = scenario.base / artifact / "manifest.json"
    if not manifest.exists():
        return [*problems, "there is no artifact"]
    for name, about in json.loads(manifest.read_text())["files"].items():
        file = manifest.parent / name
        found = hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""
        if found != about["sha256"]:
            problems.append(f"{name} is not the file of the manifest")
    return problems


def difference(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Files that differ, as problems."""
    if expected == found:
        return []
    names = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    return [f"files differ from those of the undisturbed run: {names[:4]}"]


def finish(
    scenario: Scenario, warm: Warm, arguments: Sequence[str], codes: Sequence[int] = (0,)
) -> list[str]:
    """Repeat a command until it ends by itself; what is wrong with how it does."""
    command = scenario.start(warm, *arguments)
    code = command.wait()
    problems = message_problems(command, code, codes)
    command.destroy()
    warm.forget(command)
    return [f"the same command afterwards: {problem}" for problem in problems]


@dataclass(frozen=True)
class Work:
    """A command, the state of the folder that it starts from, and what it makes undisturbed."""

    name: str
    arguments: list[str]
    start: Scenario
    """Copied for each case."""
    end: Scenario
    """What is there after the undisturbed command."""
    folder: str
    """With ledger and checkpoints."""
    artifact: str
    made: dict[str, str]
    """sha256 of the files of the artifact."""
    counted: tuple[tuple[int, str], ...]
    """Kind and place of each operation of the undisturbed command (`operations.counted`), opening
    and reading of files too; empty without the shim."""
    modules: tuple[str, ...]
    """Imported when the undisturbed command ended."""

    @property
    def operations(self) -> int:
        """How many change the disk."""
        return sum(bool(kind & shim.CHANGES) for kind, _ in self.counted)


def works(
    known: dict[str, Work], warm: Warm, folder: Path, names: Sequence[str], jobs: int
) -> None:
    """Make each command's start and its undisturbed end in a folder.

    Parameters
    ----------
    known : dict
        What was made before; the rest of `names` is added.
    warm : Warm
        Starts the commands.
    folder : Path
        For the scenarios.
    names : sequence of str
        Of `run`, `pick` and `compress`.
    jobs : int
        Workers of `run`.
    """
    fresh = Scenario(folder / "fresh", jobs=jobs)
    done = Scenario(folder / "done", jobs=jobs)
    pick = ["pick", "run", "--max-size-kb", "2.1", "--out", "picked"]
    compress = ["compress", "net.onnx", "--data", "few.npz", "--out", "ext"]
    for name, arguments, place, artifact in (
        ("run", fresh.run_arguments, "run", "run/artifact"),
        ("pick", pick, "run", "picked/artifact"),
        ("compress", compress, "ext", "ext/artifact"),
    ):
        if name in known or name not in {"run", *names}:
            continue
        start = fresh.make() if name == "run" else done
        end = start.copy(done.base if name == "run" else folder / f"{name}-done")
        modules = folder / f"{name}-modules"
        command = end.start(
            warm,
            *arguments,
            root=end.base if warm.has_shim else None,
            log=(log := folder / f"{name}-log"),
            **({"mask": shim.CHANGES | shim.OPEN | shim.READ} if warm.has_shim else {}),
            patches=[["list_modules", str(modules)]],
        )
        if code := command.wait():
            raise AssertionError(f"{name} undisturbed ends with {code}: {command.err}")
        imported = tuple(modules.read_text().split())
        warm.import_more(imported)
        operations = tuple(counted(log, end.base)) if command.plan else ()
        made = end.files(artifact)
        assert made, f"{name} makes nothing in {artifact}"
        known[name] = Work(name, arguments, start, end, place, artifact, made, operations, imported)


_prepared: dict[int, dict[str, Work]] = {}
_open = contextlib.ExitStack()


@functools.cache
def warm_process() -> tuple[Warm, Path]:
    """The process from which commands are forked, and a folder for scenarios."""
    atexit.register(_open.close)
    folder = _open.enter_context(scratch())
    return _open.enter_context(Warm(folder / "warm")), folder


@functools.cache
def another_warm_process(number: int) -> Warm:
    """One more process from which commands are forked, which has imported what the first has."""
    _, folder = warm_process()
    warm = _open.enter_context(Warm(folder / f"warm-{number}"))
    known = [work for works in _prepared.values() for work in works.values()]
    warm.import_more({name for work in known for name in work.modules})
    return warm


def prepared(*names: str, jobs: int = 1) -> tuple[Warm, dict[str, Work], Path]:
    """A warm process with commands that are made once for all kinds, and a folder for cases."""
    warm, folder = warm_process()
    known = _prepared.setdefault(jobs, {})
    works(known, warm, folder / f"jobs-{jobs}", names, jobs)
    return warm, {name: known[name] for name in names}, Path(tempfile.mkdtemp(dir=folder))


def is_root() -> bool:
    """Whether other users can be tried."""
    return os.geteuid() == 0
