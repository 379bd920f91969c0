"""Exit codes are documented in README; every message carries its way out."""

from __future__ import annotations

import pickle

import pytest

from lepton_automl import errors
from lepton_automl.errors import LeptonError

DOCUMENTED = {
    "DataError": 3,
    "ArtifactError": 3,
    "ConfigError": 4,
    "SpaceError": 4,
    "ArchError": 4,
    "InfeasibleError": 5,
    "VerdictError": 6,
    "MachineError": 7,
    "Interrupted": 130,
}


def test_every_error_exits_with_its_documented_code():
    found = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, LeptonError) and kind is not LeptonError
    }
    assert found == DOCUMENTED


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_tree_in_the_module_docstring_names_every_error_with_its_code(name):
    line = next(line for line in errors.__doc__.splitlines() if name in line)
    assert str(DOCUMENTED[name]) in line.split()


def test_an_error_needs_a_fix():
    with pytest.raises(TypeError, match="fix"):
        LeptonError("the disk is full")


def test_the_message_holds_what_is_wrong_and_the_fix():
    text = str(errors.DataError("class 'cat' has 1 picture", fix="add pictures"))
    assert text.splitlines() == ["class 'cat' has 1 picture", "  fix: add pictures"]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_an_error_survives_pickling(name):
    error = getattr(errors, name)("what", fix="so")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.what, copy.fix) == (type(error), "what", "so")


def test_the_first_line_of_an_error_without_a_message_is_its_type():
    assert errors.first_line(ValueError("\n  one\ntwo")) == "one"
    assert errors.first_line(MemoryError()) == "MemoryError"
