from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import sys
import time

import numpy as np
import onnxruntime
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from lepton_automl.artifact import verification_process, writer
from lepton_automl.artifact.formatting import figure_rows, limit_title
from lepton_automl.artifact.provenance import read_provenance
from lepton_automl.artifact.verdict import Verdict
from lepton_automl.artifact.verification_process import (
    VerificationProcess,
    verify_in_fresh_process,
)
from lepton_automl.artifact.verify import (
    Request,
    notes_of,
    reference_predictions,
    saturation_problems,
    verify,
)
from lepton_automl.config import Limits
from lepton_automl.core.decisions import SEARCH_TIME, Decision
from lepton_automl.core.machine import this_machine
from lepton_automl.cost import targets
from lepton_automl.cost.latency_model import estimate
from lepton_automl.errors import DataError, MachineError
from tests.helpers import processes
from tests.helpers.artifacts import figures, make_bundle, seal_again, seal_bundle
from tests.helpers.children import ProcessHere

STATED = Limits(max_size_bytes=100_000, min_accuracy=0.5)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    made = make_bundle(tmp_path_factory.mktemp("made"), limits=STATED)
    seal_bundle(made)
    return made


@pytest.fixture
def request_(original, tmp_path):
    folder = shutil.copytree(original.folder, tmp_path / "artifact")
    return dataclasses.replace(original.request, folder=folder, quiet_reference_ms=0.04)


@pytest.fixture(scope="module")
def found(original) -> Verdict:
    return verify(original.request)


def predicted(path, pixels):
    (answers,) = onnxruntime.InferenceSession(str(path)).run(None, {"pixels": pixels})
    return answers.argmax(1)


