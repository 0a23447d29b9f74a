"""BlendNet: sizes, levels, borders."""

import pytest
import torch

from fusion.errors import UserError
from fusion.models.blendnet import BlendNet
from fusion.models.configs import BlendNetConfig


@pytest.fixture
def network():
    torch.manual_seed(0)
    return BlendNet(BlendNetConfig((8, 12))).eval()


def test_number_of_parameters():
    assert sum(p.numel() for p in BlendNet(BlendNetConfig()).parameters()) == 135_248


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (33, 64), (64, 64)])
def test_any_size(network, size):
    pair = torch.rand(2, 2, 1, *size).unbind()
    fused = network(*pair)
    assert fused.image.shape == fused.share.shape == pair[0].shape
    assert ((fused.share >= 0) & (fused.share <= 1)).all()


def test_a_flat_pair_shows_no_border(network):
    with torch.no_grad():
        image = network(*torch.full((2, 1, 1, 40, 56), 0.3).unbind()).image
    cells = image.unfold(2, 2, 2).unfold(3, 2, 2)  # what is the same for every cell is no border
    assert (cells - cells[:, :, :1, :1]).abs().max() < 1e-5


def test_every_parameter_learns(network):
    network(*torch.rand(2, 1, 1, 32, 32).unbind()).image.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("widths", [(), (0, 4)])
def test_widths_must_be_positive(widths):
    with pytest.raises(UserError, match="widths"):
        BlendNetConfig(widths)
