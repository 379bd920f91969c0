"""Dashboard: optuna-dashboard on a mirror of one run, kept in memory and up to date."""

from __future__ import annotations

import time
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna_dashboard
from optuna.storages import InMemoryStorage

from lepton_automl.errors import DataError, MachineError
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import LedgerView
from lepton_automl.search.objectives import load as load_objective
from lepton_automl.search.optuna_storage import Mirror

HOST = "127.0.0.1"
"""Nobody but this machine can connect."""
LOOK_SECONDS = 2.0
"""Between two looks at the ledger of a run that may be working."""


class Dashboard:
    """Serves one run, reading only; made from the ledger, so the run needs no mirror of its own.

    Parameters
    ----------
    folder : RunFolder
        The run; it may be working.
    port : int
        Where to listen; 0 takes any that is free.

    Raises
    ------
    DataError
        If the run has not begun.
    MachineError
        If the port is taken.
    """

    def __init__(self, folder: RunFolder, port: int) -> None:
        if not folder.ledger.is_file():
            raise DataError(
                f"{folder.path} has not begun: there is no {folder.ledger.name}",
                fix="run `lepton run` or `lepton search` into this folder",
            )
        known = folder.definition()
        self.study = folder.path.resolve().name
        self._ledger = folder.ledger
        self._seen, self._last = 0, 0.0
        storage = InMemoryStorage()
        objectives = {name: load_objective(name) for name in known.objectives}
        self._mirror = Mirror(storage, self.study, objectives, known.limits)
        self._catch_up()
        try:
            app = optuna_dashboard.wsgi(storage)
            self._server = make_server(HOST, port, app, handler_class=_Silent)
        except OSError as error:
            raise MachineError(
                f"port {port} of this machine cannot be used: {error.strerror}",
                fix="give another one with --port",
            ) from error
        self._server.timeout = LOOK_SECONDS

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self._server.server_port}/"

    def serve(self) -> None:
        """Answer one request, or wait for one a little while; then look for news of the run."""
        self._server.handle_request()
        self._catch_up()

    def close(self) -> None:
        """Listen no more."""
        self._server.server_close()

    def _catch_up(self) -> None:
        if time.monotonic() - self._last < LOOK_SECONDS:
            return
        with LedgerView(self._ledger) as ledger:
            if sum(ledger.counts().values()) > self._seen:
                news = list(ledger.events())[self._seen :]
                for happened in news:
                    self._mirror.observe(*happened)
                self._seen += len(news)
                self._mirror.close()  # Draws at once: nothing here waits for a disk.
        self._last = time.monotonic()


class _Silent(WSGIRequestHandler):
    """A terminal full of requests helps nobody."""

    def log_message(self, format: str, *args: object) -> None:
        del format, args
