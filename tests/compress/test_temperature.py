"""The temperature of the probabilities: integers stay, probabilities change as they should."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch

from lepton_automl.compress import temperature
from lepton_automl.compress.evaluation import int8_file, int8_probabilities
from lepton_automl.compress.loop import compress
from lepton_automl.compress.steps import CompressionResult
from lepton_automl.compress.temperature import Temperature, fit_temperature, with_temperature
from lepton_automl.data.dataset import LabelledTensors
from lepton_automl.errors import DataError
from lepton_automl.metrics.calibration import tempered
from lepton_automl.models.onnx_export import float_onnx
from lepton_automl.models.onnx_file import onnx_probabilities
from tests.compress.test_refit import setup
from tests.helpers.nets import random_pixels

FITTED = Temperature(2.0, 500)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    model, context = setup(refit_epochs=0)
    return compress(model, context, tmp_path_factory.mktemp("compression"))


def integers(file):
    """Initializers of an ONNX file that are integers, by name."""
    found = {each.name: onnx.numpy_helper.to_array(each) for each in file.graph.initializer}
    return {name: array for name, array in found.items() if array.dtype.kind in "iu"}


def test_the_int8_net_keeps_its_integers_and_its_probabilities_are_tempered(made):
    pixels = random_pixels(made.int8.arch, 64, 5)
    changed = with_temperature(made.int8, FITTED)
    before, after = (onnx.load_from_string(int8_file(each)) for each in (made.int8, changed))
    own, other = integers(before), integers(after)
    assert own.keys() == other.keys()
    assert all(np.array_equal(own[name], other[name]) for name in own)
    answers = int8_probabilities(made.int8, pixels)
    assert np.allclose(int8_probabilities(changed, pixels), tempered(answers, 2.0), atol=1e-5)
    assert not np.allclose(int8_probabilities(changed, pixels), answers, atol=1e-2)


def test_the_float_net_has_the_same_temperature(made):
    net, pixels = made.pruned_float, random_pixels(made.int8.arch, 64, 5)
    names = [str(n) for n in range(3)]
    answers, changed = (
        onnx_probabilities(float_onnx(each, names, {}), pixels)
        for each in (net, with_temperature(net, FITTED))
    )
    assert np.allclose(changed, tempered(answers, 2.0), atol=1e-5)


def test_one_changes_nothing(made):
    assert with_temperature(made.int8, None) is made.int8
    assert with_temperature(made.int8, Temperature(1.0, 500)) is made.int8


def certain(context, right, count=400, seed=7):
    """Validation samples whose labels are the net's answers for a share of `right`."""
    pixels = random_pixels(context.reference.arch, count, seed)
    with torch.no_grad():
        labels = context.reference.network()(context.reference.preprocessing.apply(pixels))
    labels = labels.argmax(1)
    wrong = torch.rand(count, generator=torch.Generator().manual_seed(seed)) >= right
    return LabelledTensors(pixels, torch.where(wrong, (labels + 1) % 3, labels))


def test_a_net_that_is_surer_than_it_is_right_gets_a_higher_temperature(made):
    _, context = setup()
    found = []
    for right in (0.4, 0.6, 1.0):
        own = dataclasses.replace(context, validation=certain(context, right))
        found.append(fit_temperature(made.int8, own))
    low, middle, high = found
    assert low.value > middle.value > high.value > 0
    for each in found:
        assert each.samples == 400
        assert each.value == 1.0 or each.after < each.before
    assert "--temperature off" in low.decision().option
    assert f"{low.value:.3g}" in low.decision().choice


@pytest.mark.parametrize(("count", "groups"), [(99, None), (400, 4)])
def test_few_samples_or_groups_change_nothing_and_it_is_said(made, count, groups):
    _, context = setup()
    own = dataclasses.replace(
        context,
        validation=certain(context, 0.4, count),
        validation_groups=None if groups is None else np.arange(count) % groups,
    )
    found = fit_temperature(made.int8, own)
    assert found == Temperature(1.0, count, groups or 0)
    said = found.decision()
    assert (said.certainty, said.choice) == ("assumed", "probabilities as trained")
    assert f"{count} validation samples" in said.evidence


def test_one_that_does_not_help_on_other_groups_is_not_used(made, monkeypatch):
    _, context = setup()
    count = 400
    own = certain(context, 1.0, count)
    groups = np.arange(count) % 10
    fitted = []

    def best(answers, labels, weights=None):
        fitted.append(len(labels))
        return 9.0  # Far from what the other half needs.

    monkeypatch.setattr(temperature, "best_temperature", best)
    own = dataclasses.replace(context, validation=own, validation_groups=groups)
    found = fit_temperature(made.int8, own)
    assert fitted == [200, 200]
    assert found.after > found.before
    assert found.value == 1.0
    assert "does not make them better" in found.decision().choice


def test_halves_keep_groups_together():
    units = np.random.default_rng(0).integers(0, 9, 300)
    half = temperature._halves(units, 3)
    assert all(len(set(half[units == unit])) == 1 for unit in range(9))
    assert 0 < half.sum() < 300


def test_a_compression_fits_it_before_the_samples_are_trained_on(tmp_path, monkeypatch):
    model, context = setup(fits_temperature=True)
    context = dataclasses.replace(context, validation=certain(context, 0.5))
    own, digests = temperature.fit_temperature, []

    def fit(int8, given):
        digests.append(int8.arch.hash)
        assert not (tmp_path / "refit").exists()
        return own(int8, given)

    monkeypatch.setattr("lepton_automl.compress.loop.fit_temperature", fit)
    made = compress(model, context, tmp_path)
    assert made.is_refit
    assert len(digests) == 1
    assert made.temperature is not None
    assert made.temperature.value != 1.0
    assert CompressionResult.load(tmp_path).temperature == made.temperature
    plain = compress(model, dataclasses.replace(context, fits_temperature=False), tmp_path / "off")
    pixels = random_pixels(model.arch, 64, 5)
    answers = int8_probabilities(plain.int8, pixels)
    wanted = tempered(answers, made.temperature.value)
    assert np.allclose(int8_probabilities(made.int8, pixels), wanted, atol=1e-5)


@pytest.mark.parametrize(
    "text",
    ["{}", "[1]", '{"value": "1", "samples": 3}', '{"value": 0, "samples": 3}', "{"],
)
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "temperature.json").write_text(text)
    with pytest.raises(DataError, match=r"temperature\.json"):
        Temperature.load(tmp_path)
