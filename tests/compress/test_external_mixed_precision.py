from __future__ import annotations

import numpy as np

from lepton_automl.compress.external.graph_process import predict_file
from lepton_automl.compress.external.mixed_precision import keep_layers_float, ranked_layers
from lepton_automl.compress.external.quantize import ExternalQuantization, Quantizer
from tests.compress.test_external_interface import wrap
from tests.helpers import external_models as models

TRAIN, _ = models.pictures(96)
QUANTIZER = Quantizer(TRAIN, 127)


def untold(text: str, share: float) -> None:
    assert text
    assert 0 <= share <= 1


def broken() -> ExternalQuantization:
    """Not equalised, with one layer that int8 breaks."""
    found = wrap(models.uneven(2.5, seed=3))
    return ExternalQuantization(QUANTIZER(found), "plain", 1.0, found, averages=False)


def test_the_layer_that_costs_most_comes_first() -> None:
    ranked = ranked_layers(broken(), QUANTIZER, untold)
    assert len(ranked) == 3
    assert [cost for _, cost in ranked] == sorted((c for _, c in ranked), reverse=True)
    assert ranked[0][1] > 10 * ranked[-1][1]


def test_as_few_layers_as_hold_stay_float() -> None:
    asked: list[int] = []

    def holds(file: bytes) -> bool:
        asked.append(len(file))
        right = predict_file(file, TRAIN).argmax(1) == predict_file(made.source.file, TRAIN).argmax(
            1
        )
        return bool(right.mean() > 0.97)

    made = broken()
    assert not holds(made.file)
    fixes = keep_layers_float(made, QUANTIZER, holds, untold)
    assert fixes[-1].holds
    fewer = [fix for fix in fixes if len(fix.nodes) < len(fixes[-1].nodes)]
    assert not any(fix.holds for fix in fewer)
    assert fixes[-1].made.kept_float == fixes[-1].nodes


def test_where_nothing_holds_all_is_float_and_answers_as_before() -> None:
    made = broken()
    last = keep_layers_float(made, QUANTIZER, lambda file: False, untold)[-1]
    assert not last.holds
    assert len(last.nodes) == 3
    apart = np.abs(predict_file(last.made.file, TRAIN) - predict_file(made.source.file, TRAIN))
    assert apart.max() < 0.2
