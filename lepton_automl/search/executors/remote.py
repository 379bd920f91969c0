"""Executor over hosts that come and go: which of them gets a task, alone or as a group.

One thread runs an event loop with all hosts; the thread of the search starts tasks and takes
results. No port is opened, no lock is shared, and what a host sends is checked before it counts.

A task goes to the fastest host that has a free worker. Speeds are seconds for a unit of work,
measured on the trainings that a host has done, the newest most; until then a host counts as one of
the fastest.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import secrets
import threading
import time
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lepton_automl.core.events import Emit, Event
from lepton_automl.core.units import counted, duration
from lepton_automl.errors import LeptonError, MachineError
from lepton_automl.models.arch import Arch
from lepton_automl.search.executors import ArithmeticChoice, Attempt, Executor
from lepton_automl.search.executors.host_connection import Host, Running
from lepton_automl.search.training_key import task_text
from lepton_automl.search.workers.handle import WorkerLost
from lepton_automl.search.workers.launch import GroupPart
from lepton_automl.search.workers.remote_task import Catalog
from lepton_automl.search.workers.task import Task, TaskResult
from lepton_automl.training.distributed import Meeting

LONE_SECONDS = 300.0
"""Without any host that can take a task for so long, the command ends; the same one continues."""
_JOIN_SECONDS = 15.0
"""The search starts so long after the first host is ready, or when all are ready or have failed."""
_NOTED_SLOWNESS = 1.25
"""Hosts that differ by less than this factor count as equally fast."""
_CLOSING_SECONDS = 5.0
"""Connections end within this time, longer than a command that is asked to end may take."""
_SETTLE_SECONDS = 1.0
"""After the first loss in a group of hosts, those that tell the cause are awaited for so long."""
_PART_SECONDS = 10.0
"""Other parts of a group end within so long after that with rank 0, else they are ended."""


@dataclass
class _Group:
    """Hosts that train one net together."""

    parts: list[tuple[Host, int]]
    """Each with its number of processes; the first has rank 0."""
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    complete: set[str] = field(default_factory=set)
    """Names of the hosts that have the data."""
    losses: list[tuple[WorkerLost, Host, bool]] = field(default_factory=list)
    """Why it ends: each lost part, its host, and whether all of that host was lost."""

    @property
    def world_size(self) -> int:
        """Number of its processes."""
        return sum(count for _, count in self.parts)

    def begin(self, number: int, port: int) -> None:
        """Start the part with rank 0, or with its `port` all others."""
        leader, first = self.parts[0][0], 0
        for host, count in self.parts:
            if (host is leader) == (port == 0):
                own, address = host.spec.group_address, leader.spec.group_address
                meeting = Meeting(own, address, port, self.token)
                host.begin(number, GroupPart(first, count, meeting))
            first += count

    def drop(self, number: int) -> None:
        """End what still runs of it."""
        for host, _ in self.parts:
            host.drop(number)


@dataclass(eq=False)
class _Started:
    """A task that was started and has not been returned."""

    number: int
    attempt: Attempt
    host: Host | None = None
    """None while it waits for a free worker."""
    last: str = ""
    """Name of the host that it lost last."""
    pinned: str = ""
    """The only host that may run it; empty: any."""
    group: _Group | None = None
    """The hosts that train it, where these are several; `host` is the first."""
    leader: str = ""
    """Name of the host that had rank 0 last, and has the state to continue from."""
    outcome: TaskResult | LeptonError | None = None

    @property
    def task(self) -> Task:
        return self.attempt.task


class RemoteExecutor(Executor):
    """Runs tasks on hosts that come and go; subclasses say which hosts there are.

    Parameters
    ----------
    locks : Path
        Folder of the measurement lock of this machine.
    emit : callable
        Receives events about hosts that join, fail and leave, and about lost workers.

    Raises
    ------
    MachineError
        If no host can be used.
    """

    def __init__(self, locks: Path, emit: Emit) -> None:
        self._locks, self._emit = locks, emit
        self._catalog = Catalog()
        self._changed = threading.Condition(threading.RLock())
        self._started: dict[int, _Started] = {}
        self._count, self._first = 0, 0.0
        self._hosts: dict[str, Host] = {}
        self._messages: list[str] = []
        self._reported: set[str] = set()
        """Names of hosts whose failure was said, and that have not come back."""
        self._kind = ""
        """The only arithmetic that is used; empty: any."""
        self._lone_since, self._had_hosts = time.monotonic(), False
        """When the last host that could be used was lost, and whether one could since then."""
        self._bug: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run_loop, name="hosts", daemon=True)
        self._thread.start()
        try:
            self._join()
        except BaseException:
            self.close()
            raise

    # Called by the thread of the search.

    @property
    def jobs(self) -> int:  # type: ignore[override]
        """Workers of the hosts that are ready."""
        with self._changed:
            return max(1, sum(host.jobs for host in self._usable()))

    @property
    def free(self) -> int:
        with self._changed:
            count = len(self._started)
            # A task may wait for a host to come back.
            least = 0 if count else 1
            return max(least, sum(host.jobs for host in self._usable()) - count)

    @property
    def busy(self) -> list[Task]:
        with self._changed:
            started = sorted(self._started.values(), key=lambda each: each.attempt.at)
            return [each.task for each in started]

    @property
    def slowness(self) -> float:
        with self._changed:
            waiting = sum(each.host is None for each in self._started.values())
            for host in self._ranked(host for host in self._usable() if host.free):
                if waiting < host.free:
                    return self._slowness(host)
                waiting -= host.free
            return 1.0

    @property
    def equivalent_jobs(self) -> float:
        with self._changed:
            fastest = self._fastest()
            return max(1.0, sum(h.jobs / self._slowness(h, fastest) for h in self._usable()))

    def is_worth_starting(self, work: float) -> bool:
        with self._changed:
            hosts = [host for host in self._ranked(self._usable()) if host.free]
            if not hosts or (own := hosts[0].seconds_per_work) is None:
                return True
            now, fastest = time.monotonic(), self._fastest()
            slowness = self._slowness(hosts[0], fastest)
            for host in self._usable():
                per_work = host.seconds_per_work
                if host.free or per_work is None or self._slowness(host, fastest) >= slowness:
                    continue
                soonest = min(_seconds_to_go(each, now) for each in host.running.values())
                if soonest + per_work * work < own * work:
                    return False
            return True

    def use_one_arithmetic(self, known: str) -> ArithmeticChoice | None:
        with self._changed:
            speeds: dict[str, float] = {}
            fastest = self._fastest()
            for host in self._usable():
                speed = host.jobs / self._slowness(host, fastest)
                speeds[host.arithmetic] = speeds.get(host.arithmetic, 0.0) + speed
            if not speeds:
                return None
            named = self._hosts.get(self._finals)
            kind = max(speeds, key=lambda each: speeds[each])
            evidence = f"{speeds[kind] / sum(speeds.values()):.0%} of the speed of all hosts"
            if named is not None and named.arithmetic in speeds:
                kind, evidence = (
                    named.arithmetic,
                    f"that of host {self._finals}, as finals says",
                )
            elif known in speeds:
                kind, evidence = known, "that of the final trainings before"
            elif len(speeds) == 1:
                evidence = "all hosts have it"
            self._kind, self._lone_since = kind, time.monotonic()
            is_choice = len(speeds) > 1
            return ArithmeticChoice(kind, evidence, self._finals_option, is_choice=is_choice)

    def start(self, task: Task) -> None:
        self._start(task)

    def finished(self, timeout: float = 1.0) -> list[tuple[Task, TaskResult]]:
        with self._changed:
            if not any(each.outcome for each in self._started.values()):
                self._changed.wait(timeout)
            done = [each for each in self._started.values() if each.outcome is not None]
        self._report()
        found: list[tuple[Task, TaskResult]] = []
        for each in done:
            outcome = each.outcome
            if isinstance(outcome, LeptonError) and found:
                break  # It is raised by the next call, so that no result is lost.
            with self._changed:
                del self._started[each.number]
            if isinstance(outcome, LeptonError):
                raise outcome
            assert outcome is not None
            found.append((each.task, outcome))
        if not found:
            self._check_lone()
        return found

    def probe(self, task: Task) -> TaskResult:
        with self._changed:
            hosts = [host.spec.name for host in self._usable()]
            probes = [dataclasses.replace(task) for _ in hosts]
            for name, each in zip(hosts, probes, strict=True):
                self._start(each, pinned=name)
        macs, results = Arch.from_json(task.arch).graph.macs, list[tuple[float, TaskResult]]()
        while len(results) < len(probes):
            for each, result in self.finished():
                if any(each is probe for probe in probes):
                    speed = result.seconds_per_work(each, macs)
                    if speed and result.host in self._hosts:
                        self._hosts[result.host].learn(speed, 1.0)
                    results.append((speed or math.inf, result))
        return min(results, key=lambda pair: pair[0])[1]

    def facts(self) -> dict[str, Any]:
        """As `Executor.facts`; also `hosts`, a list of the facts of each (`Host.facts`)."""
        with self._changed:
            workers = []
            for host in self._hosts.values():
                idle = {"task": "", "since": 0.0, "share": 0.0, "waits": False}
                running = [
                    {"task": r.task.key, "since": r.since, "share": r.share, "waits": r.waits}
                    for r in host.running.values()
                ]
                slots = running + [idle] * host.free
                about = {"pid": host.pid, "host": host.spec.name}
                workers += [about | slot for slot in slots]
            numbered = [{"slot": slot, **worker} for slot, worker in enumerate(workers)]
            hosts = [host.facts() for host in self._hosts.values()]
            return {"first": self._first, "workers": numbered, "hosts": hosts}

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self._started.clear()

    def _start(self, task: Task, pinned: str = "") -> None:
        with self._changed:
            self._first = self._first or time.time()
            self._count += 1
            self._started[self._count] = _Started(self._count, Attempt(task), pinned=pinned)
        self._loop.call_soon_threadsafe(self._dispatch)

    def _report(self) -> None:
        with self._changed:
            messages, self._messages = self._messages, []
        for message in messages:
            self._emit(Event("search", message))
        if self._bug is not None:
            raise self._bug

    def _join(self) -> None:
        """Wait for the first hosts.

        Raises
        ------
        MachineError
            If all fail.
        """
        ready_since = None
        while True:
            with self._changed:
                self._changed.wait(0.2)
                states = [(host.is_ready, host.failure) for host in self._hosts.values()]
                is_vain = not any(host.is_expected for host in self._hosts.values())
            self._report()
            if any(is_ready for is_ready, _ in states):
                ready_since = ready_since or time.monotonic()
                if all(is_ready or failure for is_ready, failure in states):
                    return
                if time.monotonic() - ready_since > _JOIN_SECONDS:
                    return
            elif states and is_vain:
                raise self._no_host("no host can be used")
            else:
                self._check_lone()

    def _check_lone(self) -> None:
        """Raise a MachineError where no host could take a task for a long time."""
        with self._changed:
            alone = 0.0 if self._usable() else time.monotonic() - self._lone_since
        if alone > LONE_SECONDS:
            raise self._no_host(f"no host could be used for {duration(alone)}")

    def _no_host(self, what: str) -> MachineError:
        reasons = [f"{name}: {host.failure or 'no answer'}" for name, host in self._hosts.items()]
        others = f"; the final trainings need {self._kind}" if self._kind else ""
        return MachineError(
            f"{what}{others}: {'; '.join(reasons)}",
            fix=f"correct {self._place} or the hosts, then run the same command",
        )

    # Both threads, with `_changed` held.

    def _usable(self) -> list[Host]:
        """Hosts that are ready, of the kind that is used."""
        ready = (host for host in self._hosts.values() if host.is_ready)
        return [host for host in ready if self._kind in ("", host.arithmetic)]

    def _fastest(self) -> float:
        """Seconds for a unit of work on the fastest host that is ready; infinite: not known."""
        known = (each.seconds_per_work for each in self._usable())
        return min((each for each in known if each), default=math.inf)

    def _slowness(self, host: Host, fastest: float | None = None) -> float:
        """Time of a task on a host relative to `_fastest`; 1 where not known."""
        fastest = self._fastest() if fastest is None else fastest
        own = host.seconds_per_work
        if own is None or own < _NOTED_SLOWNESS * fastest:
            return 1.0
        return own / fastest

    def _ranked(self, hosts: Iterable[Host]) -> list[Host]:
        """Hosts in the order in which they get tasks: the fastest, then the emptiest first."""
        fastest = self._fastest()
        return sorted(
            hosts,
            key=lambda host: (
                self._slowness(host, fastest),
                len(host.running) / max(1, host.jobs),
            ),
        )

    # Called by the thread of the event loop.

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # noqa: BLE001  (raised again by the search's thread)
            self._bug = error
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
            with self._changed:
                self._changed.notify_all()

    async def _serve(self) -> None:
        serving: dict[str, asyncio.Task[None]] = {}
        stopping = asyncio.ensure_future(self._stop.wait())
        finding = asyncio.ensure_future(self._find_hosts(serving))
        try:
            while not stopping.done():
                await asyncio.wait(
                    {stopping, finding, *serving.values()}, return_when="FIRST_COMPLETED"
                )
                for task in (finding, *serving.values()):
                    if task.done():
                        task.result()
                for name in [name for name, task in serving.items() if task.done()]:
                    del serving[name]
        finally:
            stopping.cancel()
            finding.cancel()
            await asyncio.gather(finding, return_exceptions=True)
            for host in self._hosts.values():
                host.close()
            await self._cancel(asyncio.all_tasks() - {asyncio.current_task()})

    async def _cancel(self, others: set[asyncio.Task[Any]]) -> None:
        for task in others:
            task.cancel()
        if others:
            # asyncio may wait for ever for a process whose start is cancelled.
            _, left = await asyncio.wait(others, timeout=_CLOSING_SECONDS)
            if left:  # They end with this process; asyncio would print that of each of them.
                self._loop.set_exception_handler(lambda *_: None)

    @abstractmethod
    async def _find_hosts(self, serving: dict[str, asyncio.Task[None]]) -> None:
        """Put hosts into `_hosts`, serve each by a task in `serving`, and close those that leave.

        It runs until it is cancelled; what it raises ends the search.
        """

    @property
    @abstractmethod
    def _place(self) -> str:
        """What says which hosts there are, in messages."""

    @property
    def _finals(self) -> str:
        """Name of the host whose arithmetic trains the finalists; empty: the fastest kind."""
        return ""

    @property
    def _finals_option(self) -> str:
        """What overrules the arithmetic of the finalists."""
        return ""

    def _dispatch(self) -> None:
        """Send waiting tasks to free workers: the longest first, each to the fastest host."""
        with self._changed:
            waiting = [each for each in self._started.values() if self._is_waiting(each)]
            for each in sorted(waiting, key=lambda one: -one.task.work):
                if group := self._group_for(each):
                    if all(host.free >= count for host, count in group.parts):
                        self._start_group(each, group)
                    continue
                hosts = self._ranked(host for host in self._usable() if host.has_room(each.task))
                if any(host.spec.name == each.pinned for host in self._usable()):
                    hosts = [host for host in hosts if host.spec.name == each.pinned]
                others = [host for host in hosts if host.spec.name != each.last]
                if hosts:
                    each.host = (others or hosts)[0]
                    each.host.assign(each.number, each.attempt.current)

    def _group_for(self, each: _Started) -> _Group | None:
        """The hosts that train a task together; None where one has all that it asks for.

        They have the arithmetic and about the speed of the fastest, and addresses for groups.
        """
        usable = self._usable()
        if each.attempt.current.processes <= max((host.jobs for host in usable), default=math.inf):
            return None
        ranked = self._ranked(usable)
        hosts = [
            host
            for host in ranked
            if host.spec.group_address
            and (host.device, host.arithmetic) == ("cpu", ranked[0].arithmetic)
            and self._slowness(host) == 1.0
        ]
        # Rank 0 says what waits for a measurement of this machine, and has the saved state.
        hosts.sort(key=lambda host: (not host.spec.local, host.spec.name != each.leader))
        left, parts = each.attempt.current.processes, list[tuple[Host, int]]()
        for host in hosts:
            if left:
                parts.append((host, min(host.jobs, left)))
                left -= parts[-1][1]
        group = _Group(parts)
        return group if group.world_size > max(host.jobs for host in ranked) else None

    def _start_group(self, each: _Started, group: _Group) -> None:
        leader = group.parts[0][0]
        each.host, each.group, each.leader = leader, group, leader.spec.name
        task = dataclasses.replace(each.attempt.current, ranks=group.world_size)
        for host, count in group.parts:
            host.assign_part(each.number, task, count, has_net=host is leader)
        shares = ", ".join(f"{count} on {host.spec.name}" for host, count in group.parts)
        self._say(f"{task_text(task.key)}: {group.world_size} processes train it: {shares}")

    @staticmethod
    def _is_waiting(each: _Started) -> bool:
        return each.host is None and each.outcome is None

    def _say(self, message: str) -> None:
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()

    def _end(self, number: int, outcome: TaskResult | LeptonError) -> None:
        with self._changed:
            if each := self._started.get(number):
                each.outcome, each.host = outcome, None
                if each.group is not None:
                    self._loop.call_later(_PART_SECONDS, each.group.drop, number)
            self._changed.notify_all()

    # What hosts tell (`HostEvents`).

    def ready(self, host: Host) -> None:
        """See `HostEvents`."""
        with self._changed:
            self._had_hosts = self._had_hosts or bool(self._usable())
        name = host.spec.name
        again = " again" if name in self._reported else ""
        self._reported.discard(name)
        workers = counted(host.jobs, "worker")
        self._say(f"host {name}: {workers}{again}, {host.arithmetic}")
        self._dispatch()

    def down(self, host: Host, reason: str) -> None:
        """See `HostEvents`."""
        with self._changed:
            # A host that fails again and again, and could never be used, does not count.
            if self._had_hosts and not self._usable():
                self._lone_since, self._had_hosts = time.monotonic(), False
            name = host.spec.name
            if not host.is_closed and name not in self._reported:
                self._reported.add(name)
                self._say(f"host {name} cannot be used: {reason}; it is tried again and again")

    def finished_task(self, host: Host, number: int, result: TaskResult) -> None:
        """See `HostEvents`."""
        with self._changed:
            if each := self._started.get(number):
                own = dataclasses.replace(
                    result, host=host.spec.name, slowness=self._slowness(host)
                )
                self._end(number, each.attempt.succeeded(own))
        self._dispatch()

    def failed_task(self, host: Host, number: int, error: LeptonError) -> None:
        """See `HostEvents`."""
        del host
        with self._changed:
            each = self._started.get(number)
            if each is not None and each.group is not None:
                each.group.drop(number)
        self._end(number, error)
        self._dispatch()

    def complete_part(self, host: Host, number: int) -> None:
        """See `HostEvents`."""
        with self._changed:
            each = self._started.get(number)
            if each is not None and each.group is not None:
                each.group.complete.add(host.spec.name)
                if len(each.group.complete) == len(each.group.parts):
                    each.group.begin(number, port=0)

    def listens(self, host: Host, number: int, port: int) -> None:
        """See `HostEvents`."""
        del host
        with self._changed:
            each = self._started.get(number)
            if each is not None and each.group is not None:
                each.group.begin(number, port)

    def ended_part(self, host: Host, number: int) -> None:
        """See `HostEvents`."""
        del host, number
        self._dispatch()

    def lost_task(self, host: Host, number: int, lost: WorkerLost, *, with_host: bool) -> None:
        """See `HostEvents`."""
        with self._changed:
            each = self._started.get(number)
            if each is not None and each.group is not None:
                if not each.group.losses and each.outcome is None:
                    self._loop.call_later(_SETTLE_SECONDS, self._settle, number)
                each.group.losses.append((lost, host, with_host))
            elif each is not None:
                self._lose(each, host, lost, with_host=with_host)
        self._dispatch()

    def _settle(self, number: int) -> None:
        """End what is left of a group that has lost a part, and repeat its task."""
        with self._changed:
            each = self._started.get(number)
            if each is None or each.group is None or each.outcome is not None:
                return
            group, each.group = each.group, None
            group.drop(number)
            # Hosts may still tell something of the old number.
            del self._started[number]
            self._count += 1
            each.number = self._count
            self._started[each.number] = each
            # A part that ends takes the others with it: they tell no cause.
            lost, host, with_host = max(
                group.losses, key=lambda loss: (loss[0].is_out_of_memory, loss[2])
            )
            self._lose(each, host, lost, with_host=with_host)
        self._dispatch()

    def _lose(self, each: _Started, host: Host, lost: WorkerLost, *, with_host: bool) -> None:
        """Count the loss of a task that no host has now; `_changed` is held."""
        each.host, each.last = None, host.spec.name
        if not host.is_closed:
            message, failed = each.attempt.lost(lost, host.spec.name, with_host=with_host)
            self._say(message)
            if failed is not None:
                self._end(each.number, failed)


def _seconds_to_go(running: Running, now: float) -> float:
    """Estimated seconds until a task ends; infinite before progress."""
    done = running.share
    return (now - running.begun) * (1 - done) / done if done else math.inf
