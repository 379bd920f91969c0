"""Delays TCP connections, where the kernel has no `netem`.

    relay.py MS HOST:PORT                       this process's pipes: a `ProxyCommand` of ssh
    relay.py MS LISTEN:PORT=HOST:PORT ...       all connections to the first address

Bytes arrive half of MS milliseconds late in each direction. A connection whose other end is silent
for as long as those of Dask may be is closed.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable

TIMEOUT_SECONDS = 30
"""As `distributed.comm.timeouts.tcp`."""


def relay(host: str, port: int, delay: float) -> None:
    """Pass bytes between a server and this process's pipes, each `delay` seconds late."""
    with _connected(host, port) as server:
        ways = ((0, server.fileno()), (server.fileno(), 1))
        for source, target in ways:
            _late(source, target, delay, ended=lambda: os._exit(0))
        threading.Event().wait()


def serve(host: str, port: int, target: tuple[str, int], delay: float) -> None:
    """Pass the bytes of all connections to `host` on to `target`, `delay` seconds late."""
    with socket.create_server((host, port), backlog=64) as listening:
        while True:
            client, _ = listening.accept()
            threading.Thread(target=_join, args=(client, target, delay), daemon=True).start()


def _join(client: socket.socket, target: tuple[str, int], delay: float) -> None:
    _watch(client)
    time.sleep(delay)
    try:
        server = _connected(*target)
    except OSError:
        client.close()
        return
    left = threading.Semaphore(0)
    for source, end in ((client, server), (server, client)):

        def ended(end: socket.socket = end) -> None:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_WR)
            left.release()

        _late(source.fileno(), end.fileno(), delay, ended)
    for _ in range(2):
        left.acquire()
    client.close()
    server.close()


def _connected(host: str, port: int) -> socket.socket:
    server = socket.create_connection((host, port), timeout=TIMEOUT_SECONDS)
    server.settimeout(None)
    _watch(server)
    return server


def _watch(one: socket.socket) -> None:
    """Notice an end that is silent, as Dask does."""
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, TIMEOUT_SECONDS // 4)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * TIMEOUT_SECONDS)


_Waiting = queue.SimpleQueue[tuple[float, bytes]]
"""When bytes are passed on, and these; none of them at the end."""


def _late(source: int, target: int, delay: float, ended: Callable[[], object]) -> None:
    """Pass bytes on by threads; `ended` is called once at the end."""
    waiting: _Waiting = queue.SimpleQueue()

    def write() -> None:
        with contextlib.suppress(OSError):
            _write(waiting, target)
        ended()

    threading.Thread(target=_read, args=(source, waiting, delay), daemon=True).start()
    threading.Thread(target=write, daemon=True).start()


def _read(source: int, waiting: _Waiting, delay: float) -> None:
    content = b"?"
    while content:
        try:
            content = os.read(source, 1 << 16)
        except OSError:
            content = b""
        waiting.put((time.monotonic() + delay, content))


def _write(waiting: _Waiting, target: int) -> None:
    while True:
        at, content = waiting.get()
        time.sleep(max(0.0, at - time.monotonic()))
        if not content:
            return
        while content:
            content = content[os.write(target, content) :]


def _place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> None:
    """Relay until the connection or the process ends."""
    delay = float(sys.argv[1]) / 2000
    if "=" not in sys.argv[2]:
        relay(*_place(sys.argv[2]), delay)
    for each in sys.argv[2:]:
        listen, _, target = each.partition("=")
        words = (*_place(listen), _place(target), delay)
        threading.Thread(target=serve, args=words, daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
