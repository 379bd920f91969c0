"""A sealed artifact is believed only if its files belong together, whatever the manifest says."""

from __future__ import annotations

import errno
import json
import os
import shutil

import numpy as np
import onnx
import pytest

from lepton_automl.artifact.consistency import sealed_problems
from lepton_automl.artifact.manifest import (
    GOLDEN,
    GOLDEN_PREDICTIONS,
    MODELS,
    REFERENCE_PREDICTIONS,
)
from lepton_automl.artifact.model_card import card
from lepton_automl.artifact.provenance import read_provenance
from lepton_automl.artifact.verify import refusal
from lepton_automl.artifact.writer import read_verdict
from lepton_automl.config import Limits
from lepton_automl.errors import DataError, LeptonError
from lepton_automl.pipeline.verify import verify as verify_again
from tests.helpers import children
from tests.helpers.artifacts import make_bundle, seal_again, seal_bundle

DOCUMENTS = ("about.json", "verdict.json")


@pytest.fixture(scope="module", autouse=True)
def _children_answer_here():
    with pytest.MonkeyPatch.context() as patch:
        children.answer_here(patch)
        yield


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    made = make_bundle(tmp_path_factory.mktemp("made"), limits=Limits(max_size_bytes=100_000))
    seal_bundle(made)
    return made.folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "artifact")


def problems(folder):
    """The reasons; an error that a user can correct is one too."""
    try:
        return sealed_problems(folder)
    except DataError as error:
        return [error.what]


def test_an_artifact_as_it_was_written_is_believed(folder):
    assert sealed_problems(folder) == []
    assert refusal(folder) is None


def test_every_byte_of_the_manifest_that_means_something_counts(folder):
    path = folder / "manifest.json"
    whole = path.read_bytes()
    believed = []
    for place, byte in enumerate(whole):
        changed = whole[:place] + bytes([byte ^ 1]) + whole[place + 1 :]
        try:
            is_same = json.loads(changed) == json.loads(whole)
        except ValueError:
            is_same = False
        path.write_bytes(changed)
        if not is_same and not problems(folder):
            believed.append((place, changed[max(0, place - 20) : place + 20]))
    assert believed == []


