"""Pipe to a TCP server that delays both directions: `ProxyCommand relay.py HOST PORT MS` of ssh."""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import time


def relay(host: str, port: int, delay: float) -> None:
    """Pass bytes between a server and this process's pipes, each `delay` seconds late."""
    with socket.create_connection((host, port)) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_late, args=(0, server.fileno(), delay), daemon=True).start()
        _late(server.fileno(), 1, delay)


def _late(source: int, target: int, delay: float) -> None:
    waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def write() -> None:
        while True:
            at, content = waiting.get()
            time.sleep(max(0.0, at - time.monotonic()))
            if not content:
                os._exit(0)
            while content:
                content = content[os.write(target, content) :]

    threading.Thread(target=write, daemon=True).start()
    while True:
        content = os.read(source, 1 << 16)
        waiting.put((time.monotonic() + delay, content))
        if not content:
            time.sleep(1)


if __name__ == "__main__":
    relay(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) / 2000)
