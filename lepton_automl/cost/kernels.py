"""The kernels of ONNX Runtime that run a file here, what each computes, and their times.

ONNX Runtime fuses operators, drops conversions and inserts changes of layout when it opens a file.
The graph that results is matched with the written one by the names of tensors and nodes.

Times come from its profiler, at batch 1 on one thread. It notes when each kernel starts, in whole
microseconds; over many calls the mean of the differences is exact, while single durations are cut
off. The profiler itself takes some time for each kernel: what a profiled call takes longer than one
without it is subtracted in equal parts.
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from lepton_automl.core.call_times import shortest_call
from lepton_automl.core.scratch import scratch_folder
from lepton_automl.cost.layer_table import CONVERSIONS, NodeNames, front_outputs, node_names
from lepton_automl.errors import MachineError, first_line
from lepton_automl.models.onnx_file import SCRATCH_FIX, open_optimized, open_session

_MOVES = frozenset({"Transpose", "Reshape", "Unsqueeze", "Squeeze", "Cast"})
_AFTER = frozenset(
    {"QuantizeLinear", "BatchNormalization", "Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid"}
    | {"HardSwish", "PRelu", "Elu", "Tanh", "Selu", "Softplus"}
)
"""Operators that are fused with what is before them; others with what is after them."""
_ADDED = re.compile(r"^(?:fused )?(.+?)(?:_token_\d+|_nchwc|_\d+)?$")
"""Names that ONNX Runtime makes of those of the nodes it replaces."""
_KEPT = 0.2
"""Share of the profiled calls that is used, the fastest: disturbances only add time."""
_MOST_EVENTS, _MOST_CALLS, _LEAST_CALLS = 40_000, 800, 10
_CHAIN = (8, 64)
"""Operators of the two chains that show what a call takes outside of its kernels."""


@dataclass(frozen=True)
class Kernel:
    """A node of the graph that ONNX Runtime runs."""

    name: str
    kind: str
    """`QLinearConv`, `ReorderInput`."""
    layers: tuple[str, ...]
    """Layers that it computes, of which the others but the last are fused into it; empty of a node
    that ONNX Runtime added."""
    replaces: tuple[str, ...]
    """Operators of the file that it replaces: `Conv`, `QuantizeLinear`, `2 DequantizeLinear`."""
    microseconds: float
    """A call; 0 where it is below what can be told from the profiler's own time."""


@dataclass(frozen=True)
class KernelTable:
    """All kernels in the order in which they run."""

    kernels: tuple[Kernel, ...]
    call_microseconds: float
    """Of a whole call from Python, not profiled."""
    rest_microseconds: float
    """Of those, outside of the kernels: checks, copies, Python; that of a chain of operators."""
    at_load: int
    """Operators of the file that are computed once when it is opened."""


def kernel_table(file: bytes, feeds: Mapping[str, NDArray[Any]], seconds: float) -> KernelTable:
    """Open a file, match its graph with the one that is run, and measure.

    Parameters
    ----------
    file : bytes
        An ONNX file that is safe to open in this process.
    feeds : mapping of str to array
        One sample for each input.
    seconds : float
        Of each of the two measurements, not counting their analysis.

    Raises
    ------
    MachineError
        If ONNX Runtime cannot write to the folder for temporary files.
    """
    model = ModelProto.FromString(file)
    names = node_names(model.graph, front_outputs(model))
    _name_all(model)
    file = model.SerializeToString()
    session, optimized = open_optimized(file)
    running, call = optimized.graph, _caller(session, feeds)
    plain = 1e6 * shortest_call(call, seconds)
    starts = _profiled(file, feeds, seconds, len(running.node))
    plain = min(plain, 1e6 * shortest_call(call, seconds))
    rest = min(_rest_microseconds(), plain)
    own = max(0.0, (sum(starts.values()) - (plain - rest)) / len(running.node))
    computes, at_load = _matched(model.graph, names, running)
    kernels = tuple(
        Kernel(
            name=node.name,
            kind=node.op_type,
            layers=computes[number][0],
            replaces=computes[number][1],
            microseconds=max(0.0, starts.get(node.name, 0.0) - own),
        )
        for number, node in enumerate(running.node)
    )
    return KernelTable(kernels, plain, rest, at_load)


