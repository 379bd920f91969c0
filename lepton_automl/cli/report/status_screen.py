"""The status screen: once, or live from a second terminal while a run works."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lepton_automl.cli.report.console import Output
from lepton_automl.core import units as w
from lepton_automl.core.units import duration
from lepton_automl.search.training_key import task_text

if TYPE_CHECKING:
    from lepton_automl.artifact.verdict import Verdict
    from lepton_automl.pipeline.status import HostNow, Status, WorkerNow

REFRESH_SECONDS = 1.0
FRONT_ROWS = 10
"""A front may be long; the rest is in `--json`."""
SPARKS, SPARK_COLUMNS = "▁▂▃▄▅▆▇█", 40
BAR_COLUMNS = 12


def watch_status(read: Callable[[], Status], seconds: float = REFRESH_SECONDS) -> None:
    """Show the state of a run until no command works on it, or the output is closed."""
    console = Output(sys.stdout)
    with Live(console=console, auto_refresh=False) as screen:
        while True:
            status = read()
            screen.update(status_view(status), refresh=True)
            if not status.is_open or console.target.is_lost:
                return
            time.sleep(seconds)


def status_view(status: Status) -> RenderableType:
    """The state of a run as tables."""
    parts: list[RenderableType] = [_head(status)]
    if status.workers:
        parts.append(_workers(status.workers))
    if status.hosts:
        parts.append(_hosts(status.hosts))
    if status.rungs:
        parts.append(
            Text("rungs of training: trials that have finished each, and train for longer")
        )
        parts.append(_rungs(status))
    if status.found.get("front"):
        parts.append(_front(status.found, w.accuracy_title(status.definition.balanced)))
    if status.messages:
        parts.append(Text("last messages", "bold"))
    parts += [Text(f"{said['stage']:<9} {said['message']}", "dim") for said in status.messages]
    return Group(*parts, *_ending(status))


def sparkline(values: Sequence[float]) -> str:
    """`values` as a line of at most 40 block characters."""
    step = max(1, -(-len(values) // SPARK_COLUMNS))
    # From the end, so that the newest value is always shown.
    shown = list(values[::-1][::step][::-1])
    low, high = min(shown), max(shown)
    top = len(SPARKS) - 1
    return "".join(
        SPARKS[round(top * (v - low) / (high - low)) if high > low else 0] for v in shown
    )


def _head(status: Status) -> Table:
    about = status.definition
    table = Table(show_header=False)
    table.add_row("run", Text(str(status.folder.path)))
    table.add_row("data", Text(f"{about.data} (fingerprint {about.data_fingerprint})"))
    table.add_row("search space", Text(about.space))
    table.add_row("state", Text(_state(status)))
    table.add_row("time", Text(_time(status)))
    if status.progress:
        table.add_row(str(status.progress["stage"]), Text(_progress(status.progress)))
    if best := status.found.get("best"):
        table.add_row("best so far", Text(f"trial {best['number']}: {_figures(best)}"))
    if status.hypervolume:
        value = f"{status.hypervolume[-1]:.4g} {sparkline(status.hypervolume)}"
        value += " (of the front; it grows while the search finds better nets)"
        table.add_row("hypervolume", Text(value))
    if status.store:
        table.add_row("store", Text(_store(status.store)))
    table.add_row("winner", "in models/best" if status.has_winner else "none yet")
    table.add_row("verdict", Text(_verdict(status.verdict)))
    return table


def _verdict(verdict: Verdict | None) -> str:
    """Status with the first reason why it does not hold."""
    if verdict is None:
        return "none yet"
    first, *others = [*verdict.reasons, ""]
    more = f" (and {len(others) - 1} more: lepton verify)" if len(others) > 1 else ""
    return f"{verdict.status}: {first}{more}" if first else verdict.status


def _store(store: Mapping[str, Any]) -> str:
    moved = f"{w.bytes_text(store['bytes_written'])} written, {store['requests']} requests"
    if not store["error"] and not store["events_behind"]:
        return f"{store['place']}: all events, {moved}"
    behind = f"{store['events_behind']} events and {store['files_behind']} files behind"
    why = f"; {store['error']}" if store["error"] else ""
    return f"{store['place']}: {behind}, {moved}{why}"


def _state(status: Status) -> str:
    if status.state == "working":
        return f"working, process {status.command.get('pid', '?')}"
    if status.state == "silent":
        return (
            f"process {status.command.get('pid', '?')} has not reported for "
            f"{duration(status.silent_seconds)}: it is stopped, or the machine is overloaded"
        )
    ending = (
        "the last command has ended"
        if status.state == "ended"
        else "the last command was interrupted"
    )
    return f"no command works on it; {ending}" + (f": {status.error}" if status.error else "")


def _time(status: Status) -> str:
    budget, left = status.command.get("budget_seconds"), status.found.get("eta_seconds")
    text = duration(status.alive_seconds) + (f" of {duration(budget)}" if budget else "")
    is_searching = status.progress.get("stage") == "search"
    return text + (f"; about {duration(left)} left" if is_searching and left is not None else "")


def _progress(progress: Mapping[str, Any]) -> str:
    share = progress["done"] / progress["total"] if progress["total"] else 0.0
    # Best trial and time left, which follow in the message, have lines of their own.
    return f"{_bar(share)} {progress['message'].partition(';')[0]}"


def _bar(share: float) -> str:
    share = min(1.0, max(0.0, share))
    full = round(BAR_COLUMNS * share)
    return "━" * full + "─" * (BAR_COLUMNS - full) + f" {share:4.0%}"


def _workers(workers: Sequence[WorkerNow]) -> Table:
    table = Table("worker", "process", "trains", "for", "done")
    for slot, worker in enumerate(workers, 1):
        task = worker.task or "idle"
        done = "waits for a latency measurement" if worker.waits else _bar(worker.share)
        cells = (task_text(task), duration(worker.seconds), done) if worker.task else (task, "", "")
        name = f"{slot} on {worker.host}" if worker.host else str(slot)
        table.add_row(Text(name), str(worker.pid), *cells)
    return table


def _hosts(hosts: Sequence[HostNow]) -> Table:
    table = Table("host", "state", "busy", "tasks done", "sent", "received", "idle", "lost workers")
    for host in hosts:
        state = f"{host.state}: {host.reason}" if host.reason else host.state
        table.add_row(
            Text(host.name),
            Text(state),
            f"{host.busy} of {host.jobs}",
            str(host.tasks),
            w.bytes_text(host.sent_bytes),
            w.bytes_text(host.received_bytes),
            duration(host.idle_seconds),
            str(host.lost_workers),
        )
    return table


def _rungs(status: Status) -> Table:
    table = Table("rung", "finished", "promoted")
    for rung in status.rungs:
        table.add_row(str(rung.rung), str(rung.finished), str(rung.promoted))
    return table


def _front(found: Mapping[str, Any], title: str) -> Table:
    front = found["front"]
    more = f" (the first {FRONT_ROWS} of {len(front)})" if len(front) > FRONT_ROWS else ""
    table = Table("front" + more, title, "file", "latency", "MACs", "epochs")
    for row in front[:FRONT_ROWS]:
        latency = "" if row["latency_ms"] is None else w.time_text(row["latency_ms"])
        size, macs = w.bytes_text(row["size_bytes"]), w.count_text(row["macs"])
        accuracy = w.accuracy_text(row["accuracy"])
        table.add_row(f"trial {row['number']}", accuracy, size, latency, macs, str(row["epochs"]))
    return table


def _figures(row: Mapping[str, Any]) -> str:
    latency = "" if row["latency_ms"] is None else f", {w.time_text(row['latency_ms'])}"
    return f"{w.accuracy_text(row['accuracy'])} in {w.bytes_text(row['size_bytes'])}{latency}"


def _ending(status: Status) -> list[Text]:
    """For an interrupted run, the command that continues it."""
    if status.state != "interrupted":
        return []
    words = status.command.get("words")
    return [Text(f"continue with: {words}" if words else "the same command continues it", "bold")]
