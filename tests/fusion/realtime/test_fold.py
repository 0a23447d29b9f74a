"""Folding is exact: every block, every size, borders and corners, against the network itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fusion.models.aenet import BLOCKS
from fusion.realtime.fold import LINEAR, Folded, collapse, dense, without_norms
from tests.helpers.aenets import apart, pair, trained

SIZES = [(1, 1), (1, 2), (2, 1), (2, 2), (1, 9), (9, 1), (3, 5), (16, 16), (37, 53)]


@pytest.mark.parametrize("block", BLOCKS)
def test_folded_equals_the_network(block):
    model = trained(block)
    folded = Folded(model)
    assert (folded.kernel is not None) == (block in LINEAR)
    alive = []
    for size in SIZES:
        images = pair(2, size)
        expected = model(*images).image
        alive.append(expected)
        assert apart(folded(*images).image, expected) < 1e-5, size
    assert (alive[-1] > 0).float().mean() > 0.8  # not equal because all is zero


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gcb_at_the_papers_width_before_its_relu(seed):
    """Where the ReLU hides nothing: a large bias keeps every pixel positive."""
    model = trained(width=64, seed=seed)
    model.head[1].bias.fill_(20)
    for size in [(1, 1), (2, 2), (3, 5), (20, 31)]:
        images = pair(2, size)
        expected = model(*images).image
        assert expected.min() > 0
        assert apart(Folded(model)(*images).image, expected) < 2e-5


def test_the_borders_need_their_surplus_taken_off():
    """The 5x5 convolution alone is right inside and wrong on the outermost pixels."""
    model = trained()
    folded, images = Folded(model), pair(1, (12, 14))
    expected = model(*images).image
    alone = F.relu(folded.kernel(F.relu(folded.stem(torch.cat(list(images), 1)))))
    assert apart(alone[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1]) < 1e-5
    ring = torch.ones(12, 14, dtype=torch.bool)
    ring[1:-1, 1:-1] = False
    assert ((alone - expected).abs()[0, 0][ring] > 1e-3).float().mean() > 0.5


@pytest.mark.parametrize("block", LINEAR)
def test_the_collapsed_kernel_is_the_impulse_response(block):
    model = trained(block).double()
    weight, bias = dense(model.block, 16)
    x = torch.randn(1, 16, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(F.conv2d(x, weight, bias, padding=1), model.block(x))
    head = without_norms(model.head)[0]
    kernel = collapse(weight, bias, head)
    inside = head(x + model.block(x))[..., 2:-2, 2:-2]
    torch.testing.assert_close(kernel(x)[..., 2:-2, 2:-2], inside)


def test_the_model_stays_as_it_was_and_is_not_shared():
    model = trained().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = Folded(model)
    for parameter in folded.parameters():
        assert parameter.dtype == torch.float32 and not parameter.requires_grad
        parameter.zero_()
    assert model.training and all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_half_the_work():
    """2 x 9 x 64 + 25 x 64 weights are what is left to multiply by a pixel."""
    folded = Folded(trained(width=64))
    assert folded.stem.weight.numel() + folded.kernel.weight.numel() == 1_152 + 1_600
