from __future__ import annotations

import json

import numpy as np
import pytest

from lepton_automl import onnxfile
from lepton_automl.foreign.quantizing import Quantizer
from lepton_automl.foreign.slimming import slimmed
from lepton_automl.measuring import file_problems
from tests.foreign import models
from tests.foreign.test_wrapping import answers, wrap


@pytest.mark.parametrize("kind", ["plain", "mobile"])
def test_a_slim_file_answers_the_same_in_fewer_bytes(kind: str) -> None:
    pixels, _ = models.pictures(64)
    found = wrap(models.model(kind))
    for file in (found.file, Quantizer(pixels, 127)(found)):
        small = slimmed(file)
        assert len(small) < len(file)
        assert np.array_equal(answers(small, pixels), answers(file, pixels))
        assert not file_problems("it", small)
        assert json.loads(onnxfile.read_metadata(small)["labels"]) == list(models.CLASSES)
        assert slimmed(small) == small
