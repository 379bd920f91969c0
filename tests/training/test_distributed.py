"""Data-parallel training, against one process with the same batches."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lepton_automl.training.distributed import (
    MIN_SAMPLES_PER_PROCESS,
    ProcessGroup,
    expected_speedup,
    init_process_group,
    usable_processes,
)

HERE = Path(__file__).parents[2]

MEMBER = """
import dataclasses, sys
import torch
from safetensors.torch import save_file
from lepton_automl.training import precision
from lepton_automl.training.distributed import (
    ProcessGroup,
    exit_without_cleanup,
    init_process_group,
)
from lepton_automl.training.loop import train_loop
from tests.training.test_loop import PLAIN, fresh, stripes

torch.set_num_threads(1)
precision._has_amx = lambda: False
rank, count, meeting, norm, out = sys.argv[1:]
recipe = dataclasses.replace(PLAIN, batch_size=32, augment=0.0, flip=False)
given = None if meeting == "env://" else ProcessGroup(int(rank), int(count))
with init_process_group(meeting, given) as process_group:
    model = fresh(seed=3)
    network = model.network()
    if norm == "frozen":  # Statistics of a share of a batch are not those of the whole.
        network.eval()
        network.train = lambda mode=True: network
    seen, data = model.preprocessing, stripes(100)
    fitted = train_loop(network, data, seen, recipe, epochs=4, seed=1, process_group=process_group)
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file({**weights, "loss": torch.tensor(fitted.loss)}, f"{out}-{process_group.rank}")
exit_without_cleanup()
"""


def trained(folder: Path, count: int, norm: str = "frozen") -> list[dict[str, Tensor]]:
    """What each of `count` processes ends on."""
    meeting, out = folder / f"meeting-{count}", folder / f"of-{count}"
    commands = [
        [sys.executable, "-c", MEMBER, str(n), str(count), meeting.as_uri(), norm, str(out)]
        for n in range(count)
    ]
    return _ended(commands, out)


def _ended(
    commands: Sequence[Sequence[str]], out: Path, variables: Sequence[dict[str, str]] = ({}, {})
) -> list[dict[str, Tensor]]:
    processes = [
        subprocess.Popen(command, cwd=HERE, env=os.environ | more)
        for command, more in zip(commands, variables, strict=False)
    ]
    assert [process.wait() for process in processes] == [0] * len(processes)
    return [load_file(path) for path in sorted(out.parent.glob(f"{out.name}-*"))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What one process ends on."""
    (weights,) = trained(tmp_path_factory.mktemp("alone"), 1)
    return weights


def test_two_processes_end_on_the_weights_of_one(tmp_path: Path, alone: dict[str, Tensor]) -> None:
    first, second = trained(tmp_path, 2)
    for name, value in alone.items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(first[name], value, rtol=2e-4, atol=2e-6)


def test_batch_norm_per_process_still_trains(tmp_path: Path) -> None:
    (alone,), (first, second) = trained(tmp_path, 1, "batch"), trained(tmp_path, 2, "batch")
    assert all(torch.equal(first[n], second[n]) for n in first if "running" not in n)
    assert float(first["loss"]) == pytest.approx(float(alone["loss"]), abs=0.1)
    assert float(first["loss"]) < 0.8 * math.log(3)


def test_ranks_come_from_the_environment(tmp_path: Path, alone: dict[str, Tensor]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    out, words = tmp_path / "run", [sys.executable, "-c", MEMBER, "x", "x", "env://", "frozen"]
    of_ranks = [meeting | {"RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)]
    first, second = _ended([[*words, str(out)]] * 2, out, of_ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.allclose(first[n], v, rtol=2e-4, atol=2e-6) for n, v in alone.items())


@pytest.mark.slow  # Above, the environment is as torchrun sets it.
def test_ranks_come_from_torchruns_environment(tmp_path: Path, alone: dict[str, Tensor]) -> None:
    program, out = tmp_path / "member.py", tmp_path / "run"
    program.write_text(f"import sys; sys.path.insert(0, {str(HERE)!r})\n{MEMBER}")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = ["x", "x", "env://", "frozen", str(out)]
    first, second = _ended([[*torchrun, str(program), *words]], out)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.allclose(first[n], v, rtol=2e-4, atol=2e-6) for n, v in alone.items())


@pytest.mark.parametrize(("size", "count"), [(64, 1), (64, 2), (65, 3), (7, 4)])
def test_local_slices_partition_the_batch(size: int, count: int) -> None:
    shares = [range(size)[ProcessGroup(rank, count).local_slice(size)] for rank in range(count)]
    assert [place for share in shares for place in share] == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_small_batches_use_fewer_processes() -> None:
    assert [usable_processes(8, size) for size in (MIN_SAMPLES_PER_PROCESS - 1, 40, 1000)] == [
        1,
        2,
        8,
    ]
    assert expected_speedup(1) == 1
    assert 1 < expected_speedup(2) < 2


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda", "nccl"), ("", "nccl")])
def test_processes_on_the_cpu_talk_by_gloo_also_beside_a_gpu(monkeypatch, device, backend):
    class Asked(Exception):
        pass

    def record(backend: str, **options: object) -> None:
        raise Asked(backend)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "init_process_group", record)
    group = init_process_group("file:///none", ProcessGroup(0, 2), device=device)
    with pytest.raises(Asked, match=backend), group:
        pass