def snapshot(folder):
    return {
        p: (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_answers_to_windows_of_a_recording_are_joined(request_):
    """Oracle: geometric means of what ONNX Runtime answers, recording by recording."""
    pixels, labels = np.load(request_.pixels), np.load(request_.labels)
    recordings = 10 * labels + np.arange(len(labels)) % 7
    found = verify(dataclasses.replace(request_, recordings=tuple(recordings.tolist())))
    session = onnxruntime.InferenceSession(str(request_.folder / "model.int8.onnx"))
    (answers,) = session.run(None, {"pixels": pixels})
    right = [
        np.log(answers[recordings == number]).mean(0).argmax() == number // 10
        for number in np.unique(recordings)
    ]
    whole = found.int8.recordings
    assert (whole.n_recordings, whole.accuracy) == (len(right), np.mean(right))
    assert 0 <= whole.accuracy_interval[0] < whole.accuracy < whole.accuracy_interval[1] <= 1
    again = Verdict.from_json(found.to_json())
    assert again == found
    assert "of whole recordings" in str(figure_rows([found.int8, found.reference], False))
    assert "of whole recordings" not in str(figure_rows([figures("model.int8.onnx")], False))


def test_limits_on_accuracy_bind_recordings_unless_windows_are_asked_for(request_):
    """Oracles: correctness by ONNX Runtime, joined recording by recording; scipy's Wilson bound."""
    pixels, labels = np.load(request_.pixels), np.load(request_.labels)
    recordings = 10 * labels + np.arange(len(labels)) % 7
    numbers = np.unique(recordings)
    right = {}
    for name in ("model.int8.onnx", "reference/model.fp32.onnx"):
        session = onnxruntime.InferenceSession(str(request_.folder / name))
        (answers,) = session.run(None, {"pixels": pixels})
        joined = [np.log(answers[recordings == n]).mean(0).argmax() == n // 10 for n in numbers]
        right[name] = np.array(joined)
    int8, reference = right.values()
    limits = Limits(min_accuracy=0.01, max_drop=99, max_class_drop=99)
    asked = dataclasses.replace(request_, recordings=tuple(recordings.tolist()), limits=limits)
    found = verify(asked)
    assert found.limits_on == "recordings"
    least, drop, of_class = found.limits
    wilson = binomtest(int(int8.sum()), len(int8)).proportion_ci(0.95, "wilson")
    assert (least.measured, *least.interval) == pytest.approx((int8.mean(), *wilson))
    lost = 100 * (reference.mean() - int8.mean())
    assert drop.measured == found.recording_drops["int8"].points == pytest.approx(lost)
    assert found.recording_drops["int8"].n == len(numbers)
    each = [100 * np.mean(reference[numbers // 10 == c] ^ int8[numbers // 10 == c]) for c in labels]
    assert abs(of_class.measured) <= max(each) + 1e-9
    assert found.int8.accuracy != least.measured
    assert Verdict.from_json(found.to_json()) == found
    near = verify(dataclasses.replace(asked, limits=Limits(min_accuracy=int8.mean() - 0.005)))
    assert near.reasons[0].endswith("recordings would decide); of whole recordings")
    assert limit_title("min_accuracy", near) == "accuracy at least, of whole recordings"

    about = request_.folder / "about.json"
    for text in (
        dataclasses.replace(read_provenance(request_.folder), judge="windows").to_json(),
        json.dumps({k: v for k, v in json.loads(about.read_text()).items() if k != "judge"}),
    ):
        about.write_text(text)
        seal_again(request_.folder)
        windows = verify(asked)
        assert windows.limits_on == "samples"
        assert windows.limits[0].measured == windows.int8.accuracy == found.int8.accuracy
        assert windows.recording_drops == found.recording_drops
        assert limit_title("min_accuracy", windows) == "accuracy at least"


def test_fresh_processes_say_the_same_and_write_nothing(request_, found):
    before = snapshot(request_.folder)
    fresh = verify_in_fresh_process(request_)
    with VerificationProcess(request_.folder) as process:
        assert process.refusal() is None
        assert process.framing is None
        limited = process.verify(request_)
    assert snapshot(request_.folder) == before
    for one in (fresh, limited):
        assert one.status == found.status == "holds"
        assert one.exit_code == 0
        assert one.parity == found.parity
        assert one.drops == found.drops
        assert one.int8.accuracy == found.int8.accuracy
    file = request_.folder / "model.int8.onnx"
    assert fresh.int8.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module", params=[accuracy_score, balanced_accuracy_score])
def scored(request, original, found, tmp_path_factory):
    if request.param is accuracy_score:
        return found, original, request.param
    made = make_bundle(tmp_path_factory.mktemp("balanced"), limits=STATED, balanced=True)
    return verify(dataclasses.replace(made.request, digests=made.digests)), made, request.param


def test_accuracy_is_what_scikit_learn_says(scored):
    found, made, score = scored
    pixels, labels = np.load(made.request.pixels), np.load(made.request.labels)
    for item in (found.int8, found.float32, found.reference):
        wanted = score(labels, predicted(made.folder / item.file, pixels))
        assert item.accuracy == pytest.approx(wanted, abs=1e-12)
        assert item.n_samples == len(labels)
        assert item.accuracy_interval[0] < item.accuracy < item.accuracy_interval[1]
    assert found.balanced == (score is balanced_accuracy_score)


def test_drops_are_differences_of_accuracies(scored):
    found = scored[0]
    for name, item in (("int8", found.int8), ("float", found.float32)):
        expected = 100 * (found.reference.accuracy - item.accuracy)
        assert found.drops[name].points == pytest.approx(expected)
    twin = found.float32.accuracy - found.int8.accuracy
    assert found.drops["int8_against_float"].points == pytest.approx(100 * twin)


def test_reference_predictions_repeat_the_pairing(original, found):
    pixels, labels = np.load(original.request.pixels), np.load(original.request.labels)
    told = reference_predictions(original.folder, pixels)
    assert (told.dtype, (told == labels).mean()) == (np.int64, found.reference.accuracy)


def test_limits_of_the_bundle_are_judged_unless_others_are_given(request_, found):
    assert [x.name for x in found.limits] == ["max_size_bytes", "min_accuracy"]
    few = verify(dataclasses.replace(request_, limits=Limits(max_macs=1)))
    assert [(x.name, x.status) for x in few.limits] == [("max_macs", "broken")]
    assert [few.status, few.other, few.exit_code] == ["broken", "broken", 6]
    small = Limits(max_size_bytes=found.float32.size_bytes - 1)
    assert verify(dataclasses.replace(request_, limits=small)).other == "broken"


def test_a_limit_at_the_measured_accuracy_is_undecided(request_, found):
    near = found.int8.accuracy - 0.01
    verdict = verify(dataclasses.replace(request_, limits=Limits(min_accuracy=near)))
    assert verdict.status == "undecided"
    assert verdict.exit_code == 6
    assert verdict.limits[0].n_needed > found.int8.n_samples


def test_a_tampered_file_is_named_and_nothing_is_measured(request_):
    path = request_.folder / "model.int8.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    verdict = verify(request_)
    assert verdict.status == "broken"
    assert verdict.exit_code == 6
    assert "model.int8.onnx has changed" in verdict.reasons[0]
    assert verdict.int8 is None
    assert Verdict.from_json(verdict.to_json()) == verdict


def test_a_missing_file_is_named(request_):
    (request_.folder / "labels.txt").unlink()
    assert verify(request_).reasons == ["labels.txt is missing"]


def test_a_file_that_does_not_load_is_broken_even_with_a_manifest_that_fits(request_):
    """Whoever changed the file also changed the manifest."""
    path = request_.folder / "model.int8.onnx"
    path.write_bytes(path.read_bytes()[:2000])
    seal_again(request_.folder)
    verdict = verify(request_)
    assert verdict.status == "broken"
    assert "model.int8.onnx" in verdict.reasons[0]


def test_golden_answers_that_do_not_fit_break_parity(request_):
    path = request_.folder / "golden/int8.npy"
    np.save(path, np.load(path)[:, ::-1])
    seal_again(request_.folder)
    verdict = verify(request_)
    assert verdict.status == "broken"
    assert "parity" in verdict.reasons[0]


def test_a_bundle_being_made_is_checked_by_what_was_written(original, request_):
    (request_.folder / "manifest.json").unlink()
    assert verify(dataclasses.replace(request_, digests=original.digests)).status == "holds"
    wrong = original.digests | {"labels.txt": "0" * 64}
    verdict = verify(dataclasses.replace(request_, digests=wrong))
    assert "labels.txt has changed" in verdict.reasons[0]


def test_pictures_of_another_size_are_refused(request_, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((5, 9, 9, 3), np.uint8))
    np.save(tmp_path / "y.npy", np.zeros(5, np.int64))
    other = dataclasses.replace(request_, pixels=tmp_path / "x.npy", labels=tmp_path / "y.npy")
    with pytest.raises(DataError, match="does not fit"):
        verify(other)


def test_groups_are_taken_into_account(request_, found):
    groups = tuple(int(n) // 30 for n in range(found.int8.n_samples))
    verdict = verify(dataclasses.replace(request_, groups=groups))
    assert verdict.grouped
    low, high = verdict.int8.accuracy_interval
    assert low <= found.int8.accuracy_interval[0]
    assert high >= found.int8.accuracy_interval[1]


def test_with_prefer_latency_the_manifest_still_says_what_ships(request_):
    """What ships was decided when the bundle was made; another timing does not change it."""
    assert verify(dataclasses.replace(request_, prefer="latency")).primary == "int8"


def test_a_request_survives_json(request_):
    full = dataclasses.replace(request_, groups=(1, 2), limits=STATED, digests={"a": "b"})
    assert Request.from_json(full.to_json()) == full
    assert Request.from_json(request_.to_json()) == request_


def test_an_error_of_the_process_is_raised(request_, monkeypatch):
    monkeypatch.setattr(verification_process, "LimitedProcess", ProcessHere)
    (request_.folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"no manifest\.json") as caught:
        verify_in_fresh_process(request_)
    assert "lepton export" in caught.value.fix


@pytest.mark.parametrize(
    ("ends", "error"),
    [
        ("os.kill(os.getpid(), 9)", MachineError),
        ("os.abort()", MachineError),
        ("raise KeyError(7)", RuntimeError),
    ],
)
def test_a_process_that_dies_is_no_verdict_on_files_of_ones_own(request_, monkeypatch, ends, error):
    program = f"""
import os
from lepton_automl.core.limited_process import serve
def answer(_):
    {ends}
serve(answer)
"""
    monkeypatch.setattr(verification_process, "PROGRAM", program)
    with pytest.raises(error, match=r"signal 9|signal 6|KeyError: 7"):
        verify_in_fresh_process(request_)


def test_the_process_dies_with_the_one_that_asked(request_, tmp_path):
    os.mkfifo(pixels := tmp_path / "never written")
    endless = dataclasses.replace(request_, pixels=pixels).to_json()
    asks = (
        "from lepton_automl.artifact.verification_process import *; "
        "verify_in_fresh_process(Request.from_json({!r}))"
    )
    parent = processes.python("-c", asks.format(endless))
    while not (child := processes.children(parent.pid, "exit_with_parent()")):
        time.sleep(0.02)
    time.sleep(0.5)
    parent.kill()
    parent.communicate()
    assert processes.eventually(lambda: not processes.alive(child))


@pytest.mark.parametrize(
    ("target", "flags", "is_told"),
    [
        ("x86-vnni", ("avx2",), True),
        ("x86-vnni", ("avx2", "avx512_vnni"), False),
        ("x86-any", ("avx2",), False),
    ],
)
def test_a_processor_that_saturates_is_told_where_the_target_allows_all_8_bits(
    target, flags, is_told
):
    assert (
        bool(saturation_problems(target, dataclasses.replace(this_machine(), flags=flags)))
        == is_told
    )


def test_on_another_device_the_told_latency_is_judged_not_the_one_here(request_, monkeypatch):
    about = read_provenance(request_.folder)
    model = estimate(targets.load("cortex-m"))
    other = dataclasses.replace(about, latency=model)
    monkeypatch.setattr(sys.modules[verify.__module__], "read_provenance", lambda _: other)
    found = verify(dataclasses.replace(request_, limits=Limits(max_latency_ms=1000.0)))
    told = model.latency(writer.read_arch(request_.folder, "model.int8.onnx").graph)
    assert found.int8.target_latency.latency_ms == told.milliseconds
    assert found.float32.target_latency is None
    limit = found.limits[0]
    assert (limit.basis, limit.status, found.exit_code) == ("estimated", "undecided", 6)


def on_validation(request, right, tmp_path, groups=None):
    """The request with a validation part of which the int8 file has a share `right` right."""
    pixels = np.random.default_rng(5).integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)
    labels = predicted(request.folder / "model.int8.onnx", pixels)
    wrong = np.arange(200) % 100 >= 100 * right
    labels[wrong] = (labels[wrong] + 1) % 3
    for name, array in (("x", pixels), ("y", labels.astype(np.int64))):
        np.save(tmp_path / f"{name}.npy", array)
    paths = (tmp_path / "x.npy", tmp_path / "y.npy")
    return dataclasses.replace(request, validation=paths, validation_groups=groups), labels


def test_validation_that_is_far_better_than_test_is_a_warning(request_, found, tmp_path):
    request, _ = on_validation(request_, 1.0, tmp_path)
    verdict = verify(Request.from_json(request.to_json()))
    test = verdict.shipped.accuracy
    assert test < 0.85  # Three of four test labels are the net's.
    assert verdict.validation.accuracy == 1
    assert verdict.validation.points == pytest.approx(100 * (1 - test))
    assert verdict.validation.is_beyond_chance
    (warning,) = verdict.warnings
    assert "100.0 % on validation" in warning
    assert f"{100 * test:.1f} % on test" in warning
    assert "--group" in warning
    assert verdict.status == found.status  # It is said beside the limits, which are on test.
    assert Verdict.from_json(verdict.to_json()) == verdict


def test_a_net_trained_on_the_validation_part_is_not_compared_there(
    request_, tmp_path, monkeypatch
):
    request, labels = on_validation(request_, 1.0, tmp_path)
    about = dataclasses.replace(read_provenance(request.folder), refit=True)
    monkeypatch.setattr(sys.modules[verify.__module__], "read_provenance", lambda _: about)
    gap = verify(request).validation
    assert gap.is_of_reference
    pixels = np.load(request.validation[0])
    reference = predicted(request.folder / "reference/model.fp32.onnx", pixels)
    assert gap.accuracy == (reference == labels).mean()
    assert gap.accuracy < 1  # The int8 file, whose answers the labels are, has all of them right.


def test_a_test_part_as_good_as_validation_or_better_is_no_warning(request_, found, tmp_path):
    assert found.validation is None
    assert found.warnings == []
    for right in (0.4, found.shipped.accuracy + 0.03):
        verdict = verify(on_validation(request_, right, tmp_path)[0])
        assert not verdict.validation.is_beyond_chance
        assert verdict.warnings == []


def test_few_groups_of_validation_do_not_prove_a_difference(request_, tmp_path):
    alone = verify(on_validation(request_, 0.93, tmp_path)[0])
    groups = tuple(place % 100 // 50 for place in range(200))  # All wrong ones are in one of two.
    grouped = verify(on_validation(request_, 0.93, tmp_path, groups)[0])
    assert alone.validation.is_beyond_chance
    assert not grouped.validation.is_beyond_chance


def test_notes_say_that_the_search_was_short_or_the_net_hardly_better_than_guessing(
    original, monkeypatch
):
    about = read_provenance(original.folder)
    short = Decision(SEARCH_TIME, "time for 1 trial", "60 s", "assumed", "--budget")
    long = dataclasses.replace(short, choice="40 trials", certainty="measured")
    guess = 1 / len(about.class_names)
    wanted = [(short, 0.9, ["time for 1 trial"]), (long, 0.9, []), (long, guess, ["guessing"])]
    for decision, accuracy, expected in wanted:
        notes = notes_of(dataclasses.replace(about, decisions=(decision,)), accuracy)
        assert len(notes) == len(expected)
        assert all(words in note for words, note in zip(expected, notes, strict=True))
    told = dataclasses.replace(about, decisions=(short,))
    monkeypatch.setattr("lepton_automl.artifact.verify.read_provenance", lambda _: told)
    assert "--budget" in verify(original.request).notes[0]