def _name_all(model: ModelProto) -> None:
    """Give all nodes a name, by which the profiler tells them apart."""
    taken = {node.name for node in model.graph.node}
    for number, node in enumerate(model.graph.node):
        if not node.name:
            name = f"{node.op_type} {number}"
            node.name = name if name not in taken else f"{name} unnamed"


def random_feeds(session: onnxruntime.InferenceSession) -> dict[str, NDArray[Any]]:
    """One random sample for each input of an open file; free dimensions of a batch are 1.

    Raises
    ------
    ValueError
        If another dimension is free, or the type of an input is not known.
    """
    kinds = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
    rng, found = np.random.default_rng(0), {}
    for value in session.get_inputs():
        name = value.type.removeprefix("tensor(").removesuffix(")")
        kind = np.dtype(kinds.get(value.type, name if name.startswith(("int", "uint")) else "V"))
        free = [size for size in value.shape[1:] if not isinstance(size, int) or size < 1]
        if kind.kind == "V" or free:
            shape = ", ".join(map(str, value.shape))
            raise ValueError(f"its input {value.name} is {value.type} ({shape})")
        first = value.shape[0] if value.shape and isinstance(value.shape[0], int) else 1
        size = (max(1, first), *value.shape[1:]) if value.shape else ()
        found[value.name] = rng.integers(0, 128, size).astype(kind)
    return found


def _matched(
    graph: GraphProto, names: NodeNames, running: GraphProto
) -> tuple[list[tuple[tuple[str, ...], tuple[str, ...]]], int]:
    """For each running node the layers and the operators that it replaces; and those at loading."""
    nodes = list(graph.node)
    live = [n for n, node in enumerate(nodes) if set(node.output) & names.owner.keys()]
    belongs = _belonging(nodes, live, _anchors(nodes, running))
    # Constants of a layer are converted with it, in the same kernel.
    extra = _constant_conversions(nodes, live, belongs)
    parts: dict[int, list[int]] = {}
    for number in sorted(belongs):
        parts.setdefault(belongs[number], []).append(number)
    found = []
    for kernel in range(len(running.node)):
        numbers = parts.get(kernel, [])
        layers = dict.fromkeys(names.layer_of[n] for n in numbers if n in names.layer_of)
        count = Counter(nodes[n].op_type for n in numbers)
        count.update({"DequantizeLinear": extra.get(kernel, 0)})
        replaced = tuple(_counted(kind, number) for kind, number in count.items() if number)
        found.append((tuple(layers), replaced))
    return found, len(nodes) - len(live) - sum(extra.values())


def _belonging(
    nodes: list[NodeProto], live: list[int], anchors: Mapping[int, int]
) -> dict[int, int]:
    """Node that depends on the input -> the running node that computes it."""
    owners = {number: kernel for kernel, number in anchors.items()}
    producers = {y: n for n in live for y in nodes[n].output}
    readers: dict[int, list[int]] = {n: [] for n in live}
    for number in live:
        for name in nodes[number].input:
            if name in producers:
                readers[producers[name]].append(number)
    found = dict(owners)
    for number in live:
        kernel = None if number in owners else _kernel_of(number, nodes, owners, producers, readers)
        if kernel is not None:
            found[number] = kernel
    return found


def _counted(kind: str, count: int) -> str:
    return kind if count == 1 else f"{count} {kind}"


def _anchors(nodes: list[NodeProto], running: GraphProto) -> dict[int, int]:
    """Running node -> the node of the file with the same result or name, if there is one."""
    by_output = {y: n for n, node in enumerate(nodes) for y in node.output}
    by_name = {node.name: n for n, node in enumerate(nodes) if node.name}
    found: dict[int, int] = {}
    for kernel, node in enumerate(running.node):
        number = next((by_output[y] for y in node.output if y in by_output), None)
        is_layout = node.op_type in _MOVES or node.op_type.startswith("Reorder")
        if number is not None and is_layout and nodes[number].op_type != node.op_type:
            continue  # A change of layout that ends in a tensor of the file.
        if number is None:
            base = _ADDED.match(node.name)
            # Convolutions in blocked layout are named after the tensor that they make.
            wanted = (node.name, base[1] if base else "")
            number = next((t[w] for w in wanted for t in (by_name, by_output) if w in t), None)
            if number is not None and is_layout and nodes[number].op_type != node.op_type:
                continue
        if number is not None and number not in found.values():
            found[kernel] = number
    return found