def test_flipped_bytes_of_every_other_file_are_named(folder):
    names = json.loads((folder / "manifest.json").read_text())["files"]
    for name in names:
        whole = (folder / name).read_bytes()
        for place in {0, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
            (folder / name).write_bytes(
                whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
            )
            assert [line.split()[0] for line in problems(folder)] == [name]
        (folder / name).write_bytes(whole)
    assert problems(folder) == []


def edit(folder, name, *keys, value):
    """Set a value inside a JSON file, at a path of keys."""
    body = inner = json.loads((folder / name).read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (folder / name).write_text(json.dumps(body))


@pytest.mark.parametrize(
    ("name", "keys", "value", "word"),
    [
        ("about.json", ["class_names"], ["dog", "cat", "läufer | 3"], "labels.txt"),
        ("about.json", ["class_names"], ["cat", "dog"], "golden/int8.npy"),
        ("about.json", ["input"], [8, 9, 3], "golden/pixels.npy"),
        ("about.json", ["input"], [8, 8, 1], "arch.json"),
        ("about.json", ["limits", "max_size_bytes"], 90_000, "limits"),
        ("about.json", ["limits", "max_macs"], 10, "limits"),
        ("about.json", ["limits", "max_macs"], -1, "about.json"),
        ("about.json", ["prefer"], "latency", "--prefer"),
        ("about.json", ["balanced"], True, "class weights"),
        ("about.json", ["lepton"], "9.9", "manifest.json"),
        ("about.json", ["target"], "x86-vnni", "target"),
        ("about.json", ["data_fingerprint"], "0" * 16, "dataset"),
        ("about.json", ["window_stride"], 5, "stride"),
        ("about.json", ["judge"], "nonsense", "about.json"),
        ("verdict.json", ["limits_on"], "recordings", "what limits apply to"),
        ("about.json", ["pixel_scale"], "nonsense", "about.json"),
        ("about.json", ["pixel_scale"], "auto", "about.json"),
        ("about.json", ["pixel_scale"], "12bit", "pixel_scale"),
        ("about.json", ["origin"], "foreign", "parity"),
        ("verdict.json", ["sha256"], "0" * 64, "verdict.json"),
        ("verdict.json", ["int8", "size_bytes"], 1, "model.int8.onnx"),
        ("verdict.json", ["int8", "macs"], 1, "model.int8.onnx"),
        ("verdict.json", ["float", "sha256"], "0" * 64, "model.fp32.onnx"),
        ("verdict.json", ["reference", "file"], "model.fp32.onnx", "reference/model.fp32.onnx"),
        ("verdict.json", ["reference"], None, "no figures of reference/model.fp32.onnx"),
        ("verdict.json", ["int8", "n_samples"], 119, "test samples"),
        ("verdict.json", ["drops", "int8", "n"], 119, "test samples"),
        ("verdict.json", ["drops"], {}, "drops"),
        ("verdict.json", ["limits"], [], "limits"),
        ("verdict.json", ["limits", 0, "limit"], 200_000, "limits"),
        ("verdict.json", ["limits", 0, "measured"], 1, "max_size_bytes"),
        ("verdict.json", ["limits", 0, "status"], "undecided", "verdict"),
        ("verdict.json", ["parity", "holds"], False, "its limits and problems has broken"),
        ("verdict.json", ["prefer"], "latency", "--prefer"),
        ("arch.json", ["input"], [9, 8, 3], "arch.json"),
        ("reference/arch.json", ["layers", 0, "type"], "nonsense", "reference/arch.json"),
        ("manifest.json", ["primary"], "float", "file that ships"),
    ],
)
def test_a_contradiction_is_named_although_the_manifest_fits(folder, name, keys, value, word):
    edit(folder, name, *keys, value=value)
    seal_again(folder)
    assert any(word in line for line in sealed_problems(folder)), sealed_problems(folder)
    assert refusal(folder).exit_code == 6


@pytest.mark.parametrize(("limit", "status"), [(10, "holds"), (100_000, "broken")])
def test_a_limit_is_judged_again_though_all_documents_agree_on_it(folder, limit, status):
    edit(folder, "about.json", "limits", "max_size_bytes", value=limit)
    edit(folder, "verdict.json", "limits", 0, "limit", value=limit)
    edit(folder, "verdict.json", "limits", 0, "status", value=status)
    edit(folder, "verdict.json", "verdict", value=status)
    text = card(read_verdict(folder), read_provenance(folder))
    (folder / "MODEL_CARD.md").write_text(text, encoding="utf-8")
    seal_again(folder)
    line, *others = sealed_problems(folder)
    assert line.startswith("max_size_bytes: the file that ships")
    assert all("sbom.cdx.json" in other for other in others)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (GOLDEN, lambda a: a.astype(np.float32)),
        (GOLDEN, lambda a: a[:, :7]),
        (GOLDEN, lambda a: a[:3]),
        (GOLDEN, lambda a: a[:0]),
        (GOLDEN, lambda a: a[0, 0, 0, 0]),
        *((name, lambda a: a[:, :2]) for name in GOLDEN_PREDICTIONS.values()),
        *((name, lambda a: a.astype(np.float64)) for name in GOLDEN_PREDICTIONS.values()),
        *((name, lambda a: a * np.float32(np.nan)) for name in GOLDEN_PREDICTIONS.values()),
        *((name, lambda a: a[:4]) for name in GOLDEN_PREDICTIONS.values()),
        (REFERENCE_PREDICTIONS, lambda a: a[:-1]),
        (REFERENCE_PREDICTIONS, lambda a: a.astype(np.float32)),
        (REFERENCE_PREDICTIONS, lambda a: a + 3),
        (REFERENCE_PREDICTIONS, lambda a: a[:, None]),
    ],
)
def test_an_array_that_does_not_fit_is_named(folder, name, change):
    np.save(folder / name, change(np.load(folder / name)))
    seal_again(folder)
    assert any(name in line for line in sealed_problems(folder))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x93NUMPY", b"PK\x03\x04", b"\x80\x04]", bytes(200), "object", "huge"],
    ids=str,
)
def test_an_array_that_is_none_is_named(folder, content, tmp_path):
    for name in (GOLDEN, *GOLDEN_PREDICTIONS.values(), REFERENCE_PREDICTIONS):
        whole = (folder / name).read_bytes()
        if content == "object":
            np.save(folder / name, np.array([{}], object), allow_pickle=True)
        elif content == "huge":
            (folder / name).write_bytes(whole.replace(b"(16,", b"(9999999999999,")[: len(whole)])
            if name == REFERENCE_PREDICTIONS:
                (folder / name).write_bytes(whole.replace(b"(120,)", b"(9" + b"9" * 14 + b",)"))
        else:
            (folder / name).write_bytes(content)
        seal_again(folder)
        assert any(name in line for line in sealed_problems(folder))
        (folder / name).write_bytes(whole)


