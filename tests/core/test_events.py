from __future__ import annotations

import dataclasses

import pytest

from lepton_automl.core.events import Event, silent


def test_an_event_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Event("search", "trial 3").message = "trial 4"


def test_silent_discards_events(capfd):
    silent(Event("search", "trial 3", 3, 10))
    assert capfd.readouterr() == ("", "")
