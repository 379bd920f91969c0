from __future__ import annotations

from pathlib import Path

import pytest

from lepton_automl.about import About, read_about
from lepton_automl.config import Limits
from lepton_automl.errors import DataError

SAID = About(
    lepton="1",
    data="stripes",
    data_fingerprint="f",
    class_names=("a", "b"),
    input=(8, 8, 1),
    target="x86-any",
    prefer="size",
    limits=Limits(max_drop=0.5),
    origin="foreign",
    notes=("Made elsewhere.",),
)


def test_what_is_said_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "about.json").write_text(SAID.to_json())
    assert read_about(tmp_path) == SAID


@pytest.mark.parametrize("text", ["", "[]", "{}", SAID.to_json().replace("limits", "limit")])
def test_what_is_damaged_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "about.json").write_text(text)
    with pytest.raises(DataError, match=r"about\.json"):
        read_about(tmp_path)
