from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lepton_automl.cost.cost import static_cost
from lepton_automl.errors import SpaceError
from lepton_automl.models.graph import Linear
from lepton_automl.models.network import Network
from lepton_automl.search.space import loader
from lepton_automl.search.space.draw import RandomTrial


def test_a_known_net_is_small_enough_for_keyword_spotting():
    """At most 15 k parameters and 1.5 million multiply-accumulates for 1 s at 16 kHz."""
    space = loader.load("audio")
    assert space.kind == "audio"
    assert space.front_end.rate == 16_000
    assert 0.95 < space.front_end.window / 16_000 <= 1
    fit = []
    for params in space.candidates:
        arch = space.example_arch(RandomTrial(0, params))
        assert arch.front_end == space.front_end
        weighted = arch.graph.weighted_ops
        parameters = sum(op.weight_shape[0] for op in weighted)
        for op in weighted:
            size = 1
            for n in op.weight_shape:
                size *= n
            parameters += size
            assert isinstance(op, Linear) or len(op.weight_shape) == 4
        cost = static_cost(arch, 64)
        assert cost.size_bytes < 100_000
        fit.append(parameters <= 15_000 and cost.macs <= 1_500_000)
    assert fit[0]  # The one that is always tried.


def test_random_nets_are_as_small_too_and_are_counted_as_torch_counts_them():
    space = loader.load("audio")
    inside = 0
    for seed in range(60):
        arch = space.example_arch(RandomTrial(seed))
        net = Network(arch.graph, folded=True).eval()
        height, width, channels = arch.input
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(torch.zeros(1, channels, height, width))
        assert 2 * arch.graph.macs == counter.get_total_flops()
        parameters = sum(each.numel() for each in net.parameters())
        inside += parameters <= 15_000 and arch.graph.macs <= 1_500_000
    assert inside >= 2


@pytest.mark.parametrize(
    "inputs",
    ['kind = "video"', 'kind = "audio", resolution = 32', 'kind = "audio", example = [49, 40, 3]'],
)
def test_a_space_of_another_kind_is_refused(tmp_path, inputs):
    path = tmp_path / "own.toml"
    path.write_text(
        f"input = {{ {inputs} }}\nstem.out = 8\n[[stage]]\nlayer = 'conv'\nout = 8\n"
        "[train]\noptimizer = 'sgd'\n"
    )
    with pytest.raises(SpaceError, match=r"kind|example"):
        loader.load(path)
