from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lepton_automl.core import plugins
from lepton_automl.errors import ConfigError, SpaceError
from lepton_automl.models import layers
from lepton_automl.models.layers import Layer
from lepton_automl.models.layers.mbconv import MBConv

GHOST = """
from dataclasses import dataclass
from lepton_automl.models.layers import Layer

@dataclass(frozen=True)
class Ghost(Layer):
    def lower(self, build, x):
        return x
"""


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """A function that installs a package with one entry point, as pip would lay it down."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(source: str, name: str = "ghost") -> None:
        module = f"third_party_{name}"
        (tmp_path / f"{module}.py").write_text(source)
        about = tmp_path / f"{module}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[lepton_automl.layers]\n{name} = {module}\n")

    yield install
    for module in [m for m in sys.modules if m.startswith("third_party_")]:
        del sys.modules[module]


def test_the_names_of_a_folder_are_its_files():
    folder = Path(layers.__file__).parent
    assert plugins.names("layers") == sorted(f.stem for f in folder.glob("[a-z]*.py"))


def test_loading_a_name_gives_the_class_of_that_file():
    assert plugins.load("layers", "mbconv", Layer) is MBConv


def test_an_unknown_name_suggests_the_nearest_and_lists_all():
    with pytest.raises(ConfigError) as caught:
        plugins.load("layers", "mbcnv", Layer)
    assert "'mbcnv'" in caught.value.what
    assert "did you mean 'mbconv'?" in caught.value.fix
    assert all(name in caught.value.fix for name in plugins.names("layers"))


@pytest.mark.parametrize("name", ["", ".", "conv.x", "../arch", "__init__", "con v"])
def test_a_name_that_is_no_file_of_the_folder_is_unknown(name):
    with pytest.raises(ConfigError, match="is not a layer"):
        plugins.load("layers", name, Layer)


def test_the_error_kind_and_the_word_for_the_thing_can_be_chosen():
    error = plugins.unknown_name("tyni", ["mobile", "tiny"], "search space", SpaceError)
    assert type(error) is SpaceError
    assert str(error) == (
        "'tyni' is not a search space\n  fix: did you mean 'tiny'? choose one of: mobile, tiny"
    )


def test_no_nearest_name_is_claimed_where_none_is_near():
    assert "did you mean" not in plugins.unknown_name("xyz", ["mobile", "tiny"], "search space").fix


def test_an_entry_point_of_another_package_is_a_member(third_party):
    third_party(GHOST)
    assert "ghost" in plugins.names("layers")
    assert plugins.load("layers", "ghost", Layer).__name__ == "Ghost"


def test_a_plug_in_file_without_a_class_is_named(third_party):
    third_party("x = 1\n", "empty")
    with pytest.raises(ConfigError, match=r"third_party_empty.* 0 classes derived from Layer"):
        plugins.load("layers", "empty", Layer)


def test_a_plug_in_file_with_two_classes_is_named(third_party):
    third_party(GHOST + GHOST.replace("Ghost", "Second"), "twice")
    with pytest.raises(ConfigError, match=r"third_party_twice.* 2 classes derived from Layer"):
        plugins.load("layers", "twice", Layer)
