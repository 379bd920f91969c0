"""Judge whether the shipped file keeps the stated limits."""

from __future__ import annotations

import dataclasses

from lepton_automl.artifact.verdict import FileMetrics, JudgedLimit, PairedDrop, Precision, Status
from lepton_automl.config import LIMITS, Limits
from lepton_automl.cost.cost import Cost
from lepton_automl.cost.flash import SHARE
from lepton_automl.metrics import balanced, intervals
from lepton_automl.metrics.paired import (
    Evidence,
    class_drops,
    drop_status,
    judge_drop,
    paired_drop,
    samples_to_decide,
    tango_interval,
)


def paired(reference: Evidence, file: Evidence) -> PairedDrop:
    """Accuracy points lost from `reference` to `file` on the same samples."""
    drop = paired_drop(reference.correct, file.correct, file.groups, file.strata)
    return PairedDrop(drop.points, drop.low, drop.high, drop.upper, drop.n)


def judge(
    limits: Limits, figures: FileMetrics, file: Evidence, reference: Evidence
) -> tuple[JudgedLimit, ...]:
    """Judge each stated limit.

    `file` and `reference` are evidence on what limits on accuracy apply to: test samples, or whole
    recordings. Size, multiply-accumulates and memory are exact. A latency holds if its whole
    interval is within the limit, an accuracy or a drop if its one-sided 95 % bound is. For another
    target device its predicted latency is judged, not the one measured here; an estimate from
    assumed speeds can break a limit, but not prove that it holds.
    """
    judged = []
    for name, limit in limits.stated.items():
        if name == "max_latency_ms":
            judged.append(_latency(name, limit, figures))
        elif name == "max_flash_bytes":
            judged.append(_flash(name, limit, figures))
        elif name == "min_accuracy":
            judged.append(_accuracy(name, limit, file))
        elif name == "max_drop":
            judged.append(_drop(name, limit, file, reference))
        elif name == "max_class_drop":
            judged.append(_class_drop(name, limit, file, reference))
        else:
            measured = LIMITS[name].measured(figures)
            assert measured is not None, "every other limit is on a cost"
            status: Status = "holds" if measured <= limit else "broken"
            judged.append(JudgedLimit(name, limit, measured, None, status))
    return tuple(judged)


def undecided_without_run(judged: tuple[JudgedLimit, ...]) -> tuple[JudgedLimit, ...]:
    """Limits on a format whose files were not run here, judged on the ONNX file's figures.

    A prediction cannot prove that a limit holds.
    """
    return tuple(
        dataclasses.replace(
            limit,
            status="undecided" if limit.status == "holds" else limit.status,
            basis="predicted",
        )
        for limit in judged
    )


def keeps_exact_limits(limits: Limits, figures: FileMetrics | Cost) -> bool:
    """Whether the limits that need no measurement hold."""
    return all(
        (LIMITS[name].measured(figures) or 0) <= limit
        for name, limit in limits.costs.items()
        if name != "max_latency_ms"
    )


def choose_primary(
    int8: FileMetrics, floating: FileMetrics, limits: Limits, prefer: str
) -> Precision:
    """Which file ships: int8, or with `latency` the faster of those that keep the exact limits.

    Where the files are for another device, int8 ships: which is faster there is unknown.
    The float file is faster where its whole latency interval lies below int8's. Accuracy on
    the test set is not used: selecting by it would bias it.
    """
    if prefer != "latency" or int8.target_latency is not None:
        return "int8"
    int8_keeps, float_keeps = keeps_exact_limits(limits, int8), keeps_exact_limits(limits, floating)
    if int8_keeps != float_keeps:
        return "int8" if int8_keeps else "float"
    return "float" if is_faster(floating, int8) else "int8"


def is_faster(one: FileMetrics, other: FileMetrics) -> bool:
    """The whole latency interval of `one` lies below that of `other`."""
    return one.latency_interval[1] < other.latency_interval[0]


def _latency(name: str, limit: float, figures: FileMetrics) -> JudgedLimit:
    target = figures.target_latency
    low, high = target.latency_interval if target else figures.latency_interval
    basis = target.basis if target else "measured"
    status: Status = "holds" if high <= limit else "broken" if low > limit else "undecided"
    if status == "holds" and basis == "estimated":
        status = "undecided"
    figure = target.latency_ms if target else figures.latency_ms
    return JudgedLimit(name, limit, figure, (low, high), status, basis=basis)


def _flash(name: str, limit: float, figures: FileMetrics) -> JudgedLimit:
    """Measured by a compiler, or predicted within `SHARE`.

    Of files that are not code only their own bytes are known, which can break a limit alone.
    """
    value, basis = figures.flash_bytes, figures.flash_basis
    if value is None:
        value, basis = figures.size_bytes, "estimated"
    if basis == "measured":
        return JudgedLimit(name, limit, value, None, "holds" if value <= limit else "broken")
    share = SHARE if basis == "predicted" else 0.0
    low, high = (1 - share) * value, (1 + share) * value
    status: Status = "holds" if high <= limit else "broken" if low > limit else "undecided"
    if status == "holds" and basis == "estimated":
        status = "undecided"
    return JudgedLimit(name, limit, value, (low, high), status, basis=basis)


def _accuracy(name: str, limit: float, file: Evidence) -> JudgedLimit:
    level, right = intervals.ONE_SIDED_LEVEL, balanced.balanced_total(file.correct, file.strata)
    bounds = intervals.accuracy_interval(file.correct, file.groups, file.strata, level=level)
    status, needed = intervals.judge_accuracy(right, len(file.correct), limit, bounds)
    return JudgedLimit(name, limit, file.accuracy, file.interval, status, needed)


def _drop(name: str, limit: float, file: Evidence, reference: Evidence) -> JudgedLimit:
    drop = paired_drop(reference.correct, file.correct, file.groups, file.strata)
    status, needed = judge_drop(drop, limit)
    return JudgedLimit(name, limit, drop.points, (drop.low, drop.high), status, needed)


def _class_drop(name: str, limit: float, file: Evidence, reference: Evidence) -> JudgedLimit:
    """The worst class: one that breaks the limit, else one that does not keep it.

    With many classes one of them seems to break it by chance; each is asked as much more of as
    there are classes (Bonferroni; Dunn 1961, J. Am. Stat. Assoc. 56, 52). That all keep it needs
    no such care: each must.
    """
    drops = class_drops(reference, file)
    status = {label: drop_status(drop, limit) for label, drop in drops.items()}
    level, by_chance = 1 - (1 - intervals.ONE_SIDED_LEVEL) / len(drops), set()
    for label, drop in drops.items():
        if status[label] != "broken":
            continue
        if 100 * tango_interval(drop.lost, drop.won, drop.n, level)[0] <= limit:
            status[label] = "undecided"
            by_chance.add(label)
    order = ("broken", "undecided", "holds")
    worst = min(drops, key=lambda label: (order.index(status[label]), -drops[label].points))
    drop, needed = drops[worst], None
    if status[worst] == "undecided" and worst not in by_chance:
        needed = samples_to_decide(drop, limit)
    whole = None if needed is None else needed * len(file.correct) // max(1, drop.n)
    interval = (drop.low, drop.high)
    return JudgedLimit(name, limit, drop.points, interval, status[worst], whole, of=worst)
