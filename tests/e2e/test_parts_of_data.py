"""Every stage after the search uses its own part of the data, in the right order and shape.

The parts differ in size, in accuracy and in their pictures (`tests.helpers.known_net`), so that a
figure or a file made from another part is another one. Three runs share everything but one part.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest

from lepton_automl.artifact.predict import predict
from lepton_automl.compress import recovery
from lepton_automl.config import Limits
from lepton_automl.core.events import silent
from lepton_automl.pipeline.compress_net import compress_net
from lepton_automl.pipeline.context import open_run
from lepton_automl.pipeline.verify import verify as verify_again
from lepton_automl.runs.folder import RunFolder, configured
from lepton_automl.training.evaluate import predict_logits
from tests.helpers import children, known_net

REFERENCE = "reference/model.fp32.onnx"


@pytest.fixture(scope="module", autouse=True)
def _in_this_process():
    """Few batches of recovery, no further process for the verification."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "MIN_BATCHES", 4)
        children.answer_here(patch)
        yield


def ship(folder, data, **more):
    """The run of a net on these arrays, as (folder, outcome)."""
    net, path = known_net.write(folder, known_net.net(), data)
    outcome = compress_net(known_net.config(folder, path, **more), net)
    return RunFolder(folder / "run"), outcome


@pytest.fixture(scope="module")
def data():
    return known_net.arrays(known_net.net())


@pytest.fixture(scope="module")
def shipped(tmp_path_factory, data):
    return ship(tmp_path_factory.mktemp("shipped"), data, seed=5)


@pytest.fixture(scope="module")
def other_test_part(tmp_path_factory):
    """The same train and validation parts; the test part has other pictures, labels, groups."""
    test = known_net.part(known_net.net(), "test", 77)
    test["y_test"] = (test["y_test"] + 1) % 3
    test["x_test"] = 255 - test["x_test"] // 4
    folder = tmp_path_factory.mktemp("other-test")
    return ship(folder, known_net.arrays(known_net.net(), test=test), seed=5)


@pytest.fixture(scope="module")
def bright_validation_part(tmp_path_factory):
    """The same train part; validation pictures are bright, its labels those that suit them."""
    model = known_net.net()
    validation = known_net.part(model, "val", 88)
    validation["x_val"] = 255 - validation["x_val"] // 8
    answers = (
        predict_logits(model, torch.from_numpy(validation["x_val"][..., None])).argmax(1).numpy()
    )
    is_right = np.arange(len(answers)) % 20 < 11  # So that no drop is above 55 points.
    validation["y_val"] = np.where(is_right, answers, (answers + 1) % 3)
    folder = tmp_path_factory.mktemp("bright")
    return ship(folder, known_net.arrays(model, val=validation), seed=5)


def answers(file, x):
    """Classes that ONNX Runtime predicts from a file, without lepton."""
    session = onnxruntime.InferenceSession(str(file))
    return session.run(None, {"pixels": x[..., None]})[0].argmax(1)


