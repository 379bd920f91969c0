"""Serve optuna-dashboard on an in-memory copy of one run, updated from its ledger."""

from __future__ import annotations

import time
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna_dashboard
from optuna.storages import InMemoryStorage

from lepton_automl.core.files import real_path
from lepton_automl.errors import MachineError
from lepton_automl.runs.folder import RunFolder
from lepton_automl.search.objectives import load as load_objective
from lepton_automl.search.optuna_storage import StorageWriter

_HOST = "127.0.0.1"
"""Not reachable from other machines."""
_POLL_SECONDS = 2.0
"""Between two reads of the ledger."""


class Dashboard:
    """Server of one run, reading its ledger only; the run needs no Optuna storage.

    Parameters
    ----------
    folder : RunFolder
        The run; it may be running.
    port : int
        Port; 0 takes a free one.

    Raises
    ------
    DataError
        If the run has not begun.
    ConfigError
        If its ledger cannot be used.
    MachineError
        If the port cannot be used.
    """

    def __init__(self, folder: RunFolder, port: int) -> None:
        known = folder.definition()
        self.study = real_path(folder.path).name
        self._folder = folder
        self._copied, self._last = 0, 0.0
        storage = InMemoryStorage()
        objectives = {name: load_objective(name) for name in known.objectives}
        self._mirror = StorageWriter(storage, self.study, objectives, known.limits)
        self._copy_new_events()
        try:
            app = optuna_dashboard.wsgi(storage)
            self._server = make_server(_HOST, port, app, handler_class=_Silent)
        except OSError as error:
            raise MachineError(
                f"port {port} of this machine cannot be used: {error.strerror}",
                fix="give another one with --port",
            ) from error
        self._server.timeout = _POLL_SECONDS

    @property
    def url(self) -> str:
        """Address for a browser on this machine."""
        return f"http://{_HOST}:{self._server.server_port}/"

    def serve(self) -> None:
        """Handle one request, or wait briefly for one; then copy new events of the run."""
        self._server.handle_request()
        self._copy_new_events()

    def close(self) -> None:
        """Close the server."""
        self._server.server_close()

    def _copy_new_events(self) -> None:
        if time.monotonic() - self._last < _POLL_SECONDS:
            return
        with self._folder.read_ledger() as ledger:
            if sum(ledger.counts().values()) > self._copied:
                new = list(ledger.events())[self._copied :]
                for event in new:
                    self._mirror.observe(*event)
                self._copied += len(new)
                self._mirror.close()  # Writes what the mirror has buffered.
        self._last = time.monotonic()


class _Silent(WSGIRequestHandler):
    """Prints no line per request."""

    def log_message(self, format: str, *args: object) -> None:
        del format, args
