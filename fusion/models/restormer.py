"""Blocks of the restoration transformer (Zamir et al. 2022): attention over channels, gated feed-forward, samplers.

Feature maps are kept with channels last in memory, where norms, 1x1 and depth-wise convolutions are several times
faster on a CPU and heads and tokens are views.

Shapes: B batch, C channels, H height, W width, G heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Without gradients, a feature map of more pixels than this goes through the wide layers in slices of channels:
# the same sums in another order, a third of the memory.
SLICE_PIXELS = 512 * 512
SLICE_CHANNELS = 64


def conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Conv2d:
    """A convolution of unchanged size without bias."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)


def _in_slices(x: Tensor) -> bool:
    return not torch.is_grad_enabled() and x.shape[0] * x.shape[2] * x.shape[3] > SLICE_PIXELS


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of every pixel, with scale and bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BHWC = x_BCHW.permute(0, 2, 3, 1)
        return F.layer_norm(x_BHWC, (x_BHWC.shape[-1],), self.weight, self.bias).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """MDTA: attention between channels, so its cost grows with the pixels and not with their square."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = conv(channels, 3 * channels, 1)
        self.spread = conv(3 * channels, 3 * channels, 3, groups=3 * channels)
        self.project = conv(channels, channels, 1)

    def _third(self, x: Tensor, i: int) -> Tensor:
        """q, k or v alone."""
        c = x.shape[1]
        part = F.conv2d(x, self.qkv.weight[i * c : (i + 1) * c])
        return F.conv2d(part, self.spread.weight[i * c : (i + 1) * c], padding=1, groups=c)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        batch, channels, height, width = x_BCHW.shape
        sliced = _in_slices(x_BCHW)
        if sliced:
            q, k, v = self._third(x_BCHW, 0), self._third(x_BCHW, 1), None
        else:
            q, k, v = self.spread(self.qkv(x_BCHW)).chunk(3, dim=1)

        def heads(t: Tensor) -> Tensor:  # (B, H W, G, C / G); with channels last in memory, only a view
            return t.permute(0, 2, 3, 1).reshape(batch, height * width, self.heads, channels // self.heads)

        q, k = heads(q), heads(k)
        # Dividing the products by the norms is normalising q and k first, without two more maps.
        scores = torch.einsum("bpgc,bpgd->bgcd", q, k).float()
        scores = scores / _norms(q)[..., None] / _norms(k)[..., None, :]
        attention = (scores * self.temperature).softmax(dim=-1)
        if v is None:
            del q, k
            v = self._third(x_BCHW, 2)
        mixed = torch.einsum("bgcd,bpgd->bpgc", attention.to(v.dtype), heads(v))
        return self.project(mixed.reshape(batch, height, width, channels).permute(0, 3, 1, 2))


def _norms(t: Tensor) -> Tensor:
    """Length of each channel over the pixels: (B, P, G, c) -> (B, G, c), in float32."""
    # Five times faster on a CPU than vector_norm over a strided axis. Clamped first: a root has no gradient at 0.
    return t.square().sum(dim=1, dtype=torch.promote_types(t.dtype, torch.float32)).clamp_min(1e-24).sqrt()


class FeedForward(nn.Module):
    """GDFN: gelu(a) * b, both from a 1x1 and a depth-wise 3x3 convolution, then back by 1x1."""

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.hidden = hidden
        self.enter = conv(channels, 2 * hidden, 1)
        self.spread = conv(2 * hidden, 2 * hidden, 3, groups=2 * hidden)
        self.leave = conv(hidden, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not _in_slices(x_BCHW):
            a, b = self.spread(self.enter(x_BCHW)).chunk(2, dim=1)
            return self.leave(F.gelu(a) * b)
        total: Tensor | None = None
        for start in range(0, self.hidden, SLICE_CHANNELS):
            end = min(start + SLICE_CHANNELS, self.hidden)

            def half(first: int, last: int) -> Tensor:
                entered = F.conv2d(x_BCHW, self.enter.weight[first:last])
                return F.conv2d(entered, self.spread.weight[first:last], padding=1, groups=last - first)

            gated = F.gelu(half(start, end)).mul_(half(self.hidden + start, self.hidden + end))
            part = F.conv2d(gated, self.leave.weight[:, start:end])
            total = part if total is None else total.add_(part)
        return total


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, channels: int, heads: int, expansion: float) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        self.attention = Attention(channels, heads)
        self.norm2 = ChannelNorm(channels)
        self.feed_forward = FeedForward(channels, expansion)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = x_BCHW + self.attention(self.norm1(x_BCHW))
        return x_BCHW + self.feed_forward(self.norm2(x_BCHW))


def blocks(count: int, channels: int, heads: int, expansion: float) -> nn.Sequential:
    return nn.Sequential(*(Block(channels, heads, expansion) for _ in range(count)))


class Down(nn.Sequential):
    """Half the size, twice the channels: 3x3 convolution to C / 2, then 2x2 pixels into channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(conv(channels, channels // 2, 3), nn.PixelUnshuffle(2))


class Up(nn.Sequential):
    """Twice the size, half the channels: 3x3 convolution to 2 C, then channels into 2x2 pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__(conv(channels, 2 * channels, 3), nn.PixelShuffle(2))


class PromptBank(nn.Module):
    """Learned maps, mixed by what the features say, resized to them: tells a decoder level what to undo."""

    def __init__(self, channels: int, bank_channels: int, bank_size: int, maps: int) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.rand(maps, bank_channels, bank_size, bank_size))
        self.choose = nn.Linear(channels, maps)
        self.smooth = conv(bank_channels, bank_channels, 3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, bank channels, H, W)."""
        weight_BM = self.choose(x_BCHW.mean(dim=(2, 3))).softmax(dim=1)
        mixed = torch.einsum("bm,mchw->bchw", weight_BM, self.maps.to(weight_BM.dtype))
        return self.smooth(F.interpolate(mixed, x_BCHW.shape[-2:], mode="bilinear", align_corners=False))
