"""`lepton worker`: the program on a host of `--hosts`; it is started by the coordinator."""

from __future__ import annotations

from lepton_automl.search.workers.channel import Channel


def worker() -> None:
    """Run trainings for a search on another machine, which starts this command (`--hosts`)."""
    channel = Channel()  # Says its version at once: what follows takes seconds.
    from lepton_automl.search.workers.agent import Agent

    Agent(channel).serve()
