"""What networks cost: the paper's Table VI, and multiply-adds counted by hand and by running the network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fusion.models.aenet import AENet
from fusion.models.configs import AENetConfig, MoEFusionConfig
from fusion.models.costs import NETWORKS, count_costs, count_multiply_adds
from fusion.models.moefusion import MoEFusion
from fusion.models.tgecnet import TGECNet
from fusion.training.recipes import TINY

# parameters, FLOPs of Table VI (parameters x 400 x 400), multiply-adds a pixel by hand: 9 x in x out / groups
PAPER = {
    "gcb": (5_378, 860_480_000, 9 * (6 * 64 + 64 * 64 // 32 + 64)),
    "cnn": (41_154, 6_584_640_000, 9 * (6 * 64 + 64 * 64 + 64)),
    "plain": (1_537, 245_920_000, 9 * (6 * 24 + 24)),
}


@pytest.mark.parametrize("block", PAPER)
def test_table_vi(block):
    name = f"AE-Netv2 {block}"
    (cost,) = count_costs({name: NETWORKS[name]})
    parameters, flops, a_pixel = PAPER[block]
    assert (cost.network, cost.parameters, cost.parameters_x_pixels) == (name, parameters, flops)
    assert cost.multiply_adds == a_pixel * 400 * 400


def test_every_block_is_there_and_pool_works_at_lower_sizes():
    costs = {cost.network: cost for cost in count_costs({n: NETWORKS[n] for n in NETWORKS if "AE" in n}, (64, 64))}
    assert len(costs) == 10
    for name, cost in costs.items():
        ratio = cost.multiply_adds / cost.parameters_x_pixels
        assert 0.15 < ratio < 0.25 if name.endswith("pool") else 0.95 < ratio < 1


MODELS = {
    "restore": (TGECNet, replace(TINY, stage="restore"), 1),
    "fuse": (TGECNet, replace(TINY, stage="fuse"), 2),
    "moefusion": (MoEFusion, MoEFusionConfig(width=8, decoder_widths=(24, 12, 8), grid=(6, 8)), 2),
    "gcb": (AENet, AENetConfig(), 2),
}


@pytest.mark.parametrize("name", MODELS)
def test_zeros_cost_what_the_products_do(name):
    """Every product computed, on noise, by random weights: the same number, and the network is left as it was."""
    network, config, count = MODELS[name]
    torch.manual_seed(0)
    model = network(config).train()
    images = [torch.rand(1, 1, 40, 56) for _ in range(count)]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(*images)
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert count_multiply_adds(model, *images) == counter.get_total_flops() // 2 > 0
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_products_that_a_network_may_make():
    class All(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.linear = nn.ConvTranspose2d(2, 3, 2, stride=2), nn.Linear(5, 7)

        def forward(self, x_12HW):
            flat = self.up(x_12HW).flatten()[: 8 * 5].reshape(8, 5)
            return torch.einsum("ab,cb->ac", self.linear(flat), self.linear(flat))

    products = 4 * 4 * 2 * 3 * 2 * 2 + 2 * 8 * 5 * 7 + 8 * 8 * 7
    assert count_multiply_adds(All(), torch.zeros(1, 2, 4, 4)) == products


def test_the_mixtures_run_a_part_of_their_weights():
    """Of TG-ECNet's experts K of N run, on every pixel; of MoE-Fusion's on every image."""
    dense, sparse = (replace(TINY, stage="restore", experts=4, top_k=k) for k in (4, 1))
    image = torch.zeros(1, 1, 32, 32)
    assert count_multiply_adds(TGECNet(sparse), image) < count_multiply_adds(TGECNet(dense), image)
    full, one = (MoEFusion(MoEFusionConfig(top_k=k)) for k in (4, 1))
    assert 2 * count_multiply_adds(one, image, image) < count_multiply_adds(full, image, image)
