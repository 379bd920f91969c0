"""Latencies that are measured on a host of the file (`measures = true`)."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton_automl.config import Limits
from lepton_automl.core.events import Event
from lepton_automl.core.machine import Machine
from lepton_automl.cost import targets
from lepton_automl.cost.latency import Latencies, Latency, fingerprint
from lepton_automl.errors import ConfigError, MachineError
from lepton_automl.models.random_weights import random_int8_onnx
from lepton_automl.runs.ledger import EventKind, Ledger
from lepton_automl.runs.test_set_uses import state_folder
from lepton_automl.search.executors import measuring_host as module
from lepton_automl.search.executors.hosts_file import HostSpec, read_hosts
from lepton_automl.search.executors.measuring_host import HostStopwatch, measuring_host
from lepton_automl.search.proposals.feasibility import CostCheck
from lepton_automl.search.workers.measurement_lock import MeasurementLock
from tests.helpers.nets import random_arch
from tests.helpers.processes import eventually

AGENT = """
import pathlib, sys
from lepton_automl.search.workers.channel import Channel
channel = Channel()
from lepton_automl.core.machine import Machine
from lepton_automl.search.workers import agent
agent.this_machine = lambda: Machine("Board", ("asimddp",), 4, "1.0", "Linux aarch64")
{more}
agent.Agent(channel).serve()
"""
BOARD = Machine("Board", ("asimddp",), 4, "1.0", "Linux aarch64")
ARCHS = [random_arch(seed, input=(8, 8, 1), classes=3) for seed in range(2)]
FILES = {f"net {n}": random_int8_onnx(arch, 64) for n, arch in enumerate(ARCHS)}


def stopwatch(folder: Path, more: str = "", **given: object) -> HostStopwatch:
    command = (sys.executable, "-c", AGENT.format(more=more))
    spec = HostSpec("board", command, cache=str(folder / "cache"), measures=True)
    return HostStopwatch(spec, program=(), **given)  # type: ignore[arg-type]


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[HostStopwatch]:
    made = stopwatch(tmp_path)
    yield made
    made.close()


def test_it_measures_on_the_host_and_says_what_that_is(watch: HostStopwatch) -> None:
    found = watch.measure(FILES, rounds=6, seconds=0.01)
    assert (watch.machine, watch.host) == (BOARD, "board")
    assert list(found) == list(FILES)
    for latency in found.values():
        assert latency.rounds == 6
        assert 0 < latency.ratio_low <= latency.ratio <= latency.ratio_high
    assert watch.quiet_reference_ms(rounds=2, seconds=0.01) > 0


def test_what_is_undecided_gets_more_rounds(watch: HostStopwatch) -> None:
    found = watch.measure(FILES, rounds=3, seconds=0.01, is_undecided=lambda _: True)
    assert {latency.rounds for latency in found.values()} == {9}


def test_workers_of_the_host_pause_while_it_measures(watch: HostStopwatch) -> None:
    """A batch of a worker that has begun is awaited, and no other begins."""
    assert watch.machine == BOARD
    lock = MeasurementLock(state_folder() / "measuring")
    measuring = threading.Thread(target=watch.measure, args=(FILES,))
    with lock.training_slot():
        measuring.start()
        assert eventually(lambda: lock.is_measuring)
        assert measuring.is_alive()
    measuring.join()
    assert not lock.is_measuring
    lock.close()


def test_a_lost_host_is_connected_to_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    events: list[Event] = []
    once = tmp_path / "died"
    more = f"""
import os
def dies(self, message, measure=agent.Agent._measure):
    if not pathlib.Path({str(once)!r}).exists():
        pathlib.Path({str(once)!r}).touch()
        print("out of coffee", file=sys.stderr, flush=True)
        os._exit(3)
    measure(self, message)
