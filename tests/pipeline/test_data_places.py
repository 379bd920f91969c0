"""A run knows its data in every working directory: what kind they are, with their path or name."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from lepton_automl import api
from lepton_automl.config import RunConfig
from lepton_automl.core.events import silent
from lepton_automl.errors import ConfigError, DataError
from lepton_automl.pipeline.context import open_run
from lepton_automl.pipeline.export import _check_kind
from lepton_automl.runs.folder import RunFolder, configured
from tests.helpers.pictures import write_folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory that holds a folder of pictures named like the built-in digits."""
    folder = tmp_path / "here"
    write_folder(folder / "digits", {"cat": 30, "dog": 30})
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(folder)
    return folder


def made(data, **more):
    with open_run(RunConfig(data, Path("run").resolve(), **more), silent) as context:
        return context.folder, context.dataset


def again(folder):
    """The data that a later command opens."""
    with open_run(configured(folder), silent) as context:
        return context.dataset.fingerprint


def test_the_built_in_digits_stay_these_beside_a_folder_of_that_name(here, monkeypatch):
    folder, dataset = made("digits")
    assert len(dataset.class_names) == 10
    known = folder.definition()
    assert (known.data, known.data_kind) == ("digits", "digits")
    for place in (here, here.parent / "there"):
        monkeypatch.chdir(place)
        assert again(folder) == dataset.fingerprint


def test_a_folder_named_digits_stays_a_folder_in_another_working_directory(here, monkeypatch):
    folder, dataset = made("./digits")
    assert len(dataset.class_names) == 2
    known = folder.definition()
    assert (known.data, known.data_kind) == (str(here / "digits"), "image_folder")
    monkeypatch.chdir(here.parent / "there")
    assert again(folder) == dataset.fingerprint
    said = re.escape(f"data: {here / 'digits'} (image_folder) here, digits (digits) asked for")
    with pytest.raises(ConfigError, match=said), open_run(RunConfig("digits", folder.path), silent):
        pass
    (here / "digits").rename(here / "moved")
    with pytest.raises(DataError, match="no longer at"):
        configured(folder)


def test_test_data_are_recorded_as_data_are(here, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("lepton_automl.pipeline.run.run", lambda config, emit: asked.append(config))
    for test in ("digits", "./digits", "../here/digits"):
        api.run("./digits", test=test, out=tmp_path / "run")
    assert [config.test for config in asked] == [
        Path("digits"),
        here / "digits",
        Path("../here/digits"),
    ]


def test_a_run_inside_a_folder_named_like_built_in_data_is_not_inside_its_data(here):
    out = here / "digits" / "run"
    with open_run(RunConfig("digits", out), silent) as context:
        assert context.folder.definition().data == "digits"
    with (
        pytest.raises(ConfigError, match="lies inside the data"),
        open_run(RunConfig("./digits", here / "digits" / "another"), silent),
    ):
        pass


def test_a_run_folder_without_the_kind_is_continued_and_gets_it(here):
    folder, dataset = made("digits")
    text = folder.definition_file.read_text()
    folder.definition_file.write_text(re.sub("(data|test)_kind = .*\n", "", text))
    assert folder.definition().data_kind == ""
    assert again(folder) == dataset.fingerprint
    assert folder.definition_file.read_text() == text


def test_data_of_a_source_that_is_not_installed_are_named_with_it(here):
    folder, _ = made("digits")
    text = folder.definition_file.read_text()
    changed = text.replace('data_kind = "digits"', 'data_kind = "tables"')
    folder.definition_file.write_text(changed)
    said = "digits, are read by the source tables, which is not installed here"
    with pytest.raises(DataError, match=said) as caught:
        configured(RunFolder(folder.path))
    assert "install the package" in caught.value.fix


def test_data_that_another_source_reads_now_are_not_verified_as_those_of_the_run(here):
    known = made("./digits")[0].definition()
    _check_kind(known)
    with pytest.raises(DataError, match="were read as image_folder, now they are digits") as caught:
        _check_kind(dataclasses.replace(known, data="digits"))
    assert "lepton verify" in caught.value.fix
