"""Compare what an external model gets right on training pictures with other ways to read it.

A wrong class order, channel order or pixel scale costs accuracy without any error. The readings
that users mix up are tried on training pictures; none is ever chosen.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from scipy.optimize import linear_sum_assignment
from scipy.special import bdtrc

from lepton_automl.compress.external.class_order import natural_order, text_order
from lepton_automl.compress.external.find_preprocessing import literal
from lepton_automl.compress.external.graph_process import predict_file
from lepton_automl.compress.external.interface import with_preprocessing
from lepton_automl.compress.external.model import ExternalModel
from lepton_automl.compress.external.preprocessing import ExternalPreprocessing
from lepton_automl.core import untrusted_files
from lepton_automl.core.decisions import Decision
from lepton_automl.core.untrusted_files import TEXT
from lepton_automl.errors import DataError
from lepton_automl.metrics.intervals import is_near_chance, wilson_interval

PICTURES = 512
"""Training pictures that are classified."""
_PIXEL_PICTURES = 128
"""Of these, pictures with which other readings of the pixels are tried."""
_MIN_GAIN = 0.05
_MAX_CHANCE = 1e-3
"""Another reading is reported if it gets this much more right, and the sign test says so."""
_PROMISE_MARGIN = 0.1
"""The accuracy that metadata state was reached on other pictures."""
_CONFIDENCE = 0.99
_PER_CLASS = 10
"""Pictures a class from which any other order of the outputs is told."""
_MIN_REORDERED_GAIN = 0.2
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """Training pictures with their classes."""

    pixels: NDArray[np.uint8]
    """(N, H, W, C), framed as the model's preprocessing says."""
    labels: NDArray[np.int64]
    """(N,): indices into the model's class names."""
    stretched: NDArray[np.uint8] | None = None
    """The same pictures resized without regard to their shape; None where that is the same."""


@dataclass(frozen=True)
class _Reading:
    """Another way to read the model, and which pictures it gets right."""

    words: str
    fix: str
    changes_order: bool
    changes_pixels: bool
    right: Right
    handicap: float = 0.0
    """Share that others may get less right and still come first: this one is fitted to them."""


def check_plausible(model: ExternalModel, sample: Sample, expects: float | None) -> list[Decision]:
    """Check the float model on training pictures; the decisions that led to it, with figures.

    Parameters
    ----------
    model : ExternalModel
        With its preprocessing and class order.
    sample : Sample
        Training pictures, evenly spaced.
    expects : float, optional
        Accuracy that the user expects, 0 to 1.

    Raises
    ------
    DataError
        If another class order, channel order, scale or resizing gets clearly more right and the
        user has not stated the one in use; if the accuracy is near chance, or lower than
        `expects` or the model's own metadata say by more than chance allows.
    """
    probabilities = predict_file(model.file, sample.pixels)
    right = probabilities.argmax(1) == sample.labels
    readings = [*_orders(model, sample, probabilities), *_pixel_readings(model, sample)]
    better = [reading for reading in readings if _is_better(reading.right, right)]
    better += _reordered(model, sample, probabilities, right)
    better.sort(key=lambda reading: reading.handicap - float(reading.right.mean()))
    says = f"the float model gets {right.mean():.1%} of {len(right)} training pictures right"
    open_ = [reading for reading in better if not _is_overruled(model, reading)]
    if open_:
        best = open_[0]
        raise DataError(
            f"{says} ({_reading_words(model)}); {best.words} it gets {best.right.mean():.1%} "
            f"of {len(best.right)}",
            fix=best.fix,
        )
    _check_accuracy(model, right, says, readings, expects)
    return _decisions(model, right, readings)


def stated_accuracies(path: Path, model: ModelProto) -> tuple[tuple[str, float], ...]:
    """Accuracies that the metadata, a model card or training results beside a model state."""
    found: list[tuple[str, float]] = []
    words = {item.key.lower(): item.value for item in model.metadata_props}
    for key in ("accuracy", "val_accuracy", "test_accuracy", "eval_accuracy", "top1", "acc1"):
        share = _share(literal(words.get(key, "")))
        if share is not None:
            found.append((f"{key} in the file's metadata", share))
    for name in ("eval_results.json", "all_results.json"):
        text = _text(path.parent / name)
        body = literal(text) if text else None
        share = _share(body.get("eval_accuracy")) if isinstance(body, dict) else None
        if share is not None:
            found.append((f"eval_accuracy in {path.parent / name}", share))
    card = re.search(
        r"type:\s*(?:accuracy|top-1)\b[^\n]*\n(?:\s*name:[^\n]*\n)?\s*value:\s*([0-9.]+)",
        _text(path.parent / "README.md"),
    )
    share = None if card is None else _share(literal(card[1]))
    if share is not None:
        found.append((f"the model card {path.parent / 'README.md'}", share))
    return tuple(found)


def _text(file: Path) -> str:
    if not file.is_file():
        return ""
    with untrusted_files.open_file(file, TEXT, fix="remove that file") as stream:
        return stream.read(1 << 20).decode(errors="replace")


