"""Single changed bytes of an artifact: a few of the cases, and one that would pass is noticed."""

from __future__ import annotations

import random

import pytest

from lepton_automl.artifact import manifest
from tests.faults.single_bytes import accepted
from tests.helpers.artifacts import make_bundle, seal_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = make_bundle(tmp_path_factory.mktemp("single"), formats=("c",))
    seal_bundle(made)
    return made.folder


def test_a_changed_byte_of_any_file_is_refused_and_put_back(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    whole = {path: path.read_bytes() for path in files}
    rng = random.Random(0)
    for path in files:
        for offset in (0, len(whole[path]) - 1, rng.randrange(len(whole[path]))):
            assert accepted(folder, path, offset, rng.randrange(1, 256)) == ""
    assert {path: path.read_bytes() for path in files} == whole


def test_a_file_whose_digest_is_not_compared_is_noticed(folder, monkeypatch):
    name = "golden/pixels.npy"
    compared = manifest.damage

    def damage(folder, digests):
        return compared(folder, {path: digests[path] for path in digests if path != name})

    monkeypatch.setattr(manifest, "damage", damage)
    last = (folder / name).stat().st_size - 1
    assert accepted(folder, folder / name, last, 1)
    assert accepted(folder, folder / "labels.txt", 0, 1) == ""