def without_fingerprint(file):
    """An ONNX file without the fingerprint of the data in its metadata."""
    model = onnx.load(str(file))
    kept = [item for item in model.metadata_props if item.key != "dataset"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return model.SerializeToString(deterministic=True)


def weights(folder):
    """Contents of all weight files of a run by name, in its models and its artifact."""
    found = {
        p.relative_to(folder.path): p.read_bytes() for p in folder.models.rglob("*.safetensors")
    }
    ranges = {
        p.relative_to(folder.path): {
            key: value
            for key, value in json.loads(p.read_text()).items()
            if key not in ("metrics", "parent")
        }
        for p in folder.models.rglob("model.json")
    }
    files = {p.name: without_fingerprint(p) for p in folder.artifact.rglob("*.onnx")}
    assert len(found) >= 4
    assert set(files) == {"model.int8.onnx", "model.fp32.onnx"}
    return found | ranges | files


def decisions(folder):
    """Everything of a run but its weights that a stage decided from data."""
    found = {}
    for path in [*folder.models.rglob("*.json"), *folder.artifact.glob("golden/*")]:
        body = path.read_bytes()
        if path.name == "calibration.json":
            body = json.loads(body)
            for method in body["methods"]:
                del method["seconds"]
        found[path.relative_to(folder.path)] = body
    return found


def test_the_test_part_changes_nothing_but_its_evidence(shipped, other_test_part):
    (one, first), (other, second) = shipped, other_test_part
    assert first.verdict.test_fingerprint != second.verdict.test_fingerprint
    assert first.verdict.int8.accuracy != second.verdict.int8.accuracy
    assert weights(one) == weights(other)
    assert decisions(one) == decisions(other)


def test_the_validation_part_changes_no_weight_range_or_cut(shipped, bright_validation_part):
    (one, _), (other, _) = shipped, bright_validation_part
    # Nets of other folds learn from the validation part, and none of it gets into what ships.
    shipped_weights = [
        {path: file for path, file in weights(folder).items() if "folds" not in Path(path).parts}
        for folder in (one, other)
    ]
    assert shipped_weights[0] == shipped_weights[1]
    assert len(shipped_weights[0]) > 3
    first, second = (steps(folder) for folder in (one, other))
    assert [step["arch"] for step in first] == [step["arch"] for step in second]
    assert [step["accuracy"] for step in first] != [step["accuracy"] for step in second]


def steps(folder):
    (file,) = folder.models.glob("compressed-*/steps.json")
    return json.loads(file.read_text())


def test_steps_are_scored_on_validation_and_the_artifact_on_test(shipped, data):
    folder, outcome = shipped
    assert steps(folder)[0]["accuracy"] == pytest.approx(known_net.SHARES["val"])
    verdict, share = outcome.verdict, {}
    for name, figures in {
        "model.int8.onnx": verdict.int8,
        "model.fp32.onnx": verdict.float32,
        REFERENCE: verdict.reference,
    }.items():
        right = answers(folder.artifact / name, data["x_test"]) == data["y_test"]
        share[name] = right.mean()
        assert figures.accuracy == pytest.approx(share[name])
        assert figures.n_samples == known_net.COUNTS["test"]
    assert share[REFERENCE] == pytest.approx(known_net.SHARES["test"])
    int8 = answers(folder.artifact / "model.int8.onnx", data["x_val"]) == data["y_val"]
    assert steps(folder)[-1]["accuracy"] == pytest.approx(int8.mean())
    (limit,) = verdict.limits
    lost = share[REFERENCE] - share["model.int8.onnx"]
    assert limit.measured == pytest.approx(100 * lost)


def test_golden_pictures_are_of_validation_and_predictions_of_test(shipped, data):
    folder, outcome = shipped
    known = {picture.tobytes() for picture in data["x_val"]}
    golden = np.load(folder.artifact / "golden" / "pixels.npy")
    assert all(picture.tobytes() in known for picture in golden)
    assert outcome.verdict.parity.n_samples == len(golden) + known_net.COUNTS["test"]
    stored = np.load(folder.artifact / "reference_test_predictions.npy")
    reference = answers(folder.artifact / REFERENCE, data["x_test"])
    assert (stored == reference).all()


def test_groups_of_the_test_part_widen_every_interval_of_the_verdict(shipped, data):
    """The reference is right or wrong in whole groups: they are worth one sample each."""
    _, outcome = shipped
    verdict = outcome.verdict
    groups = len(np.unique(data["group_test"]))
    assert groups < known_net.COUNTS["test"] / 4
    assert verdict.grouped
    share = verdict.reference.accuracy
    alone = binomtest(round(share * groups), groups).proportion_ci(method="wilson")
    low, high = verdict.reference.accuracy_interval
    assert high - low > 0.9 * (alone.high - alone.low)
    each = binomtest(90, 150).proportion_ci(method="wilson")
    for width in (
        high - low,
        (verdict.drops["int8"].high - verdict.drops["int8"].low) / 100,
        (verdict.limits[0].interval[1] - verdict.limits[0].interval[0]) / 100,
    ):
        assert width > 1.3 * (each.high - each.low)


def test_class_names_keep_their_order_in_every_file(shipped, data, tmp_path):
    folder, outcome = shipped
    assert (folder.artifact / "labels.txt").read_text().split() == list(known_net.NAMES)
    files = []
    for number, picture in enumerate(data["x_test"][:40]):
        files.append(tmp_path / f"{number:02}.png")
        Image.fromarray(picture).save(files[-1])
    for place, file in (
        (outcome.artifact, outcome.artifact / "model.int8.onnx"),
        *((outcome.artifact / name,) * 2 for name in ("model.fp32.onnx", REFERENCE)),
    ):
        expected = answers(file, data["x_test"][:40])
        assert [each.label for each in predict(place, files)] == [
            known_net.NAMES[answer] for answer in expected
        ]
    assert set(expected) == {0, 1, 2}  # Of the reference; the pruned net hardly knows all.


def test_pictures_of_another_size_are_resized_by_rows_and_columns(shipped, data, tmp_path):
    """Twice as high, three times as wide: enlarged and predicted as Pillow resizes it."""
    folder, _ = shipped
    large = [np.kron(picture, np.ones((2, 3), np.uint8)) for picture in data["x_test"][:40]]
    height, width = known_net.SIZE
    files, small = [], []
    for number, picture in enumerate(large):
        image = Image.fromarray(picture)
        files.append(tmp_path / f"{number:02}.png")
        image.save(files[-1])
        small.append(np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)))
    model = folder.artifact / "model.int8.onnx"
    session = onnxruntime.InferenceSession(str(model))
    expected = session.run(None, {"pixels": np.stack(small)[..., None]})[0]
    found = predict(model, files)
    assert [each.label for each in found] == [known_net.NAMES[n] for n in expected.argmax(1)]
    assert [each.probability for each in found] == pytest.approx(expected.max(1).tolist())


