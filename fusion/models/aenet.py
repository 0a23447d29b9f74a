"""AE-Netv2 (Fang et al., 2020): a tiny network that fuses any two grey images, and the variants of its paper.

    P = C2( f + R(f) ),  f = C1(x)

x is both images, each replicated to three channels; C1 3x3 6 -> 64 and C2 3x3 64 -> 1 are convolution (no bias), batch
norm, ReLU; R is the block that the variants replace. Where R does not give 64 channels, and for `plain`, nothing
is added: P = C2( R(f) ). No code was published; "how sure" says what a row rests on.

| block         | in the paper    | R, for a width of 64                                      | weights | how sure    |
|---------------|-----------------|-----------------------------------------------------------|---------|-------------|
| gcb           | GCB, AE-Netv2   | 3x3 in 32 groups with bias, channel shuffle; no BN, ReLU  |   5,378 | exact       |
| cnn           | CNN, "+"        | 3x3 without bias, BN, ReLU                                |  41,154 | exact       |
| separable     | Separable       | depth-wise 3x3, then 1x1, with biases; nothing between    |   8,962 | good        |
| squeeze       | Squeeze         | fire(42; 32, 32): one fire, as it takes the time of       |  20,396 | open: near  |
|               |                 | Squeeze + GCB; 42 meets the 0.25 MB of the paper          |         |             |
| squeeze_gcb   | Squeeze + GCB   | fire(16; 32, 32), its 3x3 in 16 groups and shuffled       |   6,066 | plausible   |
| squeeze2_gcb  | Squeeze2 + GCB  | two of those                                              |   7,970 | plausible   |
| inception     | Inception       | 1x1, 3x3, 5x5 of 32 each, bias, BN, ReLU, concatenated    |  76,418 | plausible   |
| gcb_inception | GCB + Inception | the same with bias only, 3x3 and 5x5 in 32 groups         |   8,770 | plausible   |
| pool          | M               | U-Net of fires(16; n, n): max-pool, n = 32, 64, 128 down  |  73,762 | near: 0.896 |
|               |                 | the sizes; up-sampling and skip, n = 64, 32, 16 back up   |         | MB          |
| plain         | "++"            | none; C1 6 -> 24 and C2 24 -> 1 with biases, no BN        |   1,537 | weak        |

fire(s; m, n): 1x1 to s channels, then 1x1 to m and 3x3 to n concatenated, with biases, ReLU after each [inferred: as
in SqueezeNet]. "MB" in the paper are those of a checkpoint with Adam's two moments, 12 bytes a parameter. The pool
block's skips are concatenations, its pools round up, its up-sampling repeats pixels to the size of the skip [ours].
C2's batch norm starts at a mean of 0.5 and a deviation of 0.2 (`plain`: at a bias of 0.5): else the last ReLU starts
with half of the image, or all of it, without a gradient [ours].

Shapes: B batch, C channels, H height, W width. Images are grey, float, in [0, 1]; the fused image is at least 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusion.models.configs import AENetConfig


class Fused(NamedTuple):
    """The output of the network."""

    image: Tensor  # (B, 1, H, W)


def conv(inputs: int, outputs: int, size: int = 3, groups: int = 1, bias: bool = True) -> nn.Conv2d:
    """Return a `size` x `size` convolution that keeps the height and width."""
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=bias)


def regular(inputs: int, outputs: int, size: int = 3, bias: bool = False) -> nn.Sequential:
    """Return convolution, batch norm and ReLU, of the same height and width."""
    return nn.Sequential(conv(inputs, outputs, size, bias=bias), nn.BatchNorm2d(outputs), nn.ReLU())


class Shuffle(nn.Module):
    """Channel c of group g becomes channel g of "group" c: the next grouped convolution sees every group."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return torch.unflatten(x_BCHW, 1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class Fire(nn.Module):
    """fire(squeeze; expand, expand) -> 2 * expand channels; `groups` of its 3x3 convolution, then shuffled."""

    def __init__(self, inputs: int, squeeze: int, expand: int, groups: int = 1) -> None:
        super().__init__()
        self.squeeze = conv(inputs, squeeze, 1)
        self.point = conv(squeeze, expand, 1)
        self.window = nn.Sequential(conv(squeeze, expand, groups=groups), Shuffle(groups))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 2 * expand, H, W)."""
        x = F.relu(self.squeeze(x_BCHW))
        return F.relu(torch.cat([self.point(x), self.window(x)], 1))


class Inception(nn.Module):
    """Windows of 1, 3 and 5 pixels side by side: 3/2 of the channels that go in."""

    def __init__(self, width: int, grouped: bool) -> None:
        super().__init__()
        half = width // 2
        if grouped:
            self.windows = nn.ModuleList(conv(width, half, size, half if size > 1 else 1) for size in (1, 3, 5))
        else:
            self.windows = nn.ModuleList(regular(width, half, size, bias=True) for size in (1, 3, 5))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, 3 * width / 2, H, W)."""
        return torch.cat([window(x_BCHW) for window in self.windows], 1)