def _share(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 100:
        return None
    return float(value) if value <= 1 else value / 100


def _other_orders(model: ExternalModel) -> dict[str, tuple[str, ...]]:
    """Orders of the classes besides that in use, by the value of --labels."""
    natural, text = natural_order(model.class_names), text_order(model.class_names)
    orders = {"natural": natural} | ({} if text == natural else {"text": text})
    return {word: names for word, names in orders.items() if names != model.class_names}


def _orders(
    model: ExternalModel, sample: Sample, probabilities: NDArray[np.float32]
) -> Iterator[_Reading]:
    for word, names in _other_orders(model).items():
        yield _Reading(
            f"in {word} order ({_short(names)})",
            f"--labels {word} if that is the order of the outputs; otherwise --labels FILE with "
            "one class name a line, in the order of the outputs",
            changes_order=True,
            changes_pixels=False,
            right=_right_in(names, model, sample.labels, probabilities),
        )


def _right_in(
    names: Sequence[str],
    model: ExternalModel,
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
) -> Right:
    """Which pictures are right if the outputs are in the order of `names`."""
    index = np.array([model.class_names.index(name) for name in names])
    right: Right = index[probabilities.argmax(1)] == labels
    return right


def _pixel_readings(model: ExternalModel, sample: Sample) -> Iterator[_Reading]:
    """Other channel orders, scales and resizing, alone and with other orders of the classes."""
    known = model.pixels
    if known is None:
        return
    places = np.linspace(0, len(sample.labels) - 1, min(_PIXEL_PICTURES, len(sample.labels)))
    chosen = places.round().astype(np.int64)
    pixels, labels = sample.pixels[chosen], sample.labels[chosen]
    variants = [(words, pixels, other) for words, other in _variants(known, model.shape[2])]
    if sample.stretched is not None:
        other = dataclasses.replace(known, framing=None)
        variants.append(("with pictures resized whole", sample.stretched[chosen], other))
    for words, given, other in variants:
        turned = other.order != known.order
        given = np.ascontiguousarray(given[..., ::-1]) if turned else given
        probabilities = predict_file(with_preprocessing(model.file, known, other), given)
        for word, names in {"": model.class_names, **_other_orders(model)}.items():
            yield _Reading(
                words + (f" and classes in {word} order ({_short(names)})" if word else ""),
                "if that is how it was trained, give --preprocessing FILE, a TOML file with\n"
                f"    {_toml(other)}" + (f"\n  and --labels {word}" if word else ""),
                changes_order=bool(word),
                changes_pixels=True,
                right=_right_in(names, model, labels, probabilities),
            )


def _variants(
    known: ExternalPreprocessing, channels: int
) -> Iterator[tuple[str, ExternalPreprocessing]]:
    zeros, ones = (0.0,) * channels, (1.0,) * channels
    scales = {
        "with pixels 0 to 255": (1.0, zeros, ones),
        "with pixels 0 to 1": (1 / 255, zeros, ones),
        "with pixels -1 to 1": (1 / 255, (0.5,) * channels, (0.5,) * channels),
    }
    if channels == 3:
        scales["with mean and deviation of ImageNet"] = (1 / 255, *_IMAGENET)
    else:
        # (1 - p / 255), for nets trained on dark strokes where the data are light
        scales["with dark and light exchanged"] = (
            -known.scale,
            tuple(mean - 255 * known.scale for mean in known.mean),
            known.std,
        )
    other = {"RGB": "BGR", "BGR": "RGB"}.get(known.order)
    if other is not None:
        yield f"with {other} instead of {known.order}", dataclasses.replace(known, order=other)
    for words, (scale, mean, std) in scales.items():
        made = dataclasses.replace(known, scale=scale, mean=mean, std=std)
        if _same(made, known):
            continue
        yield words, made
        if other is not None:
            yield f"{words} and {other}", dataclasses.replace(made, order=other)


def _same(one: ExternalPreprocessing, other: ExternalPreprocessing) -> bool:
    pairs = [
        (one.scale / std, mean / std, other.scale / std_, mean_ / std_)
        for mean, std, mean_, std_ in zip(one.mean, one.std, other.mean, other.std, strict=True)
    ]
    return all(np.allclose((a, b), (c, d), rtol=0.02, atol=1e-3) for a, b, c, d in pairs)


def _toml(known: ExternalPreprocessing) -> str:
    lines = [f"scale = {known.scale:.9g}"]
    lines += [f"{name} = {list(getattr(known, name))}" for name in ("mean", "std")]
    return "\n    ".join([*lines, f'order = "{known.order}"'])


def _is_better(new: Right, right: Right) -> bool:
    """Whether another reading gets clearly more right than the one in use (sign test)."""
    if len(new) != len(right):
        places = np.linspace(0, len(right) - 1, len(new)).round().astype(np.int64)
        right = right[places]
    gained, lost = int((new & ~right).sum()), int((right & ~new).sum())
    if gained - lost <= _MIN_GAIN * len(right):
        return False
    chance = bdtrc(gained - 1, gained + lost, 0.5)  # of as many gained, where both are as likely
    return bool(chance < _MAX_CHANCE)


def _reordered(
    model: ExternalModel, sample: Sample, probabilities: NDArray[np.float32], right: Right
) -> list[_Reading]:
    """The order of the outputs that fits the pictures best, where it is clearly another one."""
    count = len(model.class_names)
    if len(right) < _PER_CLASS * count:
        return []
    predicted = probabilities.argmax(1)
    table = np.zeros((count, count), np.int64)
    np.add.at(table, (predicted, sample.labels), 1)
    _, classes = linear_sum_assignment(-table)
    new: Right = classes[predicted] == sample.labels
    if new.mean() < max(0.5, right.mean() + _MIN_REORDERED_GAIN):
        return []
    names = [model.class_names[number] for number in classes]
    return [
        _Reading(
            f"with the outputs in the order {_short(names, 20)}",
            "give the order in which the model was trained with --labels FILE, one class name a "
            "line",
            changes_order=True,
            changes_pixels=False,
            right=new,
            handicap=_MIN_REORDERED_GAIN,
        )
    ]


def _is_overruled(model: ExternalModel, reading: _Reading) -> bool:
    """Whether the user has stated what the reading would change."""
    order = model.order is not None and model.order.is_option
    pixels = model.pixels is not None and model.pixels.is_option
    return (reading.changes_order and order) or (reading.changes_pixels and pixels)


def _check_accuracy(
    model: ExternalModel,
    right: Right,
    says: str,
    readings: Sequence[_Reading],
    expects: float | None,
) -> None:
    tried = sorted(readings, key=lambda reading: -float(reading.right.mean()))[:3]
    others = "; ".join(f"{reading.words} {reading.right.mean():.1%}" for reading in tried)
    fix = "check the channel order, the scale of the pixels and the order of the classes: give "
    fix += "--preprocessing FILE or --labels FILE; rename the class folders where they are named "
    fix += "otherwise than in training" + (f"\n  tried: {others}" if others else "")
    share, classes = float(right.mean()), len(model.class_names)
    if is_near_chance(share, classes):
        raise DataError(
            f"{says}, guessing {1 / classes:.1%}: its preprocessing is not "
            f"({model.preprocessing}), or its class order is not ({_short(model.class_names)})",
            fix=fix,
        )
    most = wilson_interval(int(right.sum()), len(right), _CONFIDENCE)[1]
    stated = [(source, value, _PROMISE_MARGIN) for source, value in model.promises]
    stated += [] if expects is None else [("--expects", expects, 0.0)]
    for source, value, margin in stated:
        if most < value - margin:
            raise DataError(
                f"{says}, at most {most:.1%} by chance; {source} says {value:.1%}", fix=fix
            )


def _decisions(model: ExternalModel, right: Right, readings: Sequence[_Reading]) -> list[Decision]:
    order, pixels = model.order, model.pixels
    figures = f"{right.mean():.1%} of {len(right)} training pictures right"
    found = []
    if order is None or not order.is_option:
        stated = f"stated by {order.source}" if order is not None and order.source else ""
        others = "; ".join(
            f"{reading.words} {reading.right.mean():.1%}"
            for reading in readings
            if not reading.changes_pixels
        )
        evidence = f"{stated or 'stated nowhere: the order of the data'}; {figures}"
        evidence += f"; {others}" if others else ""
        found.append(
            Decision(
                "class order",
                _short(model.class_names),
                evidence,
                "inferred" if stated else "measured",
                "--labels",
            )
        )
    if pixels is not None and not pixels.is_option:
        alone = [r for r in readings if r.changes_pixels and not r.changes_order]
        best = max(alone, key=lambda reading: float(reading.right.mean()), default=None)
        other = (
            "" if best is None else f"; {best.words} {best.right.mean():.1%} of {len(best.right)}"
        )
        found.append(
            Decision(
                "pixel preprocessing",
                model.preprocessing,
                f"stated by {pixels.source}; {figures}{other}",
                "inferred",
                "--preprocessing",
            )
        )
    if model.changes:
        found.append(
            Decision("graph", "; ".join(model.changes), "the form of the file", "inferred", "")
        )
    return found


def order_warning(model: ExternalModel) -> str:
    """A warning where nothing states the order of the classes and two orders are usual."""
    others = _other_orders(model)
    if not others or model.order is None or model.order.source:
        return ""
    word, names = next(iter(others.items()))
    return (
        f"nothing states the order of the classes: {_short(model.class_names)} is used, {word} "
        f"order would be {_short(names)}; --labels says which"
    )


def _reading_words(model: ExternalModel) -> str:
    source = "" if model.order is None else model.order.source
    return f"classes {_short(model.class_names)}, {source or 'the order of the data'}; " + (
        f"pixels {model.preprocessing}"
    )


def _short(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
