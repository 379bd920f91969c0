"""The bill of materials of a model in CycloneDX 1.6 (ECMA-424): what it is made of, and how good.

Written from the verdict and the origin, so that it says nothing that these do not say. It has no
time, and its serial number follows from the files: the same artifact gives the same bytes.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from lepton_automl.artifact.manifest import MODELS
from lepton_automl.artifact.provenance import Provenance
from lepton_automl.artifact.verdict import FileMetrics, Verdict
from lepton_automl.config import LIMITS
from lepton_automl.core import units

_LIBRARIES = ("numpy", "onnx", "onnxruntime", "optuna", "torch")
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "lepton_automl")

Document = dict[str, Any]


def installed_libraries() -> dict[str, str]:
    """Names and versions of the packages that made an artifact, as far as they are installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def libraries_in(document: Mapping[str, Any]) -> dict[str, str]:
    """The packages that a bill of materials names.

    Raises
    ------
    KeyError, TypeError
        If it is no such document.
    """
    libraries = (each for each in document["components"] if each["type"] == "library")
    return {str(each["name"]): str(each["version"]) for each in libraries}


def bill_of_materials(
    verdict: Verdict, about: Provenance, digests: Mapping[str, str], libraries: Mapping[str, str]
) -> str:
    """The document as indented JSON.

    Parameters
    ----------
    verdict : Verdict
        Result of verification.
    about : Provenance
        Origin of the artifact.
    digests : mapping of str to str
        Path -> sha256 of the models and other files.
    libraries : mapping of str to str
        Name -> version of the packages that made it.
    """
    shipped = verdict.shipped
    main = shipped.sha256 if shipped is not None else digests[MODELS[0]]
    further = (path for paths in about.formats.values() for path in paths)
    models = [_file(name, digests[name]) for name in (*MODELS, *further)]
    parts = [_library(name, version) for name, version in sorted(libraries.items())]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, main)}",
        "version": 1,
        "metadata": {
            "tools": {
                "components": [
                    {"type": "application", "name": "lepton_automl", "version": about.lepton}
                ]
            },
            "component": {
                "type": "machine-learning-model",
                "bom-ref": "model",
                "name": about.data,
                "version": main[:12],
                "hashes": [_hash(main)],
                "modelCard": _card(verdict, about),
            },
        },
        "components": [_data(verdict, about), *models, *parts],
        "dependencies": [
            {"ref": "model", "dependsOn": ["data", *(one["bom-ref"] for one in (*models, *parts))]}
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def _hash(sha256: str) -> Document:
    return {"alg": "SHA-256", "content": sha256}


def _file(name: str, sha256: str) -> Document:
    return {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": [_hash(sha256)]}


def _library(name: str, version: str) -> Document:
    purl = f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _data(verdict: Verdict, about: Provenance) -> Document:
    """The data set, by its fingerprints: it is not part of the artifact."""
    fields = {
        "fingerprint": about.data_fingerprint,
        "test_fingerprint": verdict.test_fingerprint,
        "test_set_uses": str(verdict.test_set_uses),
    }
    contents = {"properties": [_property(name, value) for name, value in fields.items() if value]}
    kind = {"type": "dataset", "name": about.data, "contents": contents}
    return {"type": "data", "bom-ref": "data", "name": about.data, "data": [kind]}


def _property(name: str, value: str) -> Document:
    return {"name": f"lepton:{name}", "value": value}


def _card(verdict: Verdict, about: Provenance) -> Document:
    kinds = {1: "sound", 2: "time-series", 3: "image"}
    shape = "x".join(map(str, about.input))
    is_external = about.origin == "foreign"
    classes = f"probabilities of {len(about.class_names)} classes, float32"
    limits = [
        f"{limit.name} {units.quantity_text(limit.limit, LIMITS[limit.name].unit)}: {limit.status}"
        for limit in verdict.limits
    ]
    words = [f"verdict: {verdict.status}", *limits, *verdict.reasons, *verdict.warnings]
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "classification",
            "architectureFamily": "unknown" if is_external else "convolutional neural network",
            "datasets": [{"ref": "data"}],
            "inputs": [{"format": f"{kinds[len(about.input)]}, {about.input_kind} {shape}"}],
            "outputs": [{"format": classes}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                metric
                for figures in (verdict.int8, verdict.float32, verdict.reference)
                if figures is not None
                for metric in _metrics(verdict, figures)
            ]
        },
        "considerations": {"technicalLimitations": [*words, *verdict.notes]},
        "properties": [_property("target", about.target)],
    }


def _metrics(verdict: Verdict, figures: FileMetrics) -> list[Document]:
    accuracy = units.accuracy_title(verdict.balanced)
    return [
        _metric(accuracy, figures.accuracy, figures.file, figures.accuracy_interval),
        _metric("latency_ms", figures.latency_ms, figures.file, figures.latency_interval),
        _metric("size_bytes", figures.size_bytes, figures.file),
        _metric("macs", figures.macs, figures.file),
        _metric("peak_ram_bytes", figures.peak_ram_bytes, figures.file),
    ]


def _metric(
    kind: str, value: float, file: str, interval: tuple[float, float] | None = None
) -> Document:
    found: Document = {
        "type": kind,
        "value": str(value) if isinstance(value, int) else f"{value:.6g}",
        "slice": file,
    }
    if interval is not None:
        low, high = (f"{end:.6g}" for end in interval)
        found["confidenceInterval"] = {"lowerBound": low, "upperBound": high}
    return found
