"""Each figure and each limit of a verdict is of its own file, at its own level of confidence.

The int8 file, its float twin and the reference are three nets of different accuracy.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from lepton_automl.artifact import judging
from lepton_automl.artifact.verify import Request, verify
from lepton_automl.artifact.writer import write_artifact
from lepton_automl.compress.quantization.calibration import calibrate
from lepton_automl.compress.quantization.equalization import fold_batchnorm
from lepton_automl.compress.quantization.rounding import quantize
from lepton_automl.config import Limits
from lepton_automl.cost.targets import load
from lepton_automl.data.dataset import LabelledFiles
from lepton_automl.metrics.paired import Evidence
from lepton_automl.training.evaluate import predict_logits
from tests.helpers import artifacts, known_net
from tests.helpers.nets import random_pixels

COUNT = 150
FILES = {
    "int8": "model.int8.onnx",
    "float": "model.fp32.onnx",
    "reference": "reference/model.fp32.onnx",
}


def shifted(model, amount):
    """The same net with a preference for its first class."""
    name = "3/logits.bias"
    bias = model.weights[name].clone()
    bias[0] += amount
    return dataclasses.replace(model, weights={**model.weights, name: bias})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """An artifact of three nets, its request, and which pictures each file gets right."""
    root, model = tmp_path_factory.mktemp("evidence"), known_net.net()
    gap = float(predict_logits(model, random_pixels(model.arch, 60, 1)).std())
    twin, source = (fold_batchnorm(shifted(model, gap * each)) for each in (0.5, 1.0))
    pixels = random_pixels(model.arch, COUNT, 5)
    labels = predict_logits(model, pixels).argmax(1).numpy()
    labels = np.where(np.arange(COUNT) % 12, labels, (labels + 1) % 3)
    test, validation = (
        LabelledFiles(root / f"{name}.x.npy", root / f"{name}.y.npy") for name in ("test", "val")
    )
    for part, count in ((test, COUNT), (validation, 40)):
        np.save(part.pixels, pixels[:count].numpy())
        np.save(part.labels, labels[:count])
    digests = write_artifact(
        root / "artifact",
        int8=quantize(source, calibrate(source, pixels), 64),
        float_twin=twin,
        reference=model,
        dataset=SimpleNamespace(name="pets", class_names=known_net.NAMES, fingerprint="0" * 16),
        validation=validation,
        limits=Limits(),
        target=load(),
        prefer="size",
    )
    request = Request(root / "artifact", test.pixels, test.labels, "f" * 16, digests=digests)
    right = {}
    for name, file in FILES.items():
        session = onnxruntime.InferenceSession(str(root / "artifact" / file))
        right[name] = session.run(None, {"pixels": pixels.numpy()})[0].argmax(1) == labels
    assert right["int8"].sum() + 9 < right["float"].sum() < right["reference"].sum() - 9
    return request, right, labels


def test_limits_are_judged_on_the_file_that_ships_against_the_reference(written):
    request, right, labels = written
    size = (request.folder / FILES["int8"]).stat().st_size
    stated = Limits(max_size_bytes=size, min_accuracy=0.1, max_drop=99.0, max_class_drop=100.0)
    verdict = verify(dataclasses.replace(request, limits=stated))
    judged = {limit.name: limit for limit in verdict.limits}
    lost = 100 * (right["reference"].mean() - right["int8"].mean())
    assert judged["max_size_bytes"].measured == size
    assert judged["max_size_bytes"].status == "holds"  # At the limit itself.
    assert judged["min_accuracy"].measured == pytest.approx(right["int8"].mean())
    assert judged["max_drop"].measured == pytest.approx(lost)
    change = right["reference"].astype(float) - right["int8"]
    classes = [100 * change[labels == label].mean() for label in range(3)]
    assert judged["max_class_drop"].measured == pytest.approx(max(classes))
    assert judged["max_class_drop"].of == int(np.argmax(classes))
    assert verdict.other == "broken"  # The float file is larger than the limit.
    shares = (verdict.int8.accuracy, verdict.float32.accuracy, verdict.reference.accuracy)
    assert shares == pytest.approx([right[name].mean() for name in FILES])


def test_each_drop_is_between_the_two_files_of_its_name(written):
    request, right, _ = written
    drops = verify(request).drops
    share = {name: 100 * each.mean() for name, each in right.items()}
    assert {name: drop.points for name, drop in drops.items()} == pytest.approx(
        {
            "int8": share["reference"] - share["int8"],
            "float": share["reference"] - share["float"],
            "int8_against_float": share["float"] - share["int8"],
        }
    )


def test_a_limit_just_missed_by_the_shipped_file_is_not_excused_by_its_twin(written):
    """The float file keeps limits that the int8 file breaks."""
    request, right, _ = written
    lost = 100 * (right["reference"].mean() - right["float"].mean())
    for stated in (Limits(min_accuracy=right["float"].mean()), Limits(max_drop=lost)):
        (limit,) = verify(dataclasses.replace(request, limits=stated)).limits
        assert limit.status != "holds"


@pytest.mark.parametrize("name", ["min_accuracy", "max_drop", "max_class_drop"])
def test_groups_leave_a_limit_undecided_that_single_samples_would_keep(name):
    """The file loses a tenth of the samples in 20 groups, or one by one."""
    groups = np.repeat(np.arange(20), 30)
    before = np.ones(600, bool)
    after = groups % 10 != 3
    limits = Limits(**{name: 0.86 if name == "min_accuracy" else 14.0})
    status = {}
    for each in (None, groups):
        one, other = (Evidence(right, each, None, np.arange(600) % 2) for right in (before, after))
        (judged,) = judging.judge(limits, artifacts.figures(), other, one)
        status[each is None] = judged.status
    assert status == {True: "holds", False: "undecided"}


def chance_of_so_many(lost: int, n: int, limit: float) -> float:
    """One-sided p-value of Tango's score test, its nuisance parameter found numerically."""

    def surprise(share: float) -> float:
        rest = 1 - 2 * share - limit
        return -(lost * np.log(share + limit) + (n - lost) * np.log(rest))

    found = minimize_scalar(surprise, bounds=(0, (1 - limit) / 2 - 1e-9), method="bounded").x
    variance = n * (2 * found + limit - limit**2)
    return float(norm.sf((lost - n * limit) / np.sqrt(variance)))


def test_one_class_of_ten_breaks_its_limit_where_chance_in_any_of_them_would_not():
    """Bonferroni: 5 % for all ten classes together, so half a per cent for each."""
    n, classes, limit = 100, 10, 5.0
    labels, found = np.repeat(np.arange(classes), n), {}
    before = Evidence(np.ones(classes * n, bool), labels=labels)
    for lost in range(6, 17):
        right = np.ones(classes * n, bool)
        right[3 * n : 3 * n + lost] = False
        after = Evidence(right, labels=labels)
        (judged,) = judging.judge(Limits(max_class_drop=limit), artifacts.figures(), after, before)
        assert judged.of == 3
        found[lost] = judged.status
    chance = {lost: chance_of_so_many(lost, n, limit / 100) for lost in found}
    assert found == {
        lost: "broken" if each < 0.05 / classes else "undecided" for lost, each in chance.items()
    }
    # Both sides of the level that is right, and of levels that are not.
    assert any(0.005 < each < 0.05 for each in chance.values())
    assert any(0.0025 < each < 0.005 for each in chance.values())