agent.Agent._measure = dies
"""
    made = stopwatch(tmp_path, more, emit=events.append)
    assert set(made.measure(FILES)) == set(FILES)
    made.close()
    said = [event.message for event in events]
    assert said[0].startswith("latencies are measured on host board: Board")
    (lost,) = [text for text in said if "cannot be used" in text]
    assert "out of coffee" in lost


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("channel.send({'fatal': 'no disk'}); sys.exit()", "no disk"),
        ("channel.send({'ready': {'machine': {'cpu': 1}}})", "missing"),
        ("import os; os._exit(1)", "was lost"),
        (
            "agent.Agent._measure = lambda self, message: self._channel.send({'times': []})",
            "not enough values",
        ),
        (
            "agent.Agent._measure = lambda self, message: "
            "self._channel.send({'times': [[1.0], [-1.0], [1.0]]})",
            "-1.0",
        ),
    ],
)
def test_a_host_that_gives_no_latencies_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, reason: str
) -> None:
    monkeypatch.setattr(module, "_LONE_SECONDS", 0.0)
    made = stopwatch(tmp_path, more)
    with pytest.raises(MachineError, match=reason) as caught:
        made.measure(FILES, rounds=1)
    assert "host board, which measures latencies" in caught.value.what
    made.close()


def test_another_machine_under_the_same_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stopwatch(tmp_path)
    made._machine = dataclasses.replace(BOARD, cpu="Old Board")
    with pytest.raises(MachineError, match=r"another machine now \(Board .*Old Board"):
        made.measure(FILES)
    made.close()


def test_one_host_at_most_measures(tmp_path: Path) -> None:
    path = tmp_path / "hosts.toml"
    one = '[host.a]\ncommand = ["ssh", "a"]\nmeasures = true\n[host.b]\ncommand = ["ssh", "b"]\n'
    path.write_text(one)
    found = measuring_host(read_hosts(path).hosts)
    assert found is not None
    assert found.name == "a"
    path.write_text(one + "measures = true\n")
    with pytest.raises(ConfigError, match="a and b: latencies of two machines cannot be compared"):
        read_hosts(path)
    path.write_text(one.replace("true", "1"))
    with pytest.raises(ConfigError, match="measures of host a is 1, the rule is true or false"):
        read_hosts(path)
    path.write_text("[host.a]\nlocal = true\nmeasures = true\n")
    assert measuring_host(read_hosts(path).hosts) is None, "this machine measures anyway"


class Recorded(HostStopwatch):
    """A host whose figures are known."""

    machine = BOARD  # type: ignore[assignment]

    def __init__(self) -> None:
        self.host, self.measured = "board", list[str]()

    def measure(self, files, **_):  # type: ignore[no-untyped-def]
        self.measured += files
        return dict.fromkeys(files, Latency(0.5, 0.4, 0.6, 3.0, 1.5))

    def quiet_reference_ms(self, **_: object) -> float:
        return 4.0


def test_the_search_records_latencies_as_those_of_the_host(tmp_path: Path) -> None:
    ledger, made = Ledger(tmp_path / "ledger.db"), Recorded()

    class NoLock(MeasurementLock):
        def measuring(self):  # type: ignore[no-untyped-def]
            raise AssertionError("workers of this machine need not pause")

    lock = NoLock(tmp_path / "locks")
    about = (Limits(max_latency_ms=9.0), targets.load(), 100)
    check = CostCheck(*about, needs_latency=True, ledger=ledger, lock=lock, stopwatch=made)
    cost = check(ARCHS[0])
    assert (cost.latency_ms, cost.latency_low_ms) == (2.0, pytest.approx(1.6))
    assert made.measured == [ARCHS[0].hash]
    board = fingerprint(BOARD)
    assert ledger.all(EventKind.TIMING) == {
        board: {"quiet_ms": 4.0, "machine": str(BOARD), "host": "board"}
    }
    assert list(ledger.all(EventKind.LATENCY)) == [f"{board}/{ARCHS[0].hash}"]
    assert check.other_machine is None
    # A command that measures here knows none of them, and says whose they are.
    assert Latencies(ledger).elsewhere == str(BOARD)
    assert Latencies(ledger).known(EventKind.LATENCY, ARCHS[0].hash) is None
    lock.close()
    ledger.close()