@pytest.mark.parametrize("name", MODELS)
def test_models_are_compared_with_the_documents(folder, name):
    whole = (folder / name).read_bytes()

    def changed(key, value):
        model = onnx.ModelProto.FromString(whole)
        words = {item.key: item.value for item in model.metadata_props} | {key: value}
        onnx.helper.set_model_props(model, words)
        return model.SerializeToString()

    other_size = onnx.ModelProto.FromString(whole)
    other_size.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 9
    for content, word in (
        (changed("labels", '["dog","cat","läufer | 3"]'), "class names"),
        (changed("labels", "{"), "class names"),
        (changed("preprocessing", "{}"), "preprocessing"),
        (changed("target", "arm64"), "target"),
        (changed("pixel_scale", "12bit"), "pixel_scale"),
        (changed("stride", "12"), "stride"),
        (other_size.SerializeToString(), "inputs and predictions"),
        (b"no model", name),
        (b"", name),
    ):
        (folder / name).write_bytes(content)
        seal_again(folder)
        assert any(name in line and word in line for line in sealed_problems(folder)), word


def test_class_names_in_the_text_file_are_compared(folder):
    for text in ("cat\ndog\n", "dog\ncat\nläufer | 3\n", "", "cat\ndog\nläufer | 3\nfox\n"):
        (folder / "labels.txt").write_text(text, encoding="utf-8")
        seal_again(folder)
        assert any("labels.txt" in line for line in sealed_problems(folder))


def test_the_text_of_the_model_card_is_compared(folder):
    path = folder / "MODEL_CARD.md"
    whole = path.read_text()
    for text in (whole.replace("cat, dog", "cat, cow"), whole + "Use it at will.\n", ""):
        path.write_text(text)
        seal_again(folder)
        (line,) = sealed_problems(folder)
        assert "model card" in line
        assert "MODEL_CARD.md" in line


def test_files_that_are_missing_or_too_many_are_each_named(folder):
    (folder / "golden/int8.npy").unlink()
    (folder / "arch.json").unlink()
    (folder / "notes.txt").write_text("x")
    seal_again(folder)
    found = sealed_problems(folder)
    assert any("notes.txt is not listed" in line for line in found)
    assert any("golden/int8.npy" in line for line in found)
    (folder / "notes.txt").unlink()
    (folder / "golden/int8.npy").write_bytes(b"")
    assert any("golden/int8.npy is not listed" in line for line in sealed_problems(folder))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_field_of_another_type_or_none_is_an_answer_and_no_error(folder, name):
    whole = (folder / name).read_text()
    for key in json.loads(whole):
        edit(folder, name, key, value=[3.5])
        seal_again(folder)
        assert sealed_problems(folder), key
        body = json.loads(whole)
        del body[key]
        (folder / name).write_text(json.dumps(body))
        seal_again(folder)
        problems(folder)
        (folder / name).write_text(whole)


@pytest.mark.parametrize("name", [*DOCUMENTS, "arch.json", "labels.txt", "manifest.json"])
@pytest.mark.parametrize("text", [b"", b"[]", b"3", b"\xff\xfe", b"[" * 20_000, b'{"a": NaN}'])
def test_a_document_that_is_none_is_broken_and_its_data_are_not_opened(folder, name, text):
    (folder / name).write_bytes(text)
    if name != "manifest.json":
        seal_again(folder)
    outcome = verify_again(folder)
    assert outcome.verdict.exit_code == 6
    assert name in outcome.verdict.reasons[0]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_a_file_that_the_machine_cannot_open_is_no_broken_artifact(folder, monkeypatch, number):
    opening, opened, scarce_at = os.open, [], [0]

    def scarce(path, *more, **options):
        opened.append(path)
        if len(opened) in scarce_at:
            raise OSError(number, os.strerror(number), str(path))
        return opening(path, *more, **options)

    monkeypatch.setattr(os, "open", scarce)
    assert sealed_problems(folder) == []
    count = len(opened)
    assert count > 10
    for place in range(1, count + 1):
        opened.clear()
        scarce_at[:] = [place]
        with pytest.raises((LeptonError, OSError), match=f"(?i){os.strerror(number)}"):
            sealed_problems(folder)
