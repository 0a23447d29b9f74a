"""BlendNet: a small U-Net that says for every pixel how much of each image to take, and what to add.

F = g V + (1 - g) I + r, with g in 0..1 and r in -1/2..1/2 from one U-Net. Where r is 0 the result lies between both
images, so levels are kept: a flat pair stays flat. The network works on 2 x 2 pixels at a time (as channels), so its
maps have a quarter of the pixels. Borders are replicated, so no frame shows.

Shapes: B batch, C channels, H height, W width. Images are grey, float, in [0, 1].
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusion.models.configs import BlendNetConfig

CELL = 2  # pixels on a side that become channels


class Fused(NamedTuple):
    """The output."""

    image: Tensor  # (B, 1, H, W)
    share: Tensor  # (B, 1, H, W), g: the share of the visible image


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution with replicated borders."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, padding_mode="replicate")


def layers(inputs: int, outputs: int) -> nn.Sequential:
    """Return two convolutions, each with a leaky ReLU behind it."""
    return nn.Sequential(conv(inputs, outputs), nn.LeakyReLU(0.1), conv(outputs, outputs), nn.LeakyReLU(0.1))


class BlendNet(nn.Module):
    """`forward(visible, infrared)` fuses pairs of any size; see the top of this file."""

    def __init__(self, config: BlendNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.first = layers(2 * CELL**2, widths[0])
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(
            nn.Sequential(conv(above, below, stride=2), nn.LeakyReLU(0.1), layers(below, below))
            for above, below in pairs
        )
        self.up = nn.ModuleList(nn.Conv2d(below, above, 1) for above, below in reversed(pairs))
        self.join = nn.ModuleList(layers(2 * above, above) for above, _ in reversed(pairs))
        self.last = conv(widths[0], 2 * CELL**2)
        with torch.no_grad():  # training starts near the average
            self.last.weight.mul_(0.1)
        self.to(memory_format=torch.channels_last)

    def forward(self, visible_B1HW: Tensor, infrared_B1HW: Tensor) -> Fused:
        """(B, 1, H, W) twice -> (B, 1, H, W)."""
        height, width = visible_B1HW.shape[-2:]
        multiple = CELL * 2 ** len(self.down)
        pair_B2HW = torch.cat([visible_B1HW, infrared_B1HW], 1)
        pair_B2HW = F.pad(pair_B2HW, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        x = self.first(F.pixel_unshuffle(pair_B2HW - 0.5, CELL).contiguous(memory_format=torch.channels_last))
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for up, join, skip in zip(self.up, self.join, reversed(skips), strict=True):
            x = join(torch.cat([F.interpolate(up(x), scale_factor=2.0, mode="nearest"), skip], 1))
        out_B2HW = F.pixel_shuffle(self.last(x), CELL)[..., :height, :width]
        share, rest = out_B2HW[:, :1].sigmoid(), out_B2HW[:, 1:].tanh() / 2
        return Fused(infrared_B1HW + share * (visible_B1HW - infrared_B1HW) + rest, share)
