"""Further formats of an artifact, by a stand-in: measured, judged, and wrong ones caught."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys

import numpy as np
import onnxruntime
import pytest

from lepton_automl.artifact import manifest
from lepton_automl.artifact.provenance import read_provenance
from lepton_automl.artifact.verdict import Verdict
from lepton_automl.artifact.verification_process import VerificationProcess
from lepton_automl.artifact.verify import verify
from lepton_automl.config import Limits
from lepton_automl.core import files
from tests.helpers import children, packed_format
from tests.helpers.artifacts import make_bundle, seal_again, seal_bundle
from tests.helpers.killed_writes import Killed

LIMITS = Limits(max_size_bytes=7000, max_peak_ram_bytes=499, min_accuracy=0.1)


@pytest.fixture(autouse=True, scope="module")
def _packed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        children.answer_formats_here(patch)
        packed_format.install(tmp_path_factory.mktemp("site"), patch)
        yield
    sys.modules.pop("packed_format", None)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    made = make_bundle(tmp_path_factory.mktemp("made"), formats=("packed",))
    seal_bundle(made)
    return made


@pytest.fixture(scope="module")
def found(sealed) -> Verdict:
    return verify(sealed.request)


@pytest.fixture
def request_(sealed, tmp_path):
    folder = shutil.copytree(sealed.folder, tmp_path / "artifact")
    return dataclasses.replace(sealed.request, folder=folder, quiet_reference_ms=0.04)


def reload(monkeypatch, **settings):
    """Set what the stand-in reads when its module is loaded."""
    for name, value in settings.items():
        monkeypatch.setenv(f"PACKED_{name}", value)
    monkeypatch.delitem(sys.modules, "packed_format", raising=False)


def test_a_format_is_listed_answered_and_compared_with_the_onnx_file(sealed, found):
    about = read_provenance(sealed.folder)
    assert about.formats == {"packed": ("packed/net.gz", "packed/README")}
    listed = manifest.read_manifest(sealed.folder).files
    assert {*about.formats["packed"], "golden/packed.npy"} <= set(listed)
    (one,) = found.formats
    assert (one.name, one.file, one.not_run) == ("packed", "packed/net.gz", "")
    assert one.sha256 == listed["packed/net.gz"].sha256
    assert one.file_bytes == sum(listed[path].bytes for path in about.formats["packed"])
    assert (one.n_same_class, one.max_difference) == (found.int8.n_samples, 0.0)
    assert one.metrics.accuracy == found.int8.accuracy
    assert (one.metrics.flash_bytes, one.metrics.size_bytes, one.arena_bytes) == (7000, 7000, 500)
    assert one.metrics.peak_ram_bytes == 500
    low, high = one.latency_ratio_interval
    assert 0 < low <= one.latency_ratio <= high
    assert one.drop == found.drops["int8"]
    assert one.differences == ("nothing differs",)
    assert found.status == "holds"
    assert found.shipped == found.int8
    assert Verdict.from_json(found.to_json()) == found


def test_a_stored_verdict_has_the_formats(sealed, found):
    (stored,) = Verdict.from_json((sealed.folder / "verdict.json").read_text()).formats
    assert stored.metrics.accuracy == found.formats[0].metrics.accuracy
    text = (sealed.folder / "MODEL_CARD.md").read_text()
    assert "## Further formats" in text
    assert stored.sha256 in text


def test_limits_bind_the_format_that_ships(tmp_path):
    made = make_bundle(tmp_path, formats=("packed",), ship="packed", limits=LIMITS)
    seal_bundle(made)
    verdict = verify(made.request)
    judged = {limit.name: (limit.measured, limit.status) for limit in verdict.limits}
    assert judged["max_size_bytes"] == (7000, "holds")
    assert judged["max_peak_ram_bytes"] == (500, "broken")
    assert judged["min_accuracy"] == (verdict.formats[0].metrics.accuracy, "holds")
    assert verdict.int8.peak_ram_bytes != 500
    assert verdict.shipped.file == "packed/net.gz"
    assert json.loads(verdict.to_json())["sha256"] == verdict.formats[0].sha256
    assert verdict.other is None


@pytest.mark.parametrize("ship", ["onnx", "packed"])
def test_what_cannot_be_answered_here_is_a_row_and_never_holds(tmp_path, monkeypatch, ship):
    limits = Limits(min_accuracy=0.1, max_macs=1_000_000)
    made = make_bundle(tmp_path, formats=("packed",), ship=ship, limits=limits)
    seal_bundle(made)
    monkeypatch.setenv("PACKED_MISSING", "no C compiler")
    with VerificationProcess(made.folder) as process:
        assert process.refusal() is None
        verdict = process.verify(made.request)
    (one,) = verdict.formats
    assert (one.not_run, one.metrics) == ("no C compiler", None)
    assert one.file_bytes > 0
    if ship == "onnx":
        assert (verdict.status, verdict.shipped) == ("holds", verdict.int8)
        return
    assert (verdict.status, verdict.shipped) == ("undecided", None)
    assert {(limit.status, limit.basis) for limit in verdict.limits} == {("undecided", "predicted")}
    assert "packed/net.gz ships, but was not run here: no C compiler" in verdict.reasons
    assert json.loads(verdict.to_json())["sha256"] == one.sha256
    assert Verdict.from_json(verdict.to_json()) == verdict


def test_what_could_not_be_answered_when_it_was_written_has_no_golden_answers(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("PACKED_MISSING", "no C compiler")
    made = make_bundle(tmp_path, formats=("packed",))
    seal_bundle(made)
    assert not (made.folder / "golden/packed.npy").exists()
    assert verify(made.request).status == "holds"
    monkeypatch.delenv("PACKED_MISSING")
    assert verify(made.request).formats[0].metrics is not None


def test_a_wrong_export_is_caught_though_everything_else_claims_that_it_holds(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("PACKED_FAULTY", "1")
    made = make_bundle(tmp_path, formats=("packed",))
    written = verify(dataclasses.replace(made.request, digests=made.digests))
    assert written.status == "broken"
    seal_bundle(made, written, status="holds", problems=())
    again = verify(made.request)
    assert again.status == "broken"
    assert any("packed: " in text and "from the ONNX file" in text for text in again.reasons)
    assert again.int8.accuracy == written.int8.accuracy


def test_golden_answers_of_a_format_are_compared(request_):
    path = request_.folder / "golden/packed.npy"
    np.save(path, np.load(path)[:, ::-1])
    seal_again(request_.folder)
    verdict = verify(request_)
    assert verdict.status == "broken"
    assert any("golden probabilities differ" in text for text in verdict.reasons)


def test_files_that_cannot_be_used_break_it(request_):
    (request_.folder / "packed/net.gz").write_bytes(b"nothing")
    assert "packed/net.gz has changed" in verify(request_).reasons[0]
    seal_again(request_.folder)
    assert "sha256" in verify(request_).reasons[0], "the verdict is of another file"


@pytest.mark.parametrize(
    ("formats", "told"),
    [
        ({"packed": ["packed/net.gz", "../x"]}, "'../x' as a file"),
        ({"packed": ["packed/net.gz", "model.int8.onnx"]}, "'model.int8.onnx' as a file"),
        ({"packed": ["packed/net.gz", "packed/other"]}, "does not list packed/other"),
        ({"packed": []}, "with 0 files"),
        ({}, "formats"),
    ],
)
def test_contradicting_lists_of_formats_are_refused(request_, formats, told):
    path = request_.folder / "about.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"formats": formats}))
    seal_again(request_.folder)
    verdict = verify(request_)
    assert verdict.status == "broken"
    assert verdict.int8 is None
    assert any(told in text for text in verdict.reasons)


def test_a_format_that_this_lepton_does_not_know_is_not_run(request_):
    path = request_.folder / "about.json"
    body = json.loads(path.read_text().replace("packed", "zipped"))
    path.write_text(json.dumps(body))
    (request_.folder / "packed").rename(request_.folder / "zipped")
    (request_.folder / "golden/packed.npy").rename(request_.folder / "golden/zipped.npy")
    for name in ("manifest.json", "verdict.json", "MODEL_CARD.md", "sbom.cdx.json"):
        place = request_.folder / name
        place.write_text(place.read_text().replace("packed", "zipped"))
    seal_again(request_.folder)
    verdict = verify(request_)
    assert verdict.status == "holds"
    assert verdict.formats[0].not_run == "this lepton has no format 'zipped'"


def test_code_is_run_only_if_it_is_what_would_be_written(sealed, request_, monkeypatch):
    reload(monkeypatch, CODE="1")
    assert verify(request_).formats[0].metrics is not None
    reload(monkeypatch, CODE="1", VERSION="2")
    verdict = verify(request_)
    assert verdict.status == "broken"
    assert verdict.formats[0].metrics is None
    assert "packed/README is not what lepton writes of model.int8.onnx" in verdict.reasons[0]


def test_answers_of_the_onnx_file_are_the_oracle(sealed, found):
    session = onnxruntime.InferenceSession(str(sealed.folder / "model.int8.onnx"))
    pixels, labels = np.load(sealed.request.pixels), np.load(sealed.request.labels)
    (answers,) = session.run(None, {"pixels": pixels})
    assert found.formats[0].metrics.accuracy == (answers.argmax(1) == labels).mean()


def test_an_artifact_whose_writing_was_killed_is_never_complete_and_is_written_again(
    tmp_path, monkeypatch
):
    """With the format, without it, with it again; killed at another write or removal each time."""
    made = make_bundle(tmp_path, formats=("packed",))
    whole = content(made.folder)
    for kills, formats in enumerate([(), ("packed",)] * 2):
        seal_bundle(made)
        left = [1 + 3 * kills]
        with monkeypatch.context() as patch:
            for name in ("write", "remove"):
                patch.setattr(files, name, dying(getattr(files, name), left))
            with pytest.raises(Killed):
                make_bundle(tmp_path, formats=formats)
        assert not (made.folder / manifest.MANIFEST).exists()
        made = make_bundle(tmp_path, formats=formats)
        written = content(made.folder)
        extra = {"packed/net.gz", "packed/README", "golden/packed.npy"}
        assert written.keys() - SEALED == whole.keys() - (set() if formats else extra)
        assert all(written[path] == whole[path] for path in written if path in extra)
    assert verify(dataclasses.replace(made.request, digests=made.digests)).status == "holds"


SEALED = {"verdict.json", "MODEL_CARD.md", "sbom.cdx.json", "reference_test_predictions.npy"}


def content(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def dying(call, left):
    """A function that is killed after so many calls."""

    def counted(*given):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return call(*given)

    return counted
