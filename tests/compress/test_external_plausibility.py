"""A model that is read in a wrong way is told from training pictures."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

from lepton_automl.compress.external.class_order import ClassOrder
from lepton_automl.compress.external.interface import wrap_model
from lepton_automl.compress.external.model import ExternalModel
from lepton_automl.compress.external.plausibility import (
    Sample,
    check_plausible,
    order_warning,
    stated_accuracies,
)
from lepton_automl.compress.external.preprocessing import ExternalPreprocessing
from lepton_automl.compress.external.reader import signature
from lepton_automl.errors import DataError
from tests.helpers import external_models as models

RIGHT = ExternalPreprocessing(1 / 255, (models.MEAN,), (models.STD,), "grey", "a test")
PATH = Path("model.onnx")


@functools.cache
def wrapped(known: ExternalPreprocessing, names: tuple[str, ...]) -> ExternalModel:
    made = models.model()
    found = wrap_model(PATH, made, signature(PATH, made), known, names)
    return dataclasses.replace(found, pixels=known, order=ClassOrder(names))


def sample(names: tuple[str, ...], count: int = 192) -> Sample:
    """Pictures whose class has the name that the outputs give, in the order of `names`."""
    pixels, labels = models.pictures(count, seed=6)
    return Sample(pixels, labels)


def test_what_is_right_passes_and_is_recorded_with_figures() -> None:
    made = wrapped(RIGHT, models.CLASSES)
    order, pixels = check_plausible(made, sample(models.CLASSES), 0.9)
    assert (order.name, order.option) == ("class order", "--labels")
    assert (pixels.name, pixels.option) == ("pixel preprocessing", "--preprocessing")
    assert "training pictures right" in pixels.evidence


def test_a_fitting_order_of_the_classes_is_named_and_not_taken() -> None:
    # The outputs are 1, 2, 10 in this order; the data are sorted as text.
    natural, text = ("1", "2", "10"), ("1", "10", "2")
    pixels, labels = models.pictures(192, seed=6)
    given = Sample(pixels, np.array([text.index(natural[label]) for label in labels]))
    made = wrapped(RIGHT, text)
    assert "natural order would be 1, 2, 10" in order_warning(made)
    with pytest.raises(DataError, match=r"in natural order \(1, 2, 10\) it gets") as caught:
        check_plausible(made, given, None)
    assert "--labels natural" in caught.value.fix
    stated = dataclasses.replace(
        made,
        order=ClassOrder(text, "--labels text", is_option=True),
        pixels=dataclasses.replace(RIGHT, is_option=True),
    )
    with pytest.raises(DataError, match=r"guessing 33\.3%"):
        check_plausible(stated, given, 0.9)
    assert not order_warning(stated)


def test_any_other_order_of_the_outputs_is_recognised() -> None:
    pixels, labels = models.pictures(192, seed=6)
    made = wrapped(RIGHT, ("a", "b", "c"))
    with pytest.raises(DataError, match="in the order c, a, b") as caught:
        check_plausible(made, Sample(pixels, (labels + 2) % 3), None)
    assert "--labels FILE" in caught.value.fix


@pytest.mark.parametrize(
    "wrong",
    [
        ExternalPreprocessing(1.0, (0.0,), (1.0,), "grey", "a test"),
        ExternalPreprocessing(1 / 255, (500.0,), (0.001,), "grey", "a test"),
    ],
)
def test_fitting_pixels_are_named_and_not_taken(wrong: ExternalPreprocessing) -> None:
    made = wrapped(wrong, models.CLASSES)
    with pytest.raises(DataError, match=r"with (pixels|dark)") as caught:
        check_plausible(made, sample(models.CLASSES), None)
    assert "scale =" in caught.value.fix


def test_what_the_user_states_is_not_overruled_but_held_to_what_is_expected() -> None:
    wrong = dataclasses.replace(RIGHT, mean=(1.4,), is_option=True)
    made = wrapped(wrong, models.CLASSES)
    with pytest.raises(DataError) as caught:
        check_plausible(made, sample(models.CLASSES), 0.99)
    assert "tried:" in caught.value.fix


def test_the_models_own_promise_counts_with_a_margin() -> None:
    made = wrapped(RIGHT, models.CLASSES)
    pixels, labels = models.pictures(192, seed=6)
    mixed = Sample(pixels, np.where(np.arange(192) % 3 == 0, (labels + 1) % 3, labels))
    for promise, stops in ((0.74, False), (0.99, True)):
        promised = dataclasses.replace(made, promises=(("accuracy in the metadata", promise),))
        if not stops:
            check_plausible(promised, mixed, None)
            continue
        with pytest.raises(DataError, match="accuracy in the metadata says 99"):
            check_plausible(promised, mixed, None)


def test_accuracies_are_read_where_they_are_published(tmp_path: Path) -> None:
    made = ModelProto()
    helper.set_model_props(made, {"val_accuracy": "93.5", "loss": "0.1"})
    (tmp_path / "eval_results.json").write_text('{"eval_accuracy": 0.91, "eval_loss": 0.3}')
    card = "---\nmodel-index:\n- results:\n  - metrics:\n    - name: Accuracy\n"
    card += "      type: accuracy\n      value: 0.9012\n---\n"
    (tmp_path / "README.md").write_text(card)
    found = stated_accuracies(tmp_path / "model.onnx", made)
    assert [share for _, share in found] == [0.935, 0.91, 0.9012]
