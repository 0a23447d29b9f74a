"""A block of the restoration transformer on a CPU without gradients: strips of rows that stay in the cache.

PyTorch's own operations write every map of a block to memory: of 24 channels the feed-forward makes three maps of 126.
Here a strip of rows goes through all of them, by oneDNN's convolutions, which take in the GELU or the sum that follows.
The sums are the same in another order: results differ by rounding, about 1e-6.

The operations are those that PyTorch's compiler calls; where a build lacks them `can_run` says so.

Shapes: B batch, C channels, H height, W width, F hidden channels of the feed-forward, G heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.models.strips import Strip, strips

STRIP_PIXELS = 12 * 1024  # for each thread: with CHANNELS float32 values a pixel it stays in the cache of a core
CHANNELS = 64  # hidden channels at a time
ALIGN = 16  # float32 values of a register; hidden channels are padded with zeros to a multiple

AVAILABLE = torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]  # torch's own
    hasattr(torch.ops.mkldnn, name) for name in ("_convolution_pointwise", "_convolution_pointwise_")
)


class BlockWeights(NamedTuple):
    """The parameters of a block. Names and shapes are those of `restormer.Block`."""

    norm1_weight_C: Tensor
    norm1_bias_C: Tensor
    temperature_G11: Tensor
    qkv: Tensor  # (3 C, C, 1, 1)
    qkv_dwconv: Tensor  # (3 C, 1, 3, 3)
    attention_out: Tensor  # (C, C, 1, 1)
    norm2_weight_C: Tensor
    norm2_bias_C: Tensor
    project_in: Tensor  # (2 F, C, 1, 1)
    dwconv: Tensor  # (2 F, 1, 3, 3)
    project_out: Tensor  # (C, F, 1, 1)


def can_run(x_BCHW: Tensor) -> bool:
    """Whether `run_block` takes this map: float32 on a CPU, no gradients, no autocast, and the build has oneDNN."""
    return (
        AVAILABLE
        and x_BCHW.device.type == "cpu"
        and x_BCHW.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def run_block(x_BCHW: Tensor, weights: BlockWeights) -> Tensor:
    """Return x + attention(norm(x)), then that + feed-forward(norm(that)): (B, C, H, W), channels last in memory."""
    x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(x_BCHW)
    chunks = list(_chunks(weights))
    for i in range(x_BCHW.shape[0]):
        middle = _add_attention(x_BCHW[i : i + 1], weights)
        _add_feed_forward(middle, weights, chunks, out[i : i + 1])
    return out


def _strips(height: int, width: int) -> Iterator[Strip]:
    return strips(height, max(torch.get_num_threads() * STRIP_PIXELS // width, 1))


def _add_attention(x_1CHW: Tensor, w: BlockWeights) -> Tensor:
    """Attention between channels is a C x C matrix for the whole image: it and the last convolution are one product."""
    channels, height, width = x_1CHW.shape[1:]
    heads = w.temperature_G11.shape[0]
    values = torch.empty_like(x_1CHW)
    scores = squares = torch.zeros(())
    for strip in _strips(height, width):
        normed = _norm(x_1CHW[:, :, strip.wide], w.norm1_weight_C, w.norm1_bias_C)
        qkv = _depthwise(_pointwise(normed, w.qkv), w.qkv_dwconv)[0, :, strip.inside]
        values[0, :, strip.rows] = qkv[2 * channels :]
        qk_PC = qkv[: 2 * channels].permute(1, 2, 0).flatten(0, 1)
        q_PGc, k_PGc = torch.unflatten(qk_PC, 1, (2, heads, -1)).unbind(1)
        scores = scores + torch.einsum("pgc,pgd->gcd", q_PGc, k_PGc)
        squares = squares + qk_PC.square().sum(0)
    q_Gc, k_Gc = squares.clamp_min(1e-24).sqrt().view(2, heads, -1)
    attention_Gcd = (scores / (q_Gc[:, :, None] * k_Gc[:, None]) * w.temperature_G11).softmax(-1)
    out_CGc = torch.unflatten(w.attention_out[:, :, 0, 0], 1, (heads, -1))
    joint_CC = torch.einsum("ogc,gcd->ogd", out_CGc, attention_Gcd).flatten(1)
    return _pointwise_add(values, joint_CC[:, :, None, None], x_1CHW)


def _add_feed_forward(x_1CHW: Tensor, w: BlockWeights, chunks: list[_Chunk], out_1CHW: Tensor) -> None:
    """Write x + feed-forward(norm(x)) into `out`, some of the hidden channels at a time."""
    height, width = x_1CHW.shape[2:]
    for strip in _strips(height, width):
        normed = _norm(x_1CHW[:, :, strip.wide], w.norm2_weight_C, w.norm2_bias_C)
        total = x_1CHW[:, :, strip.rows]
        for chunk in chunks:
            gate = _depthwise(_pointwise(normed, chunk.gate_in), chunk.gate_dwconv, "gelu")
            gated = _depthwise(_pointwise(normed, chunk.value_in), chunk.value_dwconv).mul_(gate)
            total = _pointwise_add(gated[:, :, strip.inside], chunk.out, total)
        out_1CHW[:, :, strip.rows] = total


class _Chunk(NamedTuple):
    """The weights of f <= CHANNELS hidden channels: gelu(gate) * value."""

    gate_in: Tensor  # (f, C, 1, 1)
    gate_dwconv: Tensor  # (f, 1, 3, 3)
    value_in: Tensor
    value_dwconv: Tensor
    out: Tensor  # (C, f, 1, 1)


def _chunks(w: BlockWeights) -> Iterator[_Chunk]:
    hidden = w.project_out.shape[1]
    more = -hidden % ALIGN

    def pad(weight: Tensor) -> Tensor:
        return F.pad(weight, (0, 0, 0, 0, 0, 0, 0, more))

    halves = (half for weight in (w.project_in, w.dwconv) for half in torch.split(weight, hidden))
    gate_in, value_in, gate_dwconv, value_dwconv = (pad(half) for half in halves)
    out = F.pad(w.project_out, (0, 0, 0, 0, 0, more))
    for start in range(0, hidden, CHANNELS):
        part = slice(start, start + CHANNELS)
        inputs = (gate_in[part], gate_dwconv[part], value_in[part], value_dwconv[part])
        yield _Chunk(*inputs, out[:, part].contiguous())


def _norm(x_1CHW: Tensor, weight_C: Tensor, bias_C: Tensor) -> Tensor:
    x_1HWC = x_1CHW.permute(0, 2, 3, 1)
    return F.layer_norm(x_1HWC, weight_C.shape, weight_C, bias_C).permute(0, 3, 1, 2)


def _pointwise(x_1CHW: Tensor, weight: Tensor) -> Tensor:
    """1x1 convolution. PyTorch's own takes a slow way for it on one thread."""
    convolve = torch.ops.mkldnn._convolution_pointwise
    y: Tensor = convolve(x_1CHW, weight, None, [0, 0], [1, 1], [1, 1], 1, "none", [], None)
    return y


def _pointwise_add(x_1CHW: Tensor, weight: Tensor, other: Tensor) -> Tensor:
    """1x1 convolution, plus `other`."""
    convolve = torch.ops.mkldnn._convolution_pointwise.binary
    y: Tensor = convolve(x_1CHW, other, weight, None, [0, 0], [1, 1], [1, 1], 1, "add", None, None, [], None)
    return y


def _depthwise(x_1CHW: Tensor, weight: Tensor, activation: str = "none") -> Tensor:
    """3x3 convolution of every channel, then "gelu" (with the error function) or "none"."""
    convolve = torch.ops.mkldnn._convolution_pointwise
    kind = "none" if activation == "gelu" else None
    y: Tensor = convolve(x_1CHW, weight, None, [1, 1], [1, 1], [1, 1], weight.shape[0], activation, [], kind)
    return y
