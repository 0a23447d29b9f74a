"""AE-Netv2: counts of every variant, sizes, the formula of GCB, training, checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fusion import checkpoint, inference
from fusion.config import from_dict, to_dict
from fusion.errors import UserError
from fusion.models.aenet import BLOCKS, AENet, Shuffle
from fusion.models.configs import AENET_BLOCKS, AENetConfig
from fusion.models.registry import Model

COUNTS = {
    "gcb": 5_378,
    "cnn": 41_154,
    "separable": 8_962,
    "squeeze": 20_396,
    "squeeze_gcb": 6_066,
    "squeeze2_gcb": 7_970,
    "inception": 76_418,
    "gcb_inception": 8_770,
    "pool": 73_762,
    "plain": 1_537,
}
MEGABYTES = {"gcb": 0.069, "cnn": 0.49, "separable": 0.11, "squeeze": 0.25, "squeeze_gcb": 0.08, "squeeze2_gcb": 0.10}
MEGABYTES |= {"inception": 0.91, "gcb_inception": 0.11, "pool": 0.896}


def build(block="gcb", width=16, seed=0) -> AENet:
    torch.manual_seed(seed)
    return AENet(AENetConfig(block, width))


def pair(batch=2, size=(16, 20), seed=1):
    return torch.rand(2, batch, 1, *size, generator=torch.Generator().manual_seed(seed))


def test_every_block_is_counted():
    assert set(COUNTS) == set(BLOCKS)


@pytest.mark.parametrize("block", BLOCKS)
def test_parameters_are_those_of_the_paper(block):
    count = sum(parameter.numel() for parameter in AENet(AENetConfig(block)).parameters())
    assert count == COUNTS[block]
    if block in MEGABYTES:  # a checkpoint with Adam's moments: 12 bytes a parameter and some kilobytes of names
        assert count * 12e-6 == pytest.approx(MEGABYTES[block], abs=0.013)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (1, 40), (37, 51)])
def test_any_size(block, size):
    with torch.no_grad():
        image = build(block).eval()(*pair(2, size)).image
    assert image.shape == (2, 1, *size)
    assert torch.isfinite(image).all() and image.min() >= 0 and image.max() > 0


def test_gcb_is_the_formula_pixel_by_pixel():
    """P = ReLU(BN(C2(f + shuffle(grouped f)))), by hand: output channel k of R is (k % 2) of group k // 2, shuffled."""
    model = build().eval()
    first, second = pair(1)
    with torch.no_grad():
        x = torch.cat([first] * 3 + [second] * 3, 1)
        f = F.relu(model.stem[1](F.conv2d(x, model.stem[0].weight, padding=1)))
        grouped = model.block[0]
        parts = [
            F.conv2d(
                f[:, 2 * g : 2 * g + 2], grouped.weight[2 * g : 2 * g + 2], grouped.bias[2 * g : 2 * g + 2], padding=1
            )
            for g in range(8)
        ]
        shuffled = torch.cat([part[:, :1] for part in parts] + [part[:, 1:] for part in parts], 1)
        expected = F.relu(model.head[1](F.conv2d(f + shuffled, model.head[0].weight, padding=1)))
        torch.testing.assert_close(model(first, second).image, expected)
    assert model.stem[0].bias is None and model.head[0].bias is None and grouped.groups == 8


def test_shuffle_transposes_groups_and_is_undone_by_its_counterpart():
    x = torch.arange(12.0).view(1, 12, 1, 1)
    assert Shuffle(4)(x).flatten().tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]
    assert torch.equal(Shuffle(3)(Shuffle(4)(x)), x)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_parameter_gets_a_gradient_and_training_lowers_the_loss(block):
    model = build(block).train()
    images = pair(4, (24, 24))
    goal = images.mean(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for step in range(25):
        loss = F.l1_loss(model(*images).image, goal)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        if not step:
            without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
            assert without == []
        optimiser.step()
    assert losses[-1] < 0.7 * losses[0]
    with torch.no_grad():
        image = model.eval()(*images).image
        assert torch.isfinite(image).all()
        assert torch.equal(image, model(*images).image)
        # statistics that evaluation uses are those training saw: an image alone is as in its batch
        torch.testing.assert_close(model(*images[:, :1]).image, image[:1])


def test_the_same_seed_gives_the_same_network_and_image():
    one, other = build(seed=3).eval(), build(seed=3).eval()
    assert torch.equal(one(*pair()).image, other(*pair()).image)
    assert not torch.equal(one(*pair()).image, build(seed=4).eval()(*pair()).image)


def test_a_checkpoint_and_json_give_the_network_back(tmp_path):
    model = build("squeeze_gcb").train()
    model(*pair())
    checkpoint.save(tmp_path, "aenet", model, recipe={}, state={"epoch": 1})
    table = {"aenet": Model("AE-Netv2", AENetConfig, AENet, "")}
    loaded = checkpoint.load(tmp_path, "aenet", table).model
    assert loaded.config == model.config == from_dict(AENetConfig, to_dict(model.config), "here")
    assert torch.equal(loaded(*pair()).image, model.eval()(*pair()).image)
    visible = np.random.default_rng(0).integers(0, 256, (21, 30, 3), dtype=np.uint8)
    assert inference.fuse(loaded, visible, visible[..., 0]).shape == visible.shape


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"block": "resnet"}, "model.block is 'resnet'"), ({"width": 12}, "multiple of 8"), ({"width": 0}, "width is 0")],
)
def test_a_wrong_config_says_what_is_wrong(changes, words):
    with pytest.raises(UserError, match=words):
        AENetConfig(**changes)


def test_configs_know_the_blocks():
    assert tuple(BLOCKS) == AENET_BLOCKS
