"""The bill of materials against the published schema where it is installed, and the verdict."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from lepton_automl.artifact.bill_of_materials import installed_libraries, libraries_in
from lepton_automl.artifact.consistency import sealed_problems
from lepton_automl.artifact.manifest import canonical, read_manifest
from lepton_automl.errors import ArtifactError
from tests.helpers.artifacts import make_bundle, seal_again, seal_bundle


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    made = make_bundle(tmp_path_factory.mktemp("made"))
    seal_bundle(made)
    return made.folder


@pytest.fixture
def copy(artifact, tmp_path):
    return shutil.copytree(artifact, tmp_path / "artifact")


def test_it_keeps_the_published_schema(artifact):
    validation = pytest.importorskip(
        "cyclonedx.validation.json", reason="cyclonedx-python-lib[json-validation] is missing"
    )
    schema = pytest.importorskip("cyclonedx.schema")
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    text = (artifact / "sbom.cdx.json").read_text()
    assert validator.validate_str(text) is None
    assert validator.validate_str(text.replace('"SHA-256"', '"SHA-255"')) is not None


def test_figures_and_digests_are_those_of_the_verdict_and_the_files(artifact):
    document = json.loads((artifact / "sbom.cdx.json").read_text())
    verdict = json.loads((artifact / "verdict.json").read_text())
    model = document["metadata"]["component"]
    assert (document["specVersion"], model["type"]) == ("1.6", "machine-learning-model")
    assert model["hashes"][0]["content"] == verdict["int8"]["sha256"]
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    found = {(one["type"], one["slice"]): one for one in metrics}
    accuracy = found["accuracy", "model.int8.onnx"]
    assert float(accuracy["value"]) == pytest.approx(verdict["int8"]["accuracy"], rel=1e-5)
    low, high = verdict["int8"]["accuracy_interval"]
    assert float(accuracy["confidenceInterval"]["lowerBound"]) == pytest.approx(low, rel=1e-5)
    assert float(accuracy["confidenceInterval"]["upperBound"]) == pytest.approx(high, rel=1e-5)
    listed = json.loads((artifact / "manifest.json").read_text())["files"]
    files = [one for one in document["components"] if one["type"] == "file"]
    assert {one["name"]: one["hashes"][0]["content"] for one in files} == {
        name: listed[name]["sha256"] for name in listed if name.endswith(".onnx")
    }
    refs = [one["bom-ref"] for one in (model, *document["components"])]
    assert len(set(refs)) == len(refs)
    assert set(document["dependencies"][0]["dependsOn"]) == set(refs) - {"model"}
    assert libraries_in(document) == installed_libraries()
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", document["serialNumber"])


def test_one_that_says_something_else_is_a_contradiction(copy):
    path = copy / "sbom.cdx.json"
    body = json.loads(path.read_text())
    metrics = body["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]
    metrics["performanceMetrics"][0]["value"] = "0.999"
    path.write_text(json.dumps(body, indent=2) + "\n")
    seal_again(copy)
    assert any("sbom.cdx.json" in problem for problem in sealed_problems(copy))
    path.write_text("{}")
    seal_again(copy)
    assert any("bill of materials" in problem for problem in sealed_problems(copy))


def test_every_changed_byte_of_the_manifest_is_noticed(copy):
    path = copy / "manifest.json"
    content = path.read_bytes()
    assert canonical(json.loads(content)).encode() == content
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 1 + place % 5
        path.write_bytes(changed)
        assert sealed_problems_or_error(copy), bytes(changed[place - 5 : place + 5])
    path.write_bytes(content + b" ")
    with pytest.raises(ArtifactError, match="has changed"):
        read_manifest(copy)
    path.write_bytes(content)
    assert sealed_problems(copy) == []


def sealed_problems_or_error(folder):
    """Whether the manifest is refused, as malformed, of another format or changed."""
    from lepton_automl.errors import DataError

    try:
        read_manifest(folder)
    except DataError:
        return True
    return False
