"""Costs of trials and nets, with the latency where a limit or an objective needs it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from lepton_automl.cost.cost import Cost
from lepton_automl.models.arch import Arch
from lepton_automl.search.proposals.feasibility import CostCheck
from lepton_automl.search.proposals.proposer import input_bytes, label_bytes
from lepton_automl.search.request import SearchRequest
from lepton_automl.search.trials import Trials
from lepton_automl.search.workers.measurement_lock import MeasurementLock


def trial_costs(request: SearchRequest, trials: Trials) -> dict[int, Cost]:
    """Costs of all trained trials; latencies are measured where a limit needs them."""
    costs = {number: trials[number].cost for number in trials.trained()}
    if request.config.limits.max_latency_ms is not None:
        missing = [number for number, cost in costs.items() if cost.latency_ms is None]
        found = net_costs(request, [trials[number].arch for number in missing])
        costs |= dict(zip(missing, found, strict=True))
    return costs


def net_costs(request: SearchRequest, archs: Sequence[Arch]) -> list[Cost]:
    """Costs of nets; with their latency where a limit or an objective needs it."""
    if not archs:
        return []
    with closing(MeasurementLock(request.folder.checkpoints)) as lock:
        check = CostCheck(
            request.config.limits,
            request.target,
            label_bytes(request.dataset.class_names) + input_bytes(request.dataset),
            needs_latency=request.config.asks_for_latency,
            ledger=request.ledger,
            lock=lock,
            model=request.latency_model,
            stopwatch=request.stopwatch,
        )
        return [check.whole(arch) for arch in archs]
