"""Decisions of a compression: how far it has pruned, how it quantized, and from what evidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lepton_automl.compress.acceptance import RISK, can_accept, pictures_text, pruning_limit
from lepton_automl.compress.context import (
    MIN_GROUPS_TO_SPLIT,
    MIN_PICTURES_TO_SPLIT,
    CompressionContext,
)
from lepton_automl.compress.quantization.quantize import MethodResult
from lepton_automl.compress.steps import CALIBRATION, QUANTIZED, REFIT, StepRecord, read_steps
from lepton_automl.core import untrusted_files
from lepton_automl.core.decisions import Certainty, Decision
from lepton_automl.errors import DataError

_DECIDING_WEIGHT = 0.5
"""Weight of the pictures in the expected drop from which they decide."""
ONE_GROUP = "all validation samples are of one group, which does not tell what another one loses"
KL = "KL divergence from float"


def end_check_decision(context: CompressionContext) -> Decision | None:
    """Which validation samples judge the end only; None where all of them judge every step."""
    if context.last is None:
        return None
    kept, rest = len(context.last.data), len(context.acceptance.data)
    return Decision(
        name="validation of compression",
        choice=f"{rest} validation samples accept or reject each step, {kept} others judge the end "
        "only",
        evidence=f"{kept + rest} validation samples are enough for that (from "
        f"{MIN_PICTURES_TO_SPLIT} on, and {MIN_GROUPS_TO_SPLIT} groups where there are groups)",
        certainty="inferred",
        option="",
        is_detail=True,
    )


def pruning_decision(steps: Sequence[StepRecord], context: CompressionContext) -> Decision:
    """How far a finished compression has pruned, from what evidence, and why it stopped."""
    cuts = [step for step in steps[1:] if step.name not in {REFIT, QUANTIZED}]
    kept, last = [step for step in cuts if step.is_accepted], steps[-1]
    judged = [step for step in steps if step.samples] or [steps[0]]
    count, folds = judged[-1].samples or len(context.validation), judged[-1].folds
    pictures = pictures_text(count, folds)
    certainty: Certainty = "measured"
    if kept and last.drop is not None:
        sizes = f"{steps[0].size_bytes / 1000:.1f} to {kept[-1].size_bytes / 1000:.1f} kB"
        choice = f"{len(kept)} of {len(cuts)} cuts kept, {sizes}"
        change = f"loses {last.drop:.2f}" if last.drop >= 0 else f"gains {-last.drop:.2f}"
        evidence = f"the int8 file {change} points on {pictures}, expected "
        evidence += f"{last.expected_drop:.2f}, at most {last.drop_bound:.2f} "
        evidence += f"(risk {RISK:g}, {last.tries} tries)"
        if (last.drop_weight or 0.0) < _DECIDING_WEIGHT:
            certainty = "assumed"
            evidence += f"; these samples alone cannot tell {context.allowed_drop:g} points"
    else:
        choice = "no pruning"
        evidence = f"{len(cuts)} cuts were rejected" if cuts else "no cut was tried"
        if folds == 1 and not can_accept(context):
            certainty, evidence = "assumed", ONE_GROUP
        limit = pruning_limit(context)
        if any(step.tries and (step.expected_drop or 0.0) <= limit for step in cuts):
            certainty = "assumed"
            evidence += f": {pictures} cannot tell {context.allowed_drop:g} points"
    if context.limits.max_drop is None and can_accept(context):
        evidence += f"; without --max-drop a loss of {context.allowed_drop:g} points is allowed"
    if steps[0].is_short_of_time:
        evidence += "; the time was used up: a larger --budget continues it"
    rejected = [step for step in cuts if not step.is_accepted]
    if rejected:
        evidence += f"; {rejected[-1].name} rejected: {rejected[-1].why}"
    return Decision("pruning", choice, evidence, certainty, "--max-drop")


def quantization_decision(folder: Path) -> Decision:
    """Which method quantized the net of a finished compression, and what it was chosen from.

    Raises
    ------
    DataError
        If the record is damaged.
    """
    path = folder / CALIBRATION
    fix = f"remove {folder} and compress again"
    try:
        body = untrusted_files.read_json(path, fix=fix, top=dict, finite=False)
        made = [MethodResult(**each) for each in body["methods"]]
        pictures = len(body["training_pictures"])
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is damaged: {error}", fix=fix) from error
    figures = ", ".join(f"{each.method} {each.kl_divergence:.2g}" for each in made)
    evidence = f"{KL} on {pictures} training samples: {figures}"
    chosen = read_steps(folder)[-1].why.partition(KL)[0].removesuffix(", ")
    return Decision("quantization", chosen, evidence, "measured", "", is_detail=True)