class Pool(nn.Module):
    """A U-Net of six fires over sizes 1/2, 1/4 and 1/8, for images of any size: half of the channels that go in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        down, up = (width // 2, width, 2 * width), (width, width // 2, width // 4)
        entries = (width, *(2 * n for n in down[:2]))
        self.down = nn.ModuleList(Fire(i, width // 4, n) for i, n in zip(entries, down, strict=True))
        entries = (4 * width + 2 * width, 2 * width + width, width + width)
        self.up = nn.ModuleList(Fire(i, width // 4, n) for i, n in zip(entries, up, strict=True))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, width / 2, H, W)."""
        skips, x = [], x_BCHW
        for fire in self.down:
            skips.append(x)
            x = fire(F.max_pool2d(x, 2, ceil_mode=True))
        for fire, skip in zip(self.up, reversed(skips), strict=True):
            x = fire(torch.cat([F.interpolate(x, size=skip.shape[-2:]), skip], 1))
        return x


@dataclass(frozen=True)
class Block:
    """One row of the table: R for a width, its channels as multiples of the width, and whether f is added."""

    build: Callable[[int], nn.Module]
    out_ratio: float = 1
    residual: bool = True


def _gcb(width: int) -> nn.Module:
    return nn.Sequential(conv(width, width, groups=width // 2), Shuffle(width // 2))


def _fires(count: int) -> Callable[[int], nn.Module]:
    def build(width: int) -> nn.Module:
        return nn.Sequential(*(Fire(width, width // 4, width // 2, width // 4) for _ in range(count)))

    return build


BLOCKS: dict[str, Block] = {
    "gcb": Block(_gcb),
    "cnn": Block(lambda width: regular(width, width)),
    "separable": Block(lambda width: nn.Sequential(conv(width, width, groups=width), conv(width, width, 1))),
    "squeeze": Block(lambda width: Fire(width, round(width * 42 / 64), width // 2)),
    "squeeze_gcb": Block(_fires(1)),
    "squeeze2_gcb": Block(_fires(2)),
    "inception": Block(lambda width: Inception(width, grouped=False), out_ratio=1.5, residual=False),
    "gcb_inception": Block(lambda width: Inception(width, grouped=True), out_ratio=1.5, residual=False),
    "pool": Block(Pool, out_ratio=0.5, residual=False),
    "plain": Block(lambda width: nn.Identity(), residual=False),
}


class AENet(nn.Module):
    """`forward(first, second)` fuses pairs of grey images of any size; see the top of this file."""

    def __init__(self, config: AENetConfig) -> None:
        super().__init__()
        self.config = config
        block = BLOCKS[config.block]
        if config.block == "plain":
            width = 3 * config.width // 8
            self.stem = nn.Sequential(conv(6, width), nn.ReLU())
            last = conv(width, 1)
            self.head = nn.Sequential(last, nn.ReLU())
            assert last.bias is not None
            nn.init.constant_(last.bias, 0.5)
        else:
            width = config.width
            self.stem = regular(6, width)
            self.head = regular(int(width * block.out_ratio), 1)
            norm = self.head[1]
            assert isinstance(norm, nn.BatchNorm2d)
            nn.init.constant_(norm.weight, 0.2)
            nn.init.constant_(norm.bias, 0.5)
        self.block = block.build(width)
        self.residual = block.residual

    def forward(self, first_B1HW: Tensor, second_B1HW: Tensor) -> Fused:
        """(B, 1, H, W) twice -> (B, 1, H, W)."""
        both = [image.expand(-1, 3, -1, -1) for image in (first_B1HW, second_B1HW)]
        features = self.stem(torch.cat(both, 1))
        refined = self.block(features)
        return Fused(self.head(features + refined if self.residual else refined))
