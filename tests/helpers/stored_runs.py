"""A command on a run with a store, without data: what `pipeline.context` does around a search."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

from lepton_automl.runs.definition import Definition
from lepton_automl.runs.folder import RunFolder
from lepton_automl.runs.ledger import Ledger
from lepton_automl.runs.stored_run import StoredRun

DEFINITION = (
    'format = 2\ndata = "digits"\ntest = ""\nskip_corrupt = false\ndata_fingerprint = "ab"\n'
    'space = "tiny"\nspace_digest = "cd"\nobjectives = ["accuracy"]\nseed = 3\n'
    'target = "x86-any"\nprefer = "size"\n\n[limits]\n'
)
WANTED = Definition.from_toml(DEFINITION)
OTHER = Definition.from_toml(DEFINITION.replace("seed = 3", "seed = 4"))


@contextmanager
def command(place, path, *, wanted=WANTED, fresh=False, takes_over=False, events=None):
    """A command on a run with a store, without data and search."""
    folder, said = RunFolder(path), [] if events is None else events
    with ExitStack() as stack:
        stored = StoredRun(place, folder, takes_over=takes_over, emit=said.append)
        stack.enter_context(stored)
        folder.check_claim(wanted, fresh=fresh)
        stored.check(wanted, fresh=fresh)
        run_id = "" if fresh else stored.run_id
        lock = stack.enter_context(folder.claimed(wanted, fresh=fresh, run_id=run_id))
        stored.take(fresh=fresh)
        ledger = Ledger(folder.ledger, lock=lock, run_id=folder.definition().run_id)
        stack.callback(ledger.close)
        stack.enter_context(stored.copied(ledger, said.append))
        yield folder, ledger
