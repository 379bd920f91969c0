"""Graphs of external models in a child process: the same results, and limits that hold."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_automl.compress.external import graph_process
from lepton_automl.compress.external.equalization import equalize_onnx
from lepton_automl.compress.external.graph_process import (
    LimitedStopwatch,
    equalize_graph,
    graph_cost,
    predict_file,
    quantize_graph,
)
from lepton_automl.compress.external.static_quantization import quantize_onnx
from lepton_automl.core.limited_process import Message
from lepton_automl.cost.onnx_cost import onnx_cost
from lepton_automl.errors import DataError
from lepton_automl.models import onnx_file
from tests.compress.test_external_interface import wrap
from tests.helpers import external_models as models
from tests.helpers import hostile_graphs as graphs

WHITE = np.full((4, *graphs.SHAPE), 255, np.uint8)
HOSTILE = "constant sized by pixels"
"""Takes as much memory as the pixels of a picture say: hardly any for a black one."""


def test_what_the_child_process_computes_is_what_the_functions_do() -> None:
    file = wrap(models.uneven(2.5, seed=3)).file
    pixels, _ = models.pictures(40, seed=4)
    how = (64, True, ["softmax"], [])
    quantized = quantize_graph(file, pixels, *how)
    assert quantized == quantize_onnx(file, pixels, *how)
    assert equalize_graph(file, pixels) == equalize_onnx(file, pixels) != file
    assert graph_cost(quantized, 1) == onnx_cost(quantized, 1)
    session = onnx_file.open_session(quantized)
    assert np.array_equal(
        predict_file(quantized, pixels), onnx_file.predict_probabilities(session, pixels)
    )
    watch = LimitedStopwatch((*pixels.shape[1:3], 1))
    found = watch.measure({"float": file, "int8": quantized}, rounds=6, seconds=0.001)
    assert list(found) == ["float", "int8"]
    assert all(each.ratio > 0 and each.rounds == 6 for each in found.values())
    assert watch.quiet_reference_ms(rounds=2, seconds=0.001) > 0


def test_a_graph_that_floods_the_memory_for_some_pictures_is_refused(monkeypatch) -> None:
    file = graphs.content(HOSTILE)
    monkeypatch.setattr(graph_process, "_BASE_BYTES", 256 << 20)
    for call in (
        lambda: predict_file(file, WHITE),
        lambda: quantize_graph(file, WHITE, 64, False, [], []),
        lambda: LimitedStopwatch(graphs.SHAPE).measure({"it": file}),
    ):
        with pytest.raises(DataError, match=r"the model that was given.*of memory") as caught:
            call()
        assert "lepton wrote" not in caught.value.fix


@pytest.mark.parametrize(
    "fields",
    [
        {"do": "cost", "how": [1]},
        {"do": "quantize", "how": [64, False, [], []]},
        {"do": "equalize", "how": []},
        {"do": "measure", "how": [1, 0.0]},
    ],
    ids=lambda fields: fields["do"],
)
def test_a_malformed_graph_is_an_error_of_the_model(fields) -> None:
    content = graphs.content("cut off")
    rest = b"" if fields["do"] in {"cost", "measure"} else WHITE.tobytes()
    fields = fields | {"sizes": [len(content)], "shape": WHITE.shape}
    with pytest.raises(DataError, match="the model that was given cannot be quantized"):
        graph_process.answer(Message(fields, content + rest))


def test_memory_that_the_machine_lacks_is_not_the_models_fault(monkeypatch) -> None:
    def flooded(*_: object) -> Message:
        raise MemoryError

    monkeypatch.setitem(graph_process._ANSWERS, "cost", flooded)
    with pytest.raises(MemoryError):
        graph_process.answer(Message({"do": "cost", "sizes": [], "how": []}))
