"""Executor over the workers of a Dask cluster.

Dask runs one function of this package, `dask_entry.run_task`, from text to text. It chooses
nothing: each task is pinned to a worker, and repeated here when the worker is lost. As for the
hosts of a file, data are sent once a machine unless it sees the same disk, and results are checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Awaitable, Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import Client, Security
from distributed import Future as DaskFuture

from lepton_automl.core import files, untrusted_files
from lepton_automl.core.events import Emit, silent
from lepton_automl.core.field_types import check_finite
from lepton_automl.core.version import __version__
from lepton_automl.errors import ConfigError, LeptonError, MachineError, first_line
from lepton_automl.search.executors.host_connection import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    Host,
    HostEvents,
    HostFailed,
)
from lepton_automl.search.executors.hosts_file import HostSpec
from lepton_automl.search.executors.remote import RemoteExecutor
from lepton_automl.search.workers.blob_cache import Blob, pieces
from lepton_automl.search.workers.channel import Message
from lepton_automl.search.workers.dask_entry import run_task
from lepton_automl.search.workers.dask_task import machine_name
from lepton_automl.search.workers.handle import MAX_STEP_SECONDS, WorkerLost
from lepton_automl.search.workers.remote_task import Catalog, RemoteTask, task_error
from lepton_automl.search.workers.task import Task
from lepton_automl.text import printable

PATIENCE_SECONDS = 20.0
"""A worker, or the scheduler, that is silent for so long counts as lost."""
_CONNECT_SECONDS = 10.0
_CLOSE_SECONDS = 2.0
_LOOK_SECONDS = 1.0
"""Between two looks at the workers; those that come and go are noticed at once."""
_PIECES_BYTES = 4 << 20
"""Base 64 in one request."""
_ATTEMPTS = 5
"""Requests of one task that say that contents are missing, after these were sent."""


class DaskExecutor(RemoteExecutor):
    """Runs tasks on the workers of a Dask cluster, as many at once as they have threads.

    Parameters
    ----------
    address : str
        Of the scheduler, `dask://HOST:PORT` or `tls://HOST:PORT`; keys for TLS are those of Dask's
        own configuration.
    locks : Path
        Folder of the measurement lock of this machine; a token is written into it, by which workers
        find out whether they see this disk.
    device : str
        `auto`, `cpu` or `cuda`.
    emit : callable
        Receives events about workers that join and leave, and about lost ones.
    patience : float
        Seconds of silence after which a worker or the scheduler counts as lost.

    Raises
    ------
    MachineError
        If no scheduler answers, or no worker can be used.
    """

    def __init__(
        self,
        address: str,
        locks: Path,
        *,
        device: str = "auto",
        emit: Emit = silent,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._address = address
        self._patience = patience
        self._is_first, self._left = True, set[str]()
        token = os.urandom(16).hex()
        self._session = _Session(f"lepton-{token[:8]}", device, locks, token)
        files.write(self._session.token_file, token)
        super().__init__(locks, emit)

    def close(self) -> None:
        super().close()
        self._session.token_file.unlink(missing_ok=True)

    @property
    def _place(self) -> str:
        return f"the cluster at {self._address}"

    async def _find_hosts(self, serving: dict[str, asyncio.Task[None]]) -> None:
        while True:
            try:
                client = await self._connected()
            except (OSError, TimeoutError) as error:
                if self._is_first:
                    raise _no_scheduler(self._address, error) from error
                await asyncio.sleep(FIRST_PAUSE_SECONDS)
                continue
            self._is_first = False
            try:
                reason = await self._follow(client, serving)
            finally:
                await self._close_client(client)
            self._say(f"the scheduler {self._address} {reason}; it is tried again and again")

    async def _connected(self) -> Client:
        """A new client.

        Raises
        ------
        OSError, TimeoutError
            If no scheduler answers.
        ConfigError
            If Dask's configuration names no certificates, and they are needed.
        """
        address = self._address.replace("dask://", "tcp://")
        security = Security()
        names = ("tls_ca_file", "tls_client_cert", "tls_client_key")
        if address.startswith("tls://") and not all(getattr(security, name) for name in names):
            raise ConfigError(
                f"--cluster {self._address} needs certificates; Dask's configuration names none",
                fix="set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, ..._TLS__CLIENT__CERT and "
                "..._TLS__CLIENT__KEY to files, see docs/distributed.md",
            )
        return await Client(
            address,
            asynchronous=True,
            set_as_default=False,
            timeout=_CONNECT_SECONDS,
            security=security,
            name="lepton",
        )

    async def _follow(self, client: Client, serving: dict[str, asyncio.Task[None]]) -> str:
        """Follow the workers until the scheduler is lost; how that was noticed."""
        changed = asyncio.Event()

        async def on_change(event: object) -> None:
            del event
            changed.set()

        client.subscribe_topic("all", on_change)
        client.subscribe_topic(self._session.topic, self._on_beat)
        silent_seconds, last, scheduler = 0.0, time.monotonic(), ""
        while True:
            changed.clear()
            found = await _workers(client)
            now = time.monotonic()
            silent_seconds += min(now - last, MAX_STEP_SECONDS)
            last = now
            if client.status != "running":
                return "was lost"
            if found is not None:
                silent_seconds = 0.0
                # The client may have found another one, which knows of no subscription.
                if scheduler not in ("", found[0]):
                    return "was started again"
                scheduler = found[0]
                self._apply(client, found[1], serving)
            elif silent_seconds > self._patience:
                return f"gave no sign of life for {silent_seconds:.0f} s"
            # `asyncio.wait_for` of Python 3.11 may swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await changed.wait()

    def _apply(
        self,
        client: Client,
        workers: Mapping[str, float],
        serving: dict[str, asyncio.Task[None]],
    ) -> None:
        """Close the workers that have left, and serve those that are new."""
        with self._changed:
            for name in self._hosts.keys() - workers.keys():
                self._leave(name, "has left the cluster")
            for name, last_seen in workers.items():
                host = self._hosts.get(name)
                if host is None:
                    host = DaskHost(name, client, self._session, self._catalog, self, self._locks)
                    self._hosts[name] = host
                    serving[f"{name} {id(host)}"] = asyncio.ensure_future(host.serve())
                assert isinstance(host, DaskHost)
                host.look(last_seen, self._patience)

    def _leave(self, name: str, reason: str) -> None:
        host = self._hosts.pop(name)
        assert isinstance(host, DaskHost)
        host.leave(reason)

    async def _close_client(self, client: Client) -> None:
        """Close a client; its workers are lost, and end what they do."""
        with self._changed:
            names = list(self._hosts)
            for name in names:
                self._leave(name, "was lost with the scheduler")
        if client.status == "running" and names:
            text = json.dumps({"end": self._session.topic})
            client.unsubscribe_topic("all")
            await _within(client.run(run_task, text, workers=names, on_error="ignore"))
        await _within(client.close())

    async def _on_beat(self, event: tuple[float, Any]) -> None:
        """Take the share of a task that is done from an event of a worker."""
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            _, beat = event
            for host in self._hosts.values():
                if beat["number"] in host.running:
                    host._on_alive({"alive": {beat["number"]: (beat["share"], beat["waits"])}})

    def down(self, host: Host, reason: str) -> None:
        """See `HostEvents`."""
        with self._changed:
            if not self._usable():
                self._lone_since = time.monotonic()
        if not host.is_closed:
            self._say(f"worker {host.spec.name} {reason}")


@dataclass
class _Session:
    """State that all workers of an executor share."""

    topic: str
    """Of the events with the progress of tasks."""
    device: str
    locks: Path
    token: str
    sent: dict[str, set[Blob]] = field(default_factory=dict)
    """Machine -> contents that it has."""
    sending: dict[str, asyncio.Lock] = field(default_factory=dict)
    """Machine -> lock while contents are sent there."""

    @property
    def token_file(self) -> Path:
        """A file that only this executor has, beside the locks."""
        return self.locks.resolve() / f"{self.topic}.token"


class DaskHost(Host):
    """One worker of a Dask cluster, with a worker process of lepton for each of its threads.

    Parameters
    ----------
    address : str
        Of the worker, which names it.
    client : Client
        Asynchronous.
    session : _Session
        Of the executor.
    catalog, events, locks
        As of `Host`.
    """

    def __init__(
        self,
        address: str,
        client: Client,
        session: _Session,
        catalog: Catalog,
        events: HostEvents,
        locks: Path,
    ) -> None:
        super().__init__(HostSpec(address), catalog, events, locks, ())
        self._client, self._common = client, session
        self._failing: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._asked: set[DaskFuture] = set()
        self._machine, self._locks_there, self._is_shared = "", "", False
        self._last_seen, self._silent, self._looked = 0.0, 0.0, time.monotonic()

    async def serve(self) -> None:
        """Use the worker, until `close` or `leave`."""
        pause = FIRST_PAUSE_SECONDS
        while not self.is_closed:
            self._failing = asyncio.get_running_loop().create_future()
            self._losses = 0
            try:
                await self._greet_worker()
                reason = await self._failing
            except HostFailed as error:
                reason = str(error)
            self._end_session(reason)
            self._cancel()
            if not self.is_closed:
                await asyncio.wait({self._failing}, timeout=pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def leave(self, reason: str) -> None:
        """The worker is not there any more; its tasks are lost with it."""
        self._end_session(reason)
        self.close()

    def look(self, last_seen: float, patience: float) -> None:
        """Compare when the scheduler has last heard of the worker, in its time, with before."""
        now = time.monotonic()
        step, self._looked = min(now - self._looked, MAX_STEP_SECONDS), now
        self._silent = self._silent + step if last_seen == self._last_seen else 0.0
        self._last_seen = last_seen
        if self.is_ready and self._silent > patience:
            self._fail_session(f"gave no sign of life for {self._silent:.0f} s")

    def _kill(self) -> None:
        self._fail_session("was closed")
        self._cancel()

    def _fail_session(self, reason: str) -> None:
        if not self._failing.done():
            self._failing.set_result(reason)

    def _cancel(self) -> None:
        """Let Dask forget what it was asked; the worker ends such a task by itself."""
        asked, self._asked = self._asked, set()
        if asked:
            self._spawn(self._forget(list(asked)))

    async def _forget(self, asked: list[DaskFuture]) -> None:
        with contextlib.suppress(Exception):
            await self._client.cancel(asked)

    async def _greet_worker(self) -> None:
        """Ask the worker what it is.

        Raises
        ------
        HostFailed
            If it cannot be used.
        """
        hello = {
            "device": self._common.device,
            "token_file": str(self._common.token_file),
            "token": self._common.token,
            "machine": machine_name(),
            "locks": str(self._locks.resolve()),
        }
        answer = await self._ask({"hello": hello})
        try:
            if "error" in answer:
                raise HostFailed(printable(str(answer["error"]["what"]))[:500])
            if answer["lepton"] != __version__:
                raise HostFailed(
                    f"has lepton {str(answer['lepton'])[:40]}, this machine has {__version__}: "
                    "install the same version there"
                )
            check_finite(answer["pid"], "pid", int)
            self.pid = answer["pid"]
            self._machine, self._locks_there = str(answer["machine"]), str(answer["locks"])
            self._is_shared = answer["is_shared"] is True
            self._silent = 0.0  # It has answered, though the scheduler may not have counted that.
            self._start({"ready": answer})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise HostFailed(f"sent no answer of lepton: {first_line(error):.200}") from error

    async def _ask(self, request: Message) -> dict[str, Any]:
        """Run `run_task` on the worker.

        Raises
        ------
        HostFailed
            If Dask has no result of it, or it is none of lepton.
        """
        text = json.dumps(request, separators=(",", ":"))
        self.sent += len(text)
        future = self._client.submit(
            run_task,
            text,
            key=f"lepton-{next(iter(request))}-{os.urandom(8).hex()}",
            workers=[self.spec.name],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )
        self._asked.add(future)
        try:
            answer = await future
            self.received += len(answer)
            found: dict[str, Any] = untrusted_files.parse_json(
                answer, "an answer", fix="", top=dict
            )
            return found
        except CancelledError as error:
            raise HostFailed("was lost") from error
        except asyncio.CancelledError:
            raise
        except Exception as error:  # Dask raises here whatever the worker raised.
            raise HostFailed(_failure_text(error)) from error
        finally:
            self._asked.discard(future)
            future.release()

    async def _send_task(self, number: int, task: Task) -> None:
        try:
            remote = await asyncio.to_thread(
                RemoteTask.packed,
                task,
                self._catalog,
                device=self.device,
                is_shared=self._is_shared,
            )
            answer = await self._run(number, remote)
            await self._take_answer(number, answer)
        except LeptonError as error:
            self._fail(number, error)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self._fail_session(f"sent no answer of lepton: {first_line(error):.200}")
        except HostFailed as error:
            self._fail_session(str(error))

    async def _run(self, number: int, remote: RemoteTask) -> dict[str, Any]:
        """Run a task, after its contents are on the machine of the worker.

        Raises
        ------
        HostFailed
            If it cannot be.
        """
        request = {
            "task": remote.to_json(),
            "number": number,
            "topic": self._common.topic,
            "device": self._common.device,
            "locks": self._locks_there,
        }
        for _ in range(_ATTEMPTS):
            await self._send_contents(remote)
            answer = await self._ask(request)
            if "lacks" not in answer:
                return answer
            self._known.difference_update(remote.blobs.values())
        raise HostFailed("loses what is sent to it: the cache of its host has no room")

    @property
    def _known(self) -> set[Blob]:
        return self._common.sent.setdefault(self._machine, set())

    async def _send_contents(self, remote: RemoteTask) -> None:
        """Send what the machine of the worker lacks; one worker of it at a time does."""
        if self._known.issuperset(remote.blobs.values()):
            return
        async with self._common.sending.setdefault(self._machine, asyncio.Lock()):
            answer = await self._ask({"need": remote.to_json()})
            if "error" in answer:
                raise HostFailed(f"cannot keep data: {printable(str(answer))[:300]}")
            for blob, start in (Blob.asked(*fields) for fields in answer["lacks"]):
                place = self._catalog.place(blob)
                if place is None:
                    raise HostFailed("asks for a file that no task has")
                for request in _requests(blob, place, start):
                    answer = await self._ask({"pieces": request})
                    if answer:
                        raise HostFailed(f"cannot keep data: {printable(str(answer))[:300]}")
            self._known.update(remote.blobs.values())

    async def _take_answer(self, number: int, answer: Mapping[str, Any]) -> None:
        if number not in self.running:
            return
        if "error" in answer:
            self._fail(number, task_error(dict(answer["error"])))
        elif "lost" in answer:
            reason = printable(str(answer["lost"]))[:500]
            is_memory = answer["out_of_memory"] is True
            self._fail(number, WorkerLost(reason, is_out_of_memory=is_memory))
        elif running := self._take(number):
            for piece in answer["pieces"]:
                running.received.add(piece)
            await self._accept(number, running, answer["result"])


async def _within(awaitable: Awaitable[object]) -> None:
    """Wait for what a client does as it ends, but not for long, and whatever it raises."""
    # `asyncio.wait_for` would wait for ever where Dask does not heed that it is cancelled.
    task = asyncio.ensure_future(awaitable)
    await asyncio.wait({task}, timeout=_CLOSE_SECONDS)
    if task.done() and not task.cancelled():
        task.exception()


async def _workers(client: Client) -> tuple[str, dict[str, float]] | None:
    """Name of the scheduler, its workers' addresses, and when it has last heard of each.

    None where it does not answer.
    """
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            found = await client.scheduler.identity()
        workers = found["workers"].items()
        seen = {str(name): float(each["last_seen"]) for name, each in workers if _is_up(each)}
        return str(found["id"]), seen
    except (OSError, TimeoutError, KeyError, TypeError, AttributeError):
        return None


def _is_up(worker: Mapping[str, Any]) -> bool:
    return worker["status"] in ("running", "paused")


def _requests(blob: Blob, place: Path, start: int) -> Iterator[list[Message]]:
    """The pieces of a content from `start` on, several a request."""
    found: list[Message] = []
    size = 0
    for piece in pieces(blob, place, start):
        found.append(piece)
        size += len(piece["data"])
        if size >= _PIECES_BYTES:
            yield found
            found, size = [], 0
    if found:
        yield found


def _failure_text(error: Exception) -> str:
    text = printable(first_line(error))[:300]
    if isinstance(error, ImportError | AttributeError) and "lepton" in text:
        return f"has no lepton {__version__} ({text}): install it there"
    return f"failed: {type(error).__name__}: {text}"


def _no_scheduler(address: str, error: Exception) -> MachineError:
    text = printable(first_line(error))[:200]
    return MachineError(
        f"no Dask scheduler answers at {address}: {text}",
        fix="start one (`lepton cluster start` on this machine), or correct --cluster; for tls:// "
        "name the certificates in Dask's configuration, see docs/distributed.md",
    )
