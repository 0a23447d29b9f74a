"""Blocks of the restoration transformer (Zamir et al. 2022): attention over channels, gated feed-forward, samplers.

Feature maps are kept with channels last in memory, where norms, 1x1 and depth-wise convolutions are several times
faster on a CPU and heads and tokens are views.

Shapes: B batch, C channels, H height, W width, G heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusion.models import onednn
from fusion.models.strips import Strip, strips

# Without gradients, a feature map of more pixels than this goes through a block in strips of rows: the same sums, those
# of the attention in another order, a fraction of the memory, and faster on a CPU.
WHOLE_PIXELS = 512 * 512
STRIP_PIXELS = 32 * 1024


def conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Conv2d:
    """Return a convolution of unchanged size without bias."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)


def _strips(x_BCHW: Tensor) -> Iterator[Strip]:
    batch, _, height, width = x_BCHW.shape
    return strips(height, max(STRIP_PIXELS // (batch * width), 1))


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of every pixel, with scale and bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x_BHWC = x_BCHW.permute(0, 2, 3, 1)
        return F.layer_norm(x_BHWC, (x_BHWC.shape[-1],), self.weight, self.bias).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """MDTA: attention between channels, so its cost grows with the pixels and not with their square.

    Parts have the names of the published network.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = conv(channels, 3 * channels, 1)
        self.qkv_dwconv = conv(3 * channels, 3 * channels, 3, groups=3 * channels)
        self.project_out = conv(channels, channels, 1)

    def _heads(self, t: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H W, G, C / G); with channels last in memory, only a view."""
        return t.permute(0, 2, 3, 1).reshape(t.shape[0], -1, self.heads, t.shape[1] // self.heads)

    def _part(self, x_BCHW: Tensor, first: int, last: int) -> Tensor:
        """Channels `first` to `last` of q, k and v alone."""
        part = F.conv2d(x_BCHW, self.qkv.weight[first:last])
        return F.conv2d(part, self.qkv_dwconv.weight[first:last], padding=1, groups=last - first)

    def _weigh(self, scores_BGcd: Tensor, squares_q_BGc: Tensor, squares_k_BGd: Tensor) -> Tensor:
        """_Products of q and k -> attention; dividing by the norms normalises q and k without two more maps."""
        norms = _root(squares_q_BGc)[..., None] * _root(squares_k_BGd)[..., None, :]
        return (scores_BGcd / norms * self.temperature).softmax(dim=-1)

    def _mix(self, attention_BGcd: Tensor, v_BCHW: Tensor) -> Tensor:
        mixed = torch.einsum("bgcd,bpgd->bpgc", attention_BGcd.to(v_BCHW.dtype), self._heads(v_BCHW))
        y_BCHW: Tensor = self.project_out(mixed.reshape(v_BCHW.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2))
        return y_BCHW

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W), normed -> (B, C, H, W)."""
        q, k, v = self.qkv_dwconv(self.qkv(x_BCHW)).chunk(3, dim=1)
        q, k = self._heads(q), self._heads(k)
        return self._mix(self._weigh(*_products(q, k)), v)

    def attention(self, x_BCHW: Tensor, norm: nn.Module) -> Tensor:
        """Return the attention of norm(x), summed up strip by strip: (B, C, H, W) -> (B, G, C / G, C / G)."""
        channels = x_BCHW.shape[1]
        total: _Products | None = None
        for _, wide, inside in _strips(x_BCHW):
            q, k = self._part(norm(x_BCHW[:, :, wide]), 0, 2 * channels)[:, :, inside].chunk(2, dim=1)
            q, k = self._heads(q), self._heads(k)
            sums = _products(q, k)
            total = sums if total is None else _Products(*(a + b for a, b in zip(total, sums, strict=True)))
        assert total is not None  # an image has a row
        return self._weigh(*total)

    def strip(self, normed_BCHW: Tensor, attention_BGcd: Tensor, inside: slice) -> Tensor:
        """Return what `forward` gives for the rows `inside` of a normed strip."""
        channels = normed_BCHW.shape[1]
        return self._mix(attention_BGcd, self._part(normed_BCHW, 2 * channels, 3 * channels)[:, :, inside])


class _Products(NamedTuple):
    """Sums over pixels: of the channels of q times those of k, and of the squares of each."""

    scores_BGcd: Tensor
    squares_q_BGc: Tensor
    squares_k_BGd: Tensor


def _products(q: Tensor, k: Tensor) -> _Products:
    """(B, P, G, c) twice -> their products over the P pixels."""
    wide = torch.promote_types(q.dtype, torch.float32)
    # sums of squares are five times faster on a CPU than vector_norm over a strided axis
    squares_q, squares_k = (t.square().sum(dim=1, dtype=wide) for t in (q, k))
    return _Products(torch.einsum("bpgc,bpgd->bgcd", q, k).to(wide), squares_q, squares_k)


def _root(squares: Tensor) -> Tensor:
    """Clamped first: a root has no gradient at 0."""
    return squares.clamp_min(1e-24).sqrt()


class FeedForward(nn.Module):
    """GDFN: gelu(a) * b, both from a 1x1 and a depth-wise 3x3 convolution, then back by 1x1.

    Parts have the names of the published network.
    """

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.hidden = hidden
        self.project_in = conv(channels, 2 * hidden, 1)
        self.dwconv = conv(2 * hidden, 2 * hidden, 3, groups=2 * hidden)
        self.project_out = conv(hidden, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W), normed -> (B, C, H, W)."""
        a, b = self.dwconv(self.project_in(x_BCHW)).chunk(2, dim=1)
        y_BCHW: Tensor = self.project_out(F.gelu(a) * b)
        return y_BCHW


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, channels: int, heads: int, expansion: float) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        self.attention = Attention(channels, heads)
        self.norm2 = ChannelNorm(channels)
        self.feed_forward = FeedForward(channels, expansion)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); large maps without gradients go through in strips."""
        if onednn.can_run(x_BCHW):
            return onednn.run_block(x_BCHW, self._weights())
        if not torch.is_grad_enabled() and x_BCHW[:, 0].numel() > WHOLE_PIXELS:
            return self._in_strips(x_BCHW)
        x_BCHW = x_BCHW + self.attention(self.norm1(x_BCHW))
        y_BCHW: Tensor = x_BCHW + self.feed_forward(self.norm2(x_BCHW))
        return y_BCHW

    def _weights(self) -> onednn.BlockWeights:
        a, f = self.attention, self.feed_forward
        attention = (
            self.norm1.weight,
            self.norm1.bias,
            a.temperature,
            *(m.weight for m in (a.qkv, a.qkv_dwconv, a.project_out)),
        )
        feed_forward = (
            self.norm2.weight,
            self.norm2.bias,
            *(m.weight for m in (f.project_in, f.dwconv, f.project_out)),
        )
        return onednn.BlockWeights(*attention, *feed_forward)

    def _in_strips(self, x_BCHW: Tensor) -> Tensor:
        attention = self.attention.attention(x_BCHW, self.norm1)
        middle, result = torch.empty_like(x_BCHW), torch.empty_like(x_BCHW)
        for rows, wide, inside in _strips(x_BCHW):
            change = self.attention.strip(self.norm1(x_BCHW[:, :, wide]), attention, inside)
            torch.add(x_BCHW[:, :, rows], change, out=middle[:, :, rows])
        for rows, wide, inside in _strips(x_BCHW):
            change = self.feed_forward(self.norm2(middle[:, :, wide]))[:, :, inside]
            torch.add(middle[:, :, rows], change, out=result[:, :, rows])
        return result


def blocks(count: int, channels: int, heads: int, expansion: float) -> nn.Sequential:
    """Return `count` blocks, one after the other."""
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
        resized = F.interpolate(mixed, x_BCHW.shape[-2:], mode="bilinear", align_corners=False)
        prompt_BCHW: Tensor = self.smooth(resized)
        return prompt_BCHW
