"""The child process in which ONNX files from outside run: its program, and starting it early.

`session` talks to it, and loads numpy; what starts it early has not loaded that yet.
"""

from __future__ import annotations

from lepton_automl.core.limited_process import acquire, release

PROGRAM = (
    "from lepton_automl.core.subprocesses import exit_with_parent; exit_with_parent(); "
    "from lepton_automl.models.untrusted.session_server import main; main()"
)


def start_process() -> None:
    """Start the process of this thread, so that it loads its modules meanwhile.

    Raises
    ------
    MachineError
        If it cannot be started.
    """
    release(acquire(PROGRAM))
