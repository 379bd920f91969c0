"""Accept a compressed net by its drop on pictures that no training saw, corrected for tries.

The drop is estimated by empirical Bayes: before any picture, it is expected to be what cuts to that
size lost in measured compressions ("Accepting a cut" in docs/decisions.md); the pictures move this
by as much as their error allows. With few pictures small cuts are accepted on that expectation, and
the record says so; large ones need pictures that show that little is lost.

Source: Efron 2010, Large-Scale Inference, section 1.1 (normal prior, shrinkage, selection).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from scipy.special import ndtri, stdtrit

from lepton_automl.compress.context import CompressionContext
from lepton_automl.compress.cross_fit import NO_NETS, FoldNets, drop_on_folds
from lepton_automl.compress.evaluation import measured_drop
from lepton_automl.metrics.paired import SmoothedDrop
from lepton_automl.models.arch import Arch
from lepton_automl.models.model import Model
from lepton_automl.models.random_weights import random_int8_onnx

RISK = 0.1
"""Probability that a drop is beyond its bound, over all tries of a compression, divided by them."""
PRUNING_SHARE = 0.8
"""Share of the allowed drop that pruning may spend; int8 loses hundredths of a point
("Reconstructed rounding" in docs/decisions.md)."""
_WIDER = 2.0
"""Without a stated limit, drops up to this multiple of the default limit must be ruled out: half a
point cannot be on parts of usual size."""
_PRIOR_SLOPE = 0.25
"""Points that a net of half the bytes is expected to lose; in proportion to 1 / share - 1."""
_PRIOR_SPREAD, _PRIOR_SPREAD_OF_GROUPS = 0.4, 0.8
"""Standard deviation of that expectation, points; for pictures in groups, where every group may
lose another amount."""


@dataclass(frozen=True)
class Judgement:
    """Whether the drop of a net is small enough, as far as is known."""

    drop: SmoothedDrop
    """On the pictures alone."""
    expected: float
    """Points, from the pictures and from measured compressions."""
    bound: float
    """One-sided upper bound of the drop, points, corrected for the tries."""
    limit: float
    """Points that `expected` may reach."""
    max_bound: float
    """Points that `bound` may reach; infinite where the user has asked for the cut."""
    weight: float = 1.0
    """Of the pictures in `expected`, 0 to 1."""
    folds: int = 1
    """Folds that the pictures are of; 1: the validation part alone."""

    @property
    def is_accepted(self) -> bool:
        return self.expected <= self.limit + 1e-9 and self.bound <= self.max_bound + 1e-9

    @property
    def is_undecided(self) -> bool:
        """Whether it is rejected for lack of pictures only."""
        return not self.is_accepted and self.expected <= self.limit + 1e-9

    def __str__(self) -> str:
        points = self.drop.points
        change = f"loses {points:.2f}" if points >= 0 else f"gains {-points:.2f}"
        text = f"{change} points on {pictures_text(self.drop.n, self.folds)}"
        text += f"; expected {self.expected:.2f} (limit {self.limit:.2f})"
        text += f", at most {self.bound:.2f}"
        text += "" if math.isinf(self.max_bound) else f" (limit {self.max_bound:.2f})"
        if self.is_undecided:
            text += ": too few samples to tell"
        return text + (", all of one group" if math.isinf(self.drop.error) else "")


def pictures_text(count: int, folds: int) -> str:
    """The pictures that judge a net, in words."""
    if folds > 1:
        return f"{count} samples of {folds} folds"
    return f"{count} validation samples"


def pruning_limit(context: CompressionContext) -> float:
    """Points that a pruned float net may lose."""
    return PRUNING_SHARE * context.allowed_drop


def max_bound(context: CompressionContext) -> float:
    """Points that the upper bound of a drop may reach.

    A stated limit is judged by its bound on the test part, so it is the bound here too. Where cost
    limits are the aim, the user has asked for the cut, and the drop itself decides.
    """
    if context.is_aim:
        return math.inf
    return context.allowed_drop * (_WIDER if context.limits.max_drop is None else 1.0)


def judge(
    drop: SmoothedDrop, share: float, tries: int, limits: tuple[float, float], *, has_groups: bool
) -> Judgement:
    """Combine what the pictures show with what is expected of a cut to this size.

    Parameters
    ----------
    drop : SmoothedDrop
        On the pictures.
    share : float
        Bytes of the net over those of the uncut one, above 0.
    tries : int
        Nets judged on these pictures so far, with this one: the risk is divided by them
        (Bonferroni).
    limits : (float, float)
        Points that the expected drop and its bound may reach.
    has_groups : bool
        Whether the pictures come in groups.
    """
    risk = RISK / tries
    quantile = float(-ndtri(risk))
    prior, spread = _PRIOR_SLOPE * (1 / share - 1), _PRIOR_SPREAD
    if has_groups:
        spread = _PRIOR_SPREAD_OF_GROUPS
    if math.isinf(drop.error):
        return Judgement(drop, prior, prior + quantile * spread, *limits, weight=0.0)
    # With few degrees of freedom the error is larger by the ratio of the quantiles.
    error = drop.error * float(stdtrit(drop.freedom, 1 - risk)) / quantile
    weight = spread**2 / (spread**2 + error**2)
    expected = weight * drop.points + (1 - weight) * prior
    return Judgement(
        drop, expected, expected + quantile * math.sqrt(weight) * error, *limits, weight=weight
    )


def judge_pruned(
    model: Model, context: CompressionContext, tries: int, fold_nets: FoldNets = NO_NETS
) -> Judgement:
    """Judge a pruned net on the acceptance pictures, and on other folds where there are nets.

    Parameters
    ----------
    model : Model
        Float, after its recoveries.
    context : CompressionContext
        Pictures, reference and limits.
    tries : int
        Nets judged on these pictures so far, with this one.
    fold_nets : mapping of int to Model
        The nets of other folds after the same cut.
    """
    drop = drop_on_folds(model, context, context.acceptance, fold_nets)
    limits = pruning_limit(context), max_bound(context)
    return _judged_by_size(model, context, drop, tries, limits, len(fold_nets))


def _judged_by_size(
    model: Model,
    context: CompressionContext,
    drop: SmoothedDrop,
    tries: int,
    limits: tuple[float, float],
    other_folds: int,
) -> Judgement:
    share, has_groups = _share(model.arch, context), context.validation_groups is not None
    judgement = judge(drop, share, tries, limits, has_groups=has_groups)
    return dataclasses.replace(judgement, folds=1 + other_folds)


def can_accept(context: CompressionContext) -> bool:
    """Whether any cut could be accepted: pictures of one group alone say nothing of another one."""
    groups = context.acceptance.groups
    if groups is None or len(set(groups.tolist())) > 1:
        return True
    drop = SmoothedDrop(0.0, math.inf, 1.0, len(groups))
    limits = pruning_limit(context), max_bound(context)
    return judge(drop, 1.0, 1, limits, has_groups=True).is_accepted


def is_hopeless(model: Model, context: CompressionContext) -> bool:
    """Whether the pictures show a loss beyond the limit, so that the net can be given up.

    Giving up early accepts nothing, so it is no try.
    """
    drop = measured_drop(model, context, context.acceptance)
    return not math.isinf(drop.error) and drop.lower(RISK) > pruning_limit(context)


def judge_end(
    model: Model, context: CompressionContext, tries: int, fold_nets: FoldNets = NO_NETS
) -> Judgement:
    """Judge the int8 file of a pruned net against the reference: the whole chain once more.

    Where a last part was kept, a loss that it shows decides; else, and also, all validation
    pictures together by the rule of the steps, as one more try. Nets of other folds (`fold_nets`,
    after all cuts) are judged before quantization, which loses hundredths of a point.
    """
    limits = context.allowed_drop, max_bound(context)
    if context.last is not None:
        drop = measured_drop(model, context, context.last)
        if drop.lower(RISK) > context.allowed_drop:
            return Judgement(drop, drop.points, drop.upper(RISK), *limits)
    drop = drop_on_folds(model, context, context.held_out, fold_nets)
    return _judged_by_size(model, context, drop, tries, limits, len(fold_nets))


def _share(arch: Arch, context: CompressionContext) -> float:
    """Bytes of the int8 file over those of the reference's."""
    limit = context.target.weight_limit
    after, before = (len(random_int8_onnx(a, limit)) for a in (arch, context.reference.arch))
    return after / before
