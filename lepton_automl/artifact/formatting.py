"""Format figures and verdicts for the command line and the model card."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lepton_automl.artifact.provenance import FinalistResult, Provenance
from lepton_automl.artifact.verdict import (
    CalibrationFigures,
    FileMetrics,
    FormatFigures,
    JudgedLimit,
    PairedDrop,
    Precision,
    RejectionFigures,
    Verdict,
)
from lepton_automl.config import LIMITS
from lepton_automl.core.decisions import Decision
from lepton_automl.core.units import (
    accuracy_text,
    accuracy_title,
    bytes_text,
    count_text,
    epochs_text,
    quantity_text,
    time_text,
)
from lepton_automl.cost.boards import BoardFit
from lepton_automl.cost.latency_model import Basis
from lepton_automl.models.formats import ONNX

_VERDICTS = {
    "holds": "Every stated limit holds.",
    "broken": "Broken: the files are written, but at least one limit or check fails.",
    "undecided": "Undecided: too few test samples or timing rounds to decide.",
}


def verdict_text(verdict: Verdict) -> str:
    """The verdict in one sentence."""
    if verdict.status == "undecided" and verdict.shipped is None:
        return "Undecided: what ships was not run on this machine."
    undecided = [limit for limit in verdict.limits if limit.status == "undecided"]
    if undecided and all(limit.basis != "measured" for limit in undecided):
        return "Undecided: what is not measured cannot prove that a limit holds."
    return _VERDICTS[verdict.status]


def warned_text(verdict: Verdict) -> str:
    """What follows the words of a verdict that has a warning; empty without one."""
    return "; but validation and test differ by more than chance" if verdict.warnings else ""


def limit_title(name: str, verdict: Verdict) -> str:
    """Name of a limit in words, with what it applies to unless that is each sample."""
    title = LIMITS[name].words.replace("accuracy", accuracy_title(verdict.balanced))
    return f"{title}, of whole recordings" if verdict.binds_recordings(name) else title


def counted(verdict: Verdict, limit: JudgedLimit) -> str:
    """What the number of samples counts that would decide a limit."""
    return "test recordings" if verdict.binds_recordings(limit.name) else "test samples"


def accuracy_kind(verdict: Verdict) -> str:
    """Kind of the accuracies, and method of their intervals."""
    alone = "stratified bootstrap" if verdict.balanced else "Wilson"
    kind = "cluster bootstrap over groups" if verdict.grouped else alone
    if not verdict.balanced:
        return f"Accuracy intervals: {kind}."
    return f"Balanced accuracy is the mean of the classes' accuracies; intervals: {kind}."


def latency_text(figures: FileMetrics) -> str:
    """Latency with its interval."""
    low, high = (time_text(end) for end in figures.latency_interval)
    return f"{time_text(figures.latency_ms)} [{low}, {high}]"


def recordings_text(figures: FileMetrics) -> str:
    """Accuracy of joined predictions; empty where samples are not windows of recordings."""
    whole = figures.recordings
    if whole is None:
        return ""
    return f"{accuracy_text(whole.accuracy, whole.accuracy_interval)} of {whole.n_recordings}"


def latency_title(basis: Basis) -> str:
    """`latency`, or `predicted latency` and `estimated latency` where it was not measured."""
    return "latency" if basis == "measured" else f"{basis} latency"


def target_latency_text(figures: FileMetrics) -> str:
    """Latency on the target device with its basis; empty where it was measured here."""
    target = figures.target_latency
    if target is None:
        return ""
    low, high = (time_text(end) for end in target.latency_interval)
    return f"{target.basis} {time_text(target.latency_ms)} [{low}, {high}]"


def machine_text(verdict: Verdict) -> str:
    """Where the files were measured."""
    if verdict.latency_machine is None:
        return str(verdict.machine)
    where = f"host {verdict.latency_host}, {verdict.latency_machine}"
    return f"{verdict.machine}; latencies on {where}"


def target_latency_note(verdict: Verdict) -> str:
    """Device and basis of a predicted latency; empty where latencies were measured here."""
    target = verdict.int8.target_latency if verdict.int8 else None
    if target is None:
        return ""
    how = "a table measured on it" if target.basis == "predicted" else "assumed speeds"
    limit = " An estimate cannot prove that a limit holds." if target.basis == "estimated" else ""
    return (
        f"Latency on {target.device} is {target.basis} from {how}; latency limits use it, "
        f"not the latency measured here.{limit}"
    )


def drop_text(drop: PairedDrop) -> str:
    """Accuracy drop with its interval and one-sided bound."""
    return (
        f"{drop.points:.2f} points [{drop.low:.2f}, {drop.high:.2f}], one-sided 95 % bound "
        f"{drop.upper:.2f}"
    )


def measured_text(limit: JudgedLimit) -> str:
    """The measured value of a limit, with its interval."""
    unit = LIMITS[limit.name].unit
    text = quantity_text(limit.measured, unit)
    text = text if limit.basis == "measured" else f"{limit.basis} {text}"
    if limit.interval is None:
        return text
    if unit == "share":
        return accuracy_text(limit.measured, limit.interval)
    low, high = (quantity_text(end, unit) for end in limit.interval)
    text += f" [{low.removesuffix(' points')}, {high.removesuffix(' points')}]"
    return text if limit.of is None else f"{text} (class {limit.of})"


def front_end_text(verdict: Verdict) -> str:
    """Time of the front end of files that read audio; empty of other files."""
    cost = verdict.front_end
    if cost is None:
        return ""
    low, high = (time_text(end) for end in cost.latency_interval)
    return (
        f"front end (log-mel features, in float): {time_text(cost.latency_ms)} [{low}, {high}] of "
        f"the latency, {bytes_text(cost.size_bytes)} of the file; multiply-accumulates "
        "are those of the net behind it; peak memory counts the front end as it is in C"
    )


def faster_text(verdict: Verdict) -> str:
    """Which file ships, and whether int8 or float is faster; empty for damaged files."""
    int8, floating = verdict.int8, verdict.float32
    if int8 is None or floating is None:
        return ""
    ratio = floating.latency_ms / int8.latency_ms
    where = f"on host {verdict.latency_host}" if verdict.latency_host else "here"
    text = f"int8 and float are equally fast {where}, within the intervals"
    hint = ""
    if floating.latency_interval[1] < int8.latency_interval[0]:
        text = f"float is faster than int8 {where}, {ratio:.2f} of its time"
        chosen = verdict.prefer != "size" or int8.target_latency is not None
        hint = "" if chosen else "; --prefer latency ships the faster one"
    elif int8.latency_interval[1] < floating.latency_interval[0]:
        text = f"int8 is faster than float {where}, {1 / ratio:.2f} of its time"
    ships = verdict.primary if verdict.ship == ONNX else f"format {verdict.ship}"
    return f"{ships} ships; {text}{hint}."


def decisions_of(about: Provenance, verdict: Verdict) -> tuple[Decision, ...]:
    """What was decided for the user: about the data first, last which file ships."""
    int8, floating = verdict.int8, verdict.float32
    if int8 is None or floating is None:
        return about.decisions
    made = about.decisions
    if (whole := int8.recordings) is not None and about.judge == "auto":
        choice = "whole recordings, by the joined predictions of their windows"
        seen = (
            f"the {int8.n_samples:,} test samples are windows of {whole.n_recordings:,} recordings"
        )
        name = "limits on accuracy bind"
        made = (*made, Decision(name, choice, seen, "inferred", "--judge windows"))
    if verdict.ship != ONNX:  # The user has chosen it.
        return made
    speed = faster_text(verdict).partition("; ")[2].partition(";")[0].rstrip(".")
    sizes = f"int8 {bytes_text(int8.size_bytes)}, float {bytes_text(floating.size_bytes)}"
    name, evidence = precision_text(verdict.primary), f"{sizes}; {speed}"
    option = "--prefer latency" if verdict.prefer == "size" else "--prefer size"
    return (*made, Decision("file that ships", name, evidence, "measured", option))


def other_text(verdict: Verdict) -> str:
    """A hint that the file which does not ship keeps all limits; empty where it does not."""
    if verdict.status == "holds" or verdict.other != "holds":
        return ""
    name = precision_text("float" if verdict.primary == "int8" else "int8")
    return f"{name} keeps every limit on the same samples."


def test_set_uses_text(verdict: Verdict) -> str:
    """A note on a test set on which other files were verified before; else empty."""
    before = verdict.test_set_uses - 1
    if before < 1:
        return ""
    times = (
        "once before, by another file" if before == 1 else f"{before} times before, by other files"
    )
    return f"test set used {times}"


def precision_text(precision: Precision) -> str:
    """File name of a precision."""
    return "model.int8.onnx" if precision == "int8" else "model.fp32.onnx"


def shipped_text(verdict: Verdict) -> str:
    """Path of the file that ships."""
    found = verdict.shipped_format
    return precision_text(verdict.primary) if found is None else found.file


FORMAT_COLUMNS = (
    "format",
    "accuracy [95 %]",
    "same class",
    "difference",
    "drop",
    "time [95 %]",
    "files",
    "flash",
    "memory",
)
"""Heads of what `format_cells` gives: class, largest difference of a probability and time against
`model.int8.onnx`, drop from the reference."""


def format_cells(found: FormatFigures) -> tuple[str, ...]:
    """What was measured on a further format; why nothing was, where it was not run here."""
    size = bytes_text(found.file_bytes)
    if (metrics := found.metrics) is None:
        return (found.name, f"not run here: {found.not_run}", "", "", "", "", size, "", "")
    low, high = found.latency_ratio_interval or (0.0, 0.0)
    return (
        found.name,
        accuracy_text(metrics.accuracy, metrics.accuracy_interval),
        f"{found.n_same_class} of {metrics.n_samples}",
        f"{found.max_difference or 0.0:.3g}",
        "" if found.drop is None else f"{found.drop.points:.2f} points",
        f"{found.latency_ratio or 0.0:.2f} [{low:.2f}, {high:.2f}]",
        size,
        "" if metrics.flash_bytes is None else bytes_text(metrics.flash_bytes),
        "" if found.arena_bytes is None else bytes_text(found.arena_bytes),
    )


def format_texts(found: FormatFigures) -> list[str]:
    """What a further format computes otherwise, and how it classifies pictures of any size."""
    texts = list(found.differences)
    if found.n_own_size is not None:
        texts.append(
            f"of {found.n_own_size} test pictures in their own sizes {found.n_own_size_same_class} "
            f"get the class of model.int8.onnx, for which they were resized; a probability differs "
            f"by at most {found.own_size_difference or 0.0:.3g}"
        )
    return texts


def board_text(found: BoardFit) -> str:
    """Whether a net fits a board, with the figures that say so."""
    board = found.board
    return (
        f"{board.name} ({board.core}, {board.clock_mhz:g} MHz): {found.fit}; "
        f"{bytes_text(found.flash_bytes)} of {bytes_text(board.flash_bytes)} of flash, "
        f"{found.basis}; {bytes_text(found.ram_bytes)} of {bytes_text(board.ram_bytes)} of memory"
    )


def probability_texts(verdict: Verdict) -> list[str]:
    """What is known of the probabilities of the file that ships: a sentence each."""
    texts = []
    if verdict.calibration is not None:
        texts.append(_calibration_text(verdict.calibration))
    if verdict.rejection is not None:
        texts.append(_rejection_text(verdict.rejection))
    return texts


def _calibration_text(found: CalibrationFigures) -> str:
    """How far the probabilities say how often predictions are right."""
    return (
        f"probabilities: {100 * found.probability:.1f} % on average, {100 * found.accuracy:.1f} % "
        f"of {found.n_samples} test samples right; expected calibration error "
        f"{100 * found.error:.1f} points"
    )


def _rejection_text(found: RejectionFigures) -> str:
    """What the threshold for "none of these" rejects on the test part."""
    low, high = (100 * end for end in found.interval)
    text = f"none of these: below a probability of {found.below:.4g}, set for at most "
    text += f"{100 * found.rate:g} % of samples of the classes; of {found.n_samples} test samples "
    text += f"{100 * found.share:.1f} % [{low:.1f}, {high:.1f}]"
    if found.accuracy_of_rest is not None:
        text += f", {100 * found.accuracy_of_rest:.2f} % of the rest right"
    text += f"; of {found.n_shuffled} test pictures with their pixels in random order "
    return text + f"{100 * found.share_of_shuffled:.1f} %"


def nodes_text(figures: FileMetrics) -> str:
    """Number of operators that compute in float."""
    return str(len(figures.float_nodes)) if figures.float_nodes else "none"


def figure_rows(found: Sequence[FileMetrics], is_balanced: bool) -> list[tuple[str, ...]]:
    """Rows of the table of figures: a title and one cell a file; none where all cells are empty.

    Parameters
    ----------
    found : sequence of FileMetrics
        One a file.
    is_balanced : bool
        Whether every class has equal weight in the accuracy.
    """
    texts: dict[str, Callable[[FileMetrics], str]] = {
        f"{accuracy_title(is_balanced)} [95 %]": lambda f: accuracy_text(
            f.accuracy, f.accuracy_interval
        ),
        "test samples": lambda f: str(f.n_samples),
        f"{accuracy_title(is_balanced)} of whole recordings [95 %]": recordings_text,
        "latency [95 %]": latency_text,
        "latency on the target": target_latency_text,
        "file": lambda f: bytes_text(f.size_bytes),
        "weights": lambda f: bytes_text(f.weight_bytes),
        "weights, biases, scales": lambda f: bytes_text(f.parameter_bytes),
        "multiply-accumulates": lambda f: count_text(f.macs),
        "peak memory of feature maps": lambda f: bytes_text(f.peak_ram_bytes),
        "operators in float": nodes_text,
    }
    rows = [(title, *(text(each) for each in found)) for title, text in texts.items()]
    return [row for row in rows if any(row[1:])]


DECISION_COLUMNS = ("about", "decision", "from", "certainty", "overruled by")
"""Heads of a table of decisions."""
FINALIST_COLUMNS = ("when selected", "after final training", "seeds or folds", "trainings")
"""Heads of what `finalist_cells` gives."""


def finalist_cells(each: FinalistResult) -> tuple[str, ...]:
    """Accuracies when selected, on validation, and after the final trainings."""
    times, found = len(each.accuracies), each.cross_validation
    searched = f"{accuracy_text(each.searched)} after {epochs_text(each.searched_epochs)}"
    if found is not None:
        return (
            searched,
            accuracy_text(found.accuracy, (found.low, found.high)),
            f"{found.folds} folds",
            f"{found.folds} of {epochs_text(each.epochs)}",
        )
    return (
        searched,
        accuracy_text(each.accuracy),
        f"{100 * each.spread:.2f} points over {times} seeds" if times > 1 else "one seed",
        f"{times} of {epochs_text(each.epochs)}",
    )