def test_a_second_verification_judges_the_same_pictures(shipped):
    _, outcome = shipped
    again = verify_again(outcome.artifact).verdict
    assert again.test_fingerprint == outcome.verdict.test_fingerprint
    assert again.limits == outcome.verdict.limits
    assert again.grouped


def test_data_whose_classes_are_in_another_order_are_judged_alike(shipped, data, tmp_path):
    """The same test pictures as a folder, where the names are in alphabetical order."""
    _, outcome = shipped
    for part in ("train", "test"):
        for number, (picture, label) in enumerate(
            zip(data[f"x_{part}"], data[f"y_{part}"], strict=True)
        ):
            place = tmp_path / "folder" / part / known_net.NAMES[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(place / f"{number:03}.png")
    again = verify_again(outcome.artifact, data=str(tmp_path / "folder")).verdict
    for first, second in (
        (outcome.verdict.int8, again.int8),
        (outcome.verdict.reference, again.reference),
    ):
        assert first.accuracy == second.accuracy


def test_the_split_of_a_seed_is_that_of_every_later_command(tmp_path, data):
    """Without given parts the pictures that are judged follow from the seed of the options."""
    model, whole = known_net.net(), {}
    for key in ("x", "y"):
        whole[key] = np.concatenate([data[f"{key}_{part}"] for part in known_net.COUNTS])
    held = {}
    for seed in (0, 5):
        folder = tmp_path / str(seed)
        net, path = known_net.write(folder, model, whole)
        # So that nothing is pruned: the net is small enough.
        config = known_net.config(folder, path, seed=seed, limits=Limits(max_size_bytes=10**6))
        with open_run(config, silent) as run:
            held[seed] = run.dataset.part_fingerprint("test")
    assert held[0] != held[5]
    outcome = compress_net(config, net)
    assert outcome.verdict.test_fingerprint == held[5]
    assert verify_again(outcome.artifact).verdict.test_fingerprint == held[5]
    later = configured(RunFolder(folder / "run"), trials=1, jobs=1)
    with open_run(later, silent) as run:
        assert run.dataset.part_fingerprint("test") == held[5]
    test = tmp_path / "test.npz"
    chosen = run.dataset.test
    np.savez(test, x=np.asarray(chosen.pictures), y=chosen.labels, class_names=known_net.NAMES)
    moved = shutil.copytree(outcome.artifact, tmp_path / "alone")
    again = verify_again(moved, data=path, test=test)
    assert again.verdict.int8.accuracy == outcome.verdict.int8.accuracy


def test_limits_are_stated_in_the_options_and_judged_in_the_artifact(shipped):
    folder, outcome = shipped
    stated = json.loads((folder.artifact / "about.json").read_text())["limits"]
    assert Limits(**stated) == Limits(max_drop=100.0)
    assert [limit.name for limit in outcome.verdict.limits] == ["max_drop"]
