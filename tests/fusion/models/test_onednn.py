"""Blocks in strips by oneDNN give what the plain operations give."""

import pytest
import torch

from fusion.models import onednn, restormer
from fusion.models.registry import MODELS
from fusion.training.recipes import recipe

pytestmark = pytest.mark.skipif(not onednn.AVAILABLE, reason="this build of PyTorch has no oneDNN")


def block(channels, heads, expansion=2.66):
    torch.manual_seed(0)
    made = restormer.Block(channels, heads, expansion)
    with torch.no_grad():
        made.attention.temperature.copy_(torch.rand(heads, 1, 1) + 0.5)
        for norm in (made.norm1, made.norm2):
            norm.weight.normal_(1, 0.3)
            norm.bias.normal_(0, 0.3)
    return made.to(memory_format=torch.channels_last)


def plain(network, *images):
    """What the network gives with gradients, so without strips."""
    with torch.enable_grad():
        return network(*images)


@pytest.mark.parametrize(
    ("channels", "heads", "expansion", "size"),
    [
        (12, 1, 2.66, (2, 13, 10)),  # 31 hidden channels, padded to 32
        (24, 2, 2.66, (1, 40, 7)),
        (16, 4, 9.0, (1, 9, 33)),  # 144 hidden channels, in three parts
        (8, 8, 0.2, (3, 1, 1)),  # one hidden channel, one pixel
    ],
)
@pytest.mark.parametrize("pixels", [1, 60, 10_000])
def test_same_as_plain_operations(channels, heads, expansion, size, pixels, monkeypatch):
    monkeypatch.setattr(onednn, "STRIP_PIXELS", pixels)
    network, x = block(channels, heads, expansion), torch.randn(size[0], channels, *size[1:])
    with torch.no_grad():
        assert onednn.can_run(x)
        torch.testing.assert_close(network(x), plain(network, x).detach(), rtol=2e-5, atol=2e-6)


def test_input_is_left_alone_and_any_layout_is_taken():
    network = block(8, 2)
    x = torch.randn(1, 16, 12, 11)[:, ::2]
    before = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(network(x), plain(network, x).detach(), rtol=2e-5, atol=2e-6)
    assert torch.equal(x, before)


def test_a_whole_network_is_the_same():
    model = MODELS["tgecnet"].build(recipe("tgecnet-fuse-tiny").model).eval()
    pair = torch.rand(2, 1, 1, 44, 52).unbind()
    expected = plain(model, *pair)
    with torch.inference_mode():
        fused = model(*pair)
    for name in ("image", "visible", "infrared"):
        torch.testing.assert_close(getattr(fused, name), getattr(expected, name).detach(), rtol=0, atol=2e-6)


def test_only_where_it_is_exact():
    x = torch.rand(1, 8, 4, 4)
    assert not onednn.can_run(x)  # gradients
    with torch.no_grad():
        assert onednn.can_run(x)
        assert not onednn.can_run(x.double())
        assert not onednn.can_run(x.to("meta"))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not onednn.can_run(x)
