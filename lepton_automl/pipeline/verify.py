"""Verify a written artifact again, reading only."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lepton_automl.artifact import manifest
from lepton_automl.artifact.formatting import decisions_of
from lepton_automl.artifact.provenance import read_provenance
from lepton_automl.artifact.signature import check_signature
from lepton_automl.artifact.verification_process import VerificationProcess
from lepton_automl.core.events import Emit, silent
from lepton_automl.core.scratch import scratch_folder
from lepton_automl.pipeline.outcome import Outcome
from lepton_automl.runs.folder import locate_artifact


def verify(
    artifact: Path,
    *,
    data: str | None = None,
    data_object: object | None = None,
    test: Path | None = None,
    trust: Path | None = None,
    emit: Emit = silent,
) -> Outcome:
    """Verify a written artifact again; the artifact and its run are only read.

    One whose files are damaged, malformed or contradictory is `broken`; its data are not opened.
    That its file was verified on the test part is recorded in the user's state folder
    (`runs.test_set_uses`).

    Parameters
    ----------
    artifact : Path
        The artifact folder, its run folder or the ONNX file.
    data, test
        Where the test part comes from; by default the run's own data.
    data_object : object, optional
        A data set object from Python, for which `data` stands.
    trust : Path, optional
        Public key or allowed signers, by one of which it must be signed (`artifact.signature`).
    emit : callable
        Receives progress.

    Raises
    ------
    DataError
        If there is no finished artifact or no data to evaluate it on.
    ArtifactError
        If it is not signed by a trusted key.
    """
    folder = locate_artifact(artifact)
    signer = "" if trust is None else check_signature(folder, trust)
    with VerificationProcess(folder) as process:
        refused = process.refusal()
        if refused is not None:
            return Outcome(folder, refused, signer=signer)
        from lepton_automl.pipeline.export import data_of, request_for, uses_again  # loads torch

        digests = manifest.read_manifest(folder).digests
        about = read_provenance(folder)
        dataset = data_of(folder, data, data_object, test, emit)
        dataset = dataclasses.replace(dataset, framing=process.framing)
        with scratch_folder() as cache:
            request = request_for(folder, dataset, about.input, Path(cache))
            uses = uses_again(request, digests, emit)
            verdict = process.verify(dataclasses.replace(request, test_set_uses=uses))
    return Outcome(folder, verdict, decisions=decisions_of(about, verdict), signer=signer)