def _kernel_of(
    number: int,
    nodes: list[NodeProto],
    owners: Mapping[int, int],
    producers: Mapping[str, int],
    readers: Mapping[int, list[int]],
) -> int | None:
    """The kernel that a node without one of its own is fused into."""

    def before(at: int) -> list[int]:
        return [producers[name] for name in nodes[at].input if name in producers]

    ways: list[Callable[[int], list[int]]] = [lambda at: readers[at], before]
    if nodes[number].op_type in _AFTER:
        ways.reverse()
    for way in ways:
        waiting, seen = way(number), {number}
        while waiting:
            at = waiting.pop(0)
            if at in owners:
                return owners[at]
            if at not in seen:
                seen.add(at)
                waiting += way(at)
    return None


def _constant_conversions(
    nodes: list[NodeProto], live: list[int], belongs: Mapping[int, int]
) -> dict[int, int]:
    """Kernel -> how many conversions of constants it replaces."""
    made = {
        y: n
        for n, node in enumerate(nodes)
        if n not in set(live) and node.op_type in CONVERSIONS
        for y in node.output
    }
    found: dict[int, int] = {}
    for number in live:
        for name in nodes[number].input:
            if name in made and number in belongs:
                made.pop(name)
                found[belongs[number]] = found.get(belongs[number], 0) + 1
    return found


def _caller(
    session: onnxruntime.InferenceSession, feeds: Mapping[str, NDArray[Any]]
) -> Callable[[], object]:
    def call() -> object:
        return session.run(None, dict(feeds))

    for _ in range(3):
        call()
    return call


def _profiled(
    file: bytes, feeds: Mapping[str, NDArray[Any]], seconds: float, nodes: int
) -> dict[str, float]:
    """Microseconds from the start of each kernel to the next, by the name of its node."""
    with scratch_folder() as folder:
        session = open_session(file, profile_to=str(Path(folder, "profile")))
        call = _caller(session, feeds)
        most = min(_MOST_CALLS, max(_LEAST_CALLS, _MOST_EVENTS // max(1, nodes)))
        end = time.perf_counter() + seconds
        for count in range(most):
            if count >= _LEAST_CALLS and time.perf_counter() > end:
                break
            call()
        try:
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # It is missing, or not all of it was written.
            what = f"ONNX Runtime cannot write its profile to {folder}: {first_line(error)}"
            raise MachineError(what, fix=SCRATCH_FIX) from error
    return _mean_times(events)


def _mean_times(events: list[dict[str, Any]]) -> dict[str, float]:
    """The same from the events of the profiler, over the fastest of the calls."""
    calls: list[dict[str, float]] = []
    nodes: list[tuple[float, str]] = []
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            nodes.append((event["ts"], event["name"].removesuffix("_kernel_time")))
        elif event["name"] == "SequentialExecutor::Execute" and nodes:
            nodes.sort()
            ends = [start for start, _ in nodes[1:]] + [event["ts"] + event["dur"]]
            times: dict[str, float] = {}
            for (start, name), end in zip(nodes, ends, strict=True):
                times[name] = times.get(name, 0.0) + end - start
            calls.append(times)
            nodes = []
    calls.sort(key=lambda times: sum(times.values()))
    kept = calls[: max(1, round(_KEPT * len(calls)))]
    names = dict.fromkeys(name for times in kept for name in times)
    return {name: statistics.fmean(times.get(name, 0.0) for times in kept) for name in names}


def _rest_microseconds() -> float:
    """What a call takes beside its kernels: two chains of an operator, extended to none."""
    feeds = {"x": np.zeros((1, 4), np.float32)}
    calls = [_caller(open_session(_chain(count)), feeds) for count in _CHAIN]
    times = [1e6 * min(shortest_call(call, 0.01) for _ in range(3)) for call in calls]
    slope = (times[1] - times[0]) / (_CHAIN[1] - _CHAIN[0])
    return max(0.0, times[0] - _CHAIN[0] * slope)


def _chain(count: int) -> bytes:
    """A file that negates four numbers `count` times, which ONNX Runtime does not shorten."""
    names = ["x", *(f"t{n}" for n in range(1, count)), "y"]
    nodes = [helper.make_node("Neg", [a], [b], name=b) for a, b in itertools.pairwise(names)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())
