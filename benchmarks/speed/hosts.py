"""Hosts that train over ssh or Dask: efficiency of planned tasks, and searches while hosts die.

    python benchmarks/bench.py hosts efficiency --workers 2 8 --seconds 20 2
    python benchmarks/bench.py hosts search digits --trials 12 --faults
    python benchmarks/bench.py hosts search fashion_12k.npz --trials 12 --faults
    python benchmarks/bench.py hosts search digits --trials 12 --faults --by dask

Needs root, `ip`, `tc`, `unshare` and `sshd`. Each of four hosts is a network namespace with an ssh
server on an address of its own; empty folders are mounted over /root, /home and the run folders.
Its link has 100 Mbit/s, and a relay adds 20 ms to a round trip. By Dask, each has one worker of a
cluster over TLS, whose scheduler is on this side of the links.

`efficiency` runs tasks that sleep for a planned time and return a net: their planned seconds over
the seconds of all workers, once hosts have the data and workers their modules.
`search` compares `lepton search` on the hosts with the same search on one worker of this machine;
with `--faults` one host is killed, one stopped, and one cut off and connected again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import lepton, parser, print_table
from lepton_automl.errors import LeptonError
from lepton_automl.runs.ledger import EventKind, LedgerView
from lepton_automl.runs.live_status import WORKERS

HOSTS = 4
DELAY_MS, MBIT = 20, 100
PORT = 2222
SCHEDULER = "10.77.0.1"
SCHEDULER_PORT, WORKER_PORT = 8786, 9000
TO_SCHEDULER, TO_WORKER = 8800, 8900
"""Ports of the relay for the first host: to the scheduler, and to its worker."""
RELAY = Path(__file__).parents[1] / "relay.py"
TASKS = 5
"""Tasks for each worker."""
PIXELS = 12_000
"""Pictures of 28x28 that a host needs for the tasks."""


def ran(*words: str, **options: Any) -> str:
    """Standard output of a command.

    Raises
    ------
    SystemExit
        If it fails.
    """
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr}")
    return done.stdout


class Net:
    """Four hosts in network namespaces, each with an ssh server; use it in a `with` block.

    Parameters
    ----------
    folder : Path
        For keys and the file systems of the hosts.
    hidden : sequence of Path
        Folders of this machine that the hosts do not see.
    """

    def __init__(self, folder: Path, hidden: Sequence[Path]) -> None:
        self.folder, self._hidden = folder, [path.resolve() for path in hidden]
        self._servers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Net:
        self._make_keys()
        with contextlib.suppress(SystemExit):
            ran("ip", "link", "del", "lepbr")
        ran("ip", "link", "add", "lepbr", "type", "bridge")
        ran("ip", "addr", "add", f"{SCHEDULER}/24", "dev", "lepbr")
        ran("ip", "link", "set", "lepbr", "up")
        for number in range(HOSTS):
            self._connect(number)
            self._servers.append(self._serve(number))
        time.sleep(1.0)
        return self

    def _make_keys(self) -> None:
        for key in ("host", "user"):
            ran("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key))
        shutil.copy(self.folder / "user.pub", self.folder / "authorized")
        Path("/run/sshd").mkdir(exist_ok=True)

    def __exit__(self, *exc: object) -> None:
        for server in self._servers:
            server.kill()
            server.wait()
        for number in range(HOSTS):
            for pid in self.processes(number):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(SystemExit):
                ran("ip", "netns", "del", f"lep{number}")
        with contextlib.suppress(SystemExit):
            ran("ip", "link", "del", "lepbr")

    def command(self, number: int) -> list[str]:
        """The command that reaches a host."""
        options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null")
        relay = f"ProxyCommand={sys.executable} {RELAY} {DELAY_MS} {address(number)}:{PORT}"
        words = [word for option in (*options, "LogLevel=ERROR", relay) for word in ("-o", option)]
        return ["ssh", *words, "-i", str(self.folder / "user"), "-p", str(PORT), address(number)]

    def processes(self, number: int) -> list[int]:
        """Processes of a host, its ssh server left out."""
        found = subprocess.run(
            ["ip", "netns", "pids", f"lep{number}"], capture_output=True, text=True, check=False
        )
        servers = {server.pid for server in self._servers}
        return [int(pid) for pid in found.stdout.split() if int(pid) not in servers]

    def send(self, number: int, which: signal.Signals) -> None:
        """Send a signal to all processes of a host."""
        for pid in self.processes(number):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, which)

    @staticmethod
    def set_link(number: int, state: str) -> None:
        """Cut the link of a host off (`down`) or connect it (`up`)."""
        ran("ip", "link", "set", f"lepv{number}", state)

    @staticmethod
    def _connect(number: int) -> None:
        name, outer, inner = f"lep{number}", f"lepv{number}", f"lepn{number}"
        # The link outlives its namespace while a process of an earlier command is in that.
        for kind, left in (("netns", name), ("link", outer)):
            with contextlib.suppress(SystemExit):
                ran("ip", kind, "del", left)
        ran("ip", "netns", "add", name)
        ran("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name)
        ran("ip", "link", "set", outer, "master", "lepbr", "up")
        within = ("ip", "netns", "exec", name)
        ran(*within, "ip", "addr", "add", f"{address(number)}/24", "dev", inner)
        ran(*within, "ip", "link", "set", inner, "up")
        ran(*within, "ip", "link", "set", "lo", "up")
        shape = ("tbf", "rate", f"{MBIT}mbit", "burst", "64kbit", "latency", "400ms")
        ran("tc", "qdisc", "add", "dev", outer, "root", *shape)
        ran(*within, "tc", "qdisc", "add", "dev", inner, "root", *shape)

    def _serve(self, number: int) -> subprocess.Popen[bytes]:
        """An ssh server in a namespace of the network, of mounts and of the host's name."""
        own = self.folder / f"disk{number}"
        mounts = []
        for place in (Path("/root"), Path("/home"), *self._hidden):
            empty = own / place.relative_to("/")
            empty.mkdir(parents=True)
            mounts.append(f"mount --bind {empty} {place}")
        # The interpreter lies under /root on some machines: what is needed of it stays visible.
        base = Path(sys.base_prefix)
        keep = base.is_relative_to("/root")
        if keep:
            mounts[0] = f"mkdir -p {own}/python && mount --bind {base} {own}/python && " + mounts[0]
            mounts[0] += f" && mkdir -p {base} && mount --bind {own}/python {base}"
        server = shlex.join(self._server(number))
        named = f"echo lep{number} > /proc/sys/kernel/hostname"
        script = " && ".join([named, *mounts, f"exec {server}"])
        words = ["ip", "netns", "exec", f"lep{number}", "unshare", "-m", "-u", "sh", "-c", script]
        # Linux shares the processors between sessions: each host is one.
        return subprocess.Popen(words, start_new_session=True)

    def _server(self, number: int) -> list[str]:
        """What a host runs."""
        settings = {
            "Port": str(PORT),
            "ListenAddress": address(number),
            "HostKey": str(self.folder / "host"),
            "AuthorizedKeysFile": str(self.folder / "authorized"),
            "StrictModes": "no",
            "PermitRootLogin": "yes",
            "PidFile": "none",
            "UsePAM": "no",
            "AcceptEnv": "none",
            "SetEnv": f"PYTHONPATH={os.pathsep.join(filter(None, sys.path))}",
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        return ["/usr/sbin/sshd", "-D", "-f", "/dev/null", *options]


class DaskNet(Net):
    """Four hosts with one Dask worker each, over TLS; the scheduler is on the bridge."""

    def __enter__(self) -> DaskNet:
        super().__enter__()
        words = ("--host", SCHEDULER, "--port", str(SCHEDULER_PORT), "--no-dashboard")
        program = (sys.executable, "-m", "distributed.cli.dask_scheduler")
        self._here = [subprocess.Popen([*program, *words, *self._certificates()])]
        ways = []
        for number in range(HOSTS):
            ways += [
                f"{SCHEDULER}:{TO_SCHEDULER + number}={SCHEDULER}:{SCHEDULER_PORT}",
                f"{SCHEDULER}:{TO_WORKER + number}={address(number)}:{WORKER_PORT}",
            ]
        # Workers try again where nothing listens, but not where a connection ends at once.
        while not listens(SCHEDULER, SCHEDULER_PORT):
            time.sleep(0.2)
        self._here.append(subprocess.Popen([sys.executable, str(RELAY), str(DELAY_MS), *ways]))
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._here:
            process.kill()
            process.wait()
        super().__exit__(*exc)

    def processes(self, number: int) -> list[int]:
        """All processes of a host."""
        found = subprocess.run(
            ["ip", "netns", "pids", f"lep{number}"], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in found.stdout.split()]

    def client_environment(self) -> dict[str, str]:
        """Variables by which Dask's client finds the certificates."""
        ca, cert, key = self._certificates()[1::2]
        start = "DASK_DISTRIBUTED__COMM__TLS__"
        ends = {"CA_FILE": ca, "CLIENT__CERT": cert, "CLIENT__KEY": key}
        return {start + end: path for end, path in ends.items()}

    def _make_keys(self) -> None:
        names = f"subjectAltName=IP:{SCHEDULER}"
        for number in range(HOSTS):
            names += f",IP:{address(number)}"
        files = ("-keyout", str(self.folder / "key.pem"), "-out", str(self.folder / "cert.pem"))
        words = ("-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=lepton benchmark")
        ran("openssl", "req", "-x509", *words, "-addext", names, *files)

    def _certificates(self) -> list[str]:
        cert, key = (str(self.folder / f"{name}.pem") for name in ("cert", "key"))
        return ["--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key]

    def _server(self, number: int) -> list[str]:
        words = ["--nworkers", "1", "--nthreads", "1", "--no-dashboard"]
        words += ["--listen-address", f"tls://{address(number)}:{WORKER_PORT}"]
        words += ["--contact-address", f"tls://{SCHEDULER}:{TO_WORKER + number}"]
        limits = ("--memory-limit", "0", "--local-directory", "/home", "--name", f"lep{number}")
        variables = f"PYTHONPATH={os.pathsep.join(filter(None, sys.path))}"
        program = (sys.executable, "-m", "distributed.cli.dask_worker")
        place = f"tls://{SCHEDULER}:{TO_SCHEDULER + number}"
        return ["env", variables, *program, place, *words, *limits, *self._certificates()]


def listens(host: str, port: int) -> bool:
    """Whether something listens there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), 1.0):
        return True
    return False


def address(number: int) -> str:
    """Of a host."""
    return f"10.77.0.{10 + number}"


def hosts_file(net: Net, path: Path, jobs: Sequence[int], more: str = "") -> Path:
    """Write the file of hosts."""
    text = ""
    for number, count in enumerate(jobs):
        if count:
            words = json.dumps(net.command(number))
            text += f'[host.lep{number}]\ncommand = {words}\npython = "{sys.executable}"\n'
            text += f"jobs = {count}\ndevice = 'cpu'\n{more}\n"
    path.write_text(text)
    return path


# Tasks that sleep.


def agent() -> None:
    """The program of a host whose workers sleep."""
    from lepton_automl.search.workers.agent import Agent
    from lepton_automl.search.workers.channel import Channel

    Agent(Channel(), WORKER).serve()


WORKER = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.search.workers import worker; from benchmarks.speed import hosts; "
    "worker.run_task = hosts.sleep; worker.main()"
)


def sleep(task: Any, training_slot: Any, on_progress: Any, *_: Any) -> Any:
    """Sleep as long as the seed says, in thousandths of a second, then return a new net."""
    from lepton_automl.models.arch import Arch
    from lepton_automl.search.workers.task import TaskResult, pack
    from lepton_automl.training.loop import initial_model

    begun, seconds = time.monotonic(), task.seed / 1000
    while (done := time.monotonic() - begun) < seconds:
        with training_slot():
            time.sleep(min(0.1, seconds - done))
        on_progress(min(1.0, done / seconds))
    initial_model(Arch.from_json(task.arch), task.preprocessing, 0).save(Path(task.out))
    return TaskResult((seconds,), pack(np.ones(len(np.load(task.validation[1])), np.bool_)))


def planned(folder: Path, number: int, seconds: float) -> Any:
    """A task that sleeps."""
    from lepton_automl.models.arch import chain
    from lepton_automl.models.layers.conv import Conv
    from lepton_automl.models.layers.head import Head
    from lepton_automl.models.layers.stem import Stem
    from lepton_automl.search.workers.task import Task
    from lepton_automl.training.recipe import Recipe

    arch = chain((28, 28, 1), [Stem(16), Conv(32), Conv(48), Head()], 10)
    files = [str(folder / f"{part}-{kind}.npy") for part in "tv" for kind in "xy"]
    return Task(
        key=f"{number:05d}-rung0",
        arch=arch.to_json(),
        recipe=Recipe().to_json(),
        cycles=((1, 0),),
        seed=round(1000 * seconds),
        start="",
        out=str(folder / f"out-{number}"),
        zero_point=0,
        scale=1 / 255,
        train=(files[0], files[1]),
        validation=(files[2], files[3]),
        work=seconds,
    )


def efficiency(net: Net, folder: Path, workers: int, seconds: float) -> dict[str, float]:
    """Planned seconds of all tasks over seconds of all workers, once all hosts are ready."""
    from lepton_automl.search.executors.hosts import HostsExecutor

    rng = np.random.default_rng(0)
    for part, count in (("t", PIXELS), ("v", 1000)):
        np.save(folder / f"{part}-x.npy", rng.integers(0, 256, (count, 28, 28, 1), np.uint8))
        np.save(folder / f"{part}-y.npy", np.zeros(count, np.int64))
    jobs = [workers // HOSTS + (n < workers % HOSTS) for n in range(HOSTS)]
    path = hosts_file(net, folder / "hosts.toml", jobs)
    program = (sys.executable, "-c", "'from benchmarks.speed.hosts import agent; agent()'")
    count = TASKS * workers
    times = seconds * rng.uniform(0.75, 1.25, count)
    with HostsExecutor(path, folder / "locks", program=program) as executor:
        while executor.jobs < workers:
            time.sleep(0.2)
        # One task a worker brings data and modules.
        for n in range(workers):
            executor.start(planned(folder, 90_000 + n, 1.0))
        while executor.busy:
            executor.finished()
        tasks = [planned(folder, n, float(each)) for n, each in enumerate(times)]
        begun, used, done = time.monotonic(), time.process_time(), 0
        while done < count:
            while tasks and executor.free:
                executor.start(tasks.pop(0))
            done += len(executor.finished())
        took, cpu = time.monotonic() - begun, time.process_time() - used
        hosts = executor.facts()["hosts"]
    # The last tasks of a fixed list leave workers without one, whatever starts them.
    return {
        "planned": float(times.sum()),
        "took": took,
        "efficiency": float(times.sum()) / (workers * took),
        "bound": float(times.sum()) / (workers * list_bound(times, workers)),
        "coordinator_ms": 1000 * cpu / count,
        "sent_mb": max(host["sent_bytes"] for host in hosts) / 1e6,
    }


def list_bound(times: np.ndarray, workers: int) -> float:
    """Seconds of the same list without any cost of starting: each task to the first free worker."""
    ends = np.zeros(workers)
    for each in times:
        ends[ends.argmin()] += each
    return float(ends.max())


def measure_efficiency(given: argparse.Namespace) -> None:
    """All numbers of workers and lengths of tasks."""
    rows = []
    for seconds in given.seconds:
        for workers in given.workers:
            with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
                keys, own = Path(name, "keys"), Path(name, "own")
                keys.mkdir()
                own.mkdir()
                with Net(keys, [own]) as net:
                    found = efficiency(net, own, workers, seconds)
            rows.append((f"{seconds:g}", workers, *(f"{value:.3g}" for value in found.values())))
            print(*rows[-1], flush=True)
    heads = ("planned s", "took s", "efficiency", "of a free list", "coordinator CPU ms a task")
    print_table(("task s", "workers", *heads, "MB sent to a host"), rows)


# A search while hosts die.


def measure_search(given: argparse.Namespace) -> None:
    """The same search on one worker of this machine and on the hosts."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        keys, runs = Path(name, "keys"), Path(name, "runs")
        keys.mkdir()
        runs.mkdir()
        words = ["search", given.data, "--trials", str(given.trials), "--seed", "0", "--json"]
        words += ["--objective", "accuracy,size_bytes", *given.options]
        rows = []
        if not given.only_hosts:
            begun = time.monotonic()
            alone = json.loads(ran(*lepton(*words, "--jobs", "1", "--out", str(runs / "alone"))))
            rows.append(row_of("one worker here", alone, runs / "alone", time.monotonic() - begun))
        with (DaskNet if given.by == "dask" else Net)(keys, [runs]) as net:
            out, variables = runs / "hosts", dict(os.environ)
            if isinstance(net, DaskNet):
                place = ("--cluster", f"tls://{SCHEDULER}:{SCHEDULER_PORT}")
                variables |= net.client_environment()
            else:
                more = f"patience = {given.patience}"
                place = ("--hosts", str(hosts_file(net, runs / "hosts.toml", [1] * HOSTS, more)))
            process = subprocess.Popen(
                lepton(*words, *place, "--out", str(out)), stdout=subprocess.PIPE, env=variables
            )
            begun = time.monotonic()
            for event in faults(net, process, out) if given.faults else ():
                print(f"{time.monotonic() - begun:6.1f} s  {event}", flush=True)
            printed, _ = process.communicate()
            took = time.monotonic() - begun
            if process.returncode:
                raise SystemExit(f"the search on hosts ended with {process.returncode}")
            rows.append(row_of("four hosts", json.loads(printed), out, took))
        heads = ("s", "winner", "rungs", "trained twice", "tasks by host")
        print_table(("search", *heads), rows)


def faults(net: Net, process: subprocess.Popen[bytes], out: Path) -> Iterator[str]:
    """Kill one host, stop one, cut one off and connect it again, once the first task has begun."""

    def later(seconds: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return process.poll() is None

    while later(0.5) and not has_begun(out):
        pass
    yield "the first task has begun"
    if later(25):
        net.send(0, signal.SIGKILL)
        yield "all processes of lep0 killed"
    if later(10):
        net.send(1, signal.SIGSTOP)
        yield "all processes of lep1 stopped"
    if later(10):
        net.set_link(2, "down")
        yield "lep2 cut off"
    if later(25):
        net.set_link(2, "up")
        yield "lep2 connected again"
    if later(10):
        net.send(1, signal.SIGCONT)
        yield "lep1 goes on"


def has_begun(out: Path) -> bool:
    """Whether a task of a run has begun."""
    # The file can be read once its first transaction is written.
    with contextlib.suppress(LeptonError), LedgerView(out / "ledger.db") as view:
        notes = view.live_entries()
        return WORKERS in notes and bool(notes[WORKERS].value["first"])
    return False


def row_of(name: str, found: dict[str, Any], out: Path, seconds: float) -> tuple[str, ...]:
    """What a search found, and whether anything is twice in its ledger."""
    with LedgerView(out / "ledger.db") as view:
        keys = list(view.keys(EventKind.RUNG))
        hosts = Counter(str(each.get("host", "")) for each in view.all(EventKind.RUNG).values())
    twice = sum(count > 1 for count in Counter(keys).values())
    winner = f"trial {found['winner']}"
    by_host = ", ".join(f"{host or 'here'} {count}" for host, count in sorted(hosts.items()))
    return name, f"{seconds:.0f}", winner, str(len(keys)), str(twice), by_host


def main(arguments: list[str]) -> None:
    """Measure."""
    options = parser(__doc__, "hosts")
    options.add_argument("step", choices=("efficiency", "search"))
    options.add_argument("data", nargs="?", default="digits")
    options.add_argument("--workers", type=int, nargs="+", default=[2, 8])
    options.add_argument("--seconds", type=float, nargs="+", default=[20.0, 2.0])
    options.add_argument("--trials", type=int, default=12)
    options.add_argument("--patience", type=float, default=8)
    options.add_argument("--by", choices=("ssh", "dask"), default="ssh")
    options.add_argument("--faults", action="store_true")
    options.add_argument("--only-hosts", action="store_true")
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    given = options.parse_args(arguments[:cut])
    given.options = arguments[cut + 1 :]
    (measure_efficiency if given.step == "efficiency" else measure_search)(given)
