"""The function that a Dask cluster runs; the scheduler imports this module too.

Importing torch takes seconds in which a scheduler or worker answers nobody, so that it is imported
in the thread of the first request alone.
"""

from __future__ import annotations


def run_task(text: str) -> str:
    """As `dask_task.answer`."""
    from lepton_automl.search.workers.dask_task import answer  # It imports torch.

    return answer(text)
