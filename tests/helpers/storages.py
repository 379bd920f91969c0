"""Object storages for tests: one that fails or dies as planned, and S3 on this machine."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lepton_automl.core.object_storage import ObjectStorage, StorageError


class Planned:
    """Does `fault(number)` before each operation, numbered from 1, or after it.

    Parameters
    ----------
    storage : ObjectStorage
        What answers.
    fault : callable
        May raise or end the process.
    after : bool
        Whether the operation is done before.
    """

    def __init__(
        self, storage: ObjectStorage, fault: Callable[[int], None], *, after: bool = False
    ) -> None:
        self._storage, self._fault, self._after = storage, fault, after
        self.place, self.count = storage.place, 0
        self.asked: list[tuple[str, str]] = []
        """Operation and name of each."""

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._storage, name)

        def planned(*given: Any) -> Any:
            self.count += 1
            number = self.count
            self.asked.append((name, given[0]))
            if not self._after:
                self._fault(number)
            done = operation(*given)
            if self._after:
                self._fault(number)
            return done

        return planned


def failing(numbers: Callable[[int], bool], *, is_temporary: bool = True) -> Callable[[int], None]:
    """A fault: the operations of these numbers fail."""

    def fault(number: int) -> None:
        if numbers(number):
            raise StorageError("planned", fix="then run again", is_temporary=is_temporary)

    return fault


def dying(at: int) -> Callable[[int], None]:
    """A fault: the process is killed at the operation of this number."""

    def fault(number: int) -> None:
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return fault


SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def s3_server() -> Iterator[int]:
    """An S3 server of moto on the loopback interface; its port."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


class Proxy:
    """Passes HTTP on to a port of this machine, with faults.

    Parameters
    ----------
    port : int
        Where it passes requests on to.
    """

    def __init__(self, port: int) -> None:
        self.faults: list[str] = []
        """What happens to the next requests: `503`, `429`, `torn` (the server has done it, the
        answer is cut off), `lost` (the connection is closed at once), `ok`."""
        self.always = ""
        """What happens to all others; empty: nothing."""
        self.clock_ahead = 0.0
        """Seconds that the clock of the server is ahead; S3 refuses from 15 minutes on."""
        self.requests: list[str] = []
        """Method and path of each."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy._answer(self, port)

            do_PUT = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815

            def log_message(self, *given: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._lock = threading.Lock()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, port: int) -> None:
        with self._lock:
            self.requests.append(f"{request.command} {request.path}")
            fault = self.faults.pop(0) if self.faults else self.always
        body = _body(request)
        if fault in ("503", "429"):
            code = {"503": "SlowDown", "429": "TooManyRequests"}[fault]
            _error(request, int(fault), code)
        elif fault == "lost":
            request.close_connection = True
        elif self._is_skewed(request):
            _error(request, 403, "RequestTimeTooSkewed")
        else:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request(request.command, request.path, body, dict(request.headers))
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if fault == "torn":
                half = content[: len(content) // 2]
                request.send_response(answer.status)
                request.send_header("Content-Length", str(len(content) + 100))
                request.end_headers()
                request.wfile.write(half)
                request.close_connection = True
                return
            request.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    request.send_header(name, value)
            size = answer.getheader("Content-Length") or str(len(content))
            request.send_header("Content-Length", size)
            request.end_headers()
            request.wfile.write(content)

    def _is_skewed(self, request: BaseHTTPRequestHandler) -> bool:
        stamp = request.headers.get("X-Amz-Date", "")
        if not stamp:
            return False
        text = re.sub(r"(....)(..)(..)T(..)(..)(..)Z", r"\1-\2-\3T\4:\5:\6+00:00", stamp)
        signed = email.utils.datetime.datetime.fromisoformat(text).timestamp()
        return abs(time.time() + self.clock_ahead - signed) > 900


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Expect", "").lower() == "100-continue":
        pass  # The base class has answered.
    if request.headers.get("Transfer-Encoding", "").lower() == "chunked":
        parts = []
        while size := int(request.rfile.readline().split(b";")[0], 16):
            parts.append(request.rfile.read(size))
            request.rfile.readline()
        while request.rfile.readline().strip():
            pass
        del request.headers["Transfer-Encoding"]
        return b"".join(parts)
    return request.rfile.read(int(request.headers.get("Content-Length", 0)))


def _error(request: BaseHTTPRequestHandler, status: int, code: str) -> None:
    content = f"<Error><Code>{code}</Code><Message>planned {code}</Message></Error>".encode()
    request.send_response(status)
    request.send_header("Content-Type", "application/xml")
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)
