"""A loss for fused images that keep both sources: edges, local detail, brightness.

What is kept of each source is measured apart, and the smaller of the two counts most (a soft minimum), image by image:
a copy of one source keeps nothing of the other.

Shapes: B batch, H height, W width, S = 2 sources (visible, infrared). Images are grey, in [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EDGE_NOISE = 0.02  # a Sobel difference of about one grey level, below which edges do not count
NOISE = 2.0 / 255**2  # variance of the visual noise of VIF
TONE_CELL = 16  # pixels on a side of the means whose brightness is compared
BRIGHTNESS = 0.7
SHARPNESS = 12.0  # of the soft minimum; the greater, the more the smaller one counts


def keep_both_terms(fused: Tensor, visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
    """Return the terms of BlendNet, scalars; images are (B, 1, H, W), H and W at least 32.

    "edges": 1 less the share of edges kept; "detail": 1 less the share of local detail; each the soft minimum over
    both sources. "tone": how far local means leave those of both sources, and a little how far they are from a bright
    mean of them. "range": how far values leave 0..1.
    """
    sources = torch.cat([visible, infrared], 1)
    return {
        "edges": 1 - soft_minimum(edges_kept(fused, sources)).mean(),
        "detail": 1 - soft_minimum(detail_kept(fused, sources)).mean(),
        "tone": tone_error(fused, sources).mean(),
        "range": (F.relu(fused - 1) + F.relu(-fused)).mean(),
    }


def soft_minimum(values_BS: Tensor) -> Tensor:
    """Return the mean of both values weighted towards the smaller: (B, 2) -> (B,)."""
    weights_BS = (-SHARPNESS * values_BS.detach()).softmax(1)
    return (weights_BS * values_BS).sum(1)


def edges_kept(fused_B1HW: Tensor, sources_BSHW: Tensor) -> Tensor:
    """Return the share of each source's edges that is kept, by strength and direction: (B, S) in 0..1.

    For gradients a of a source and f of the fused image, (2 |a . f| + c) / (|a|^2 + |f|^2 + c), averaged with a
    sigmoid of it that rises where Q_abf's do, weighted by |a|.
    """
    a_BSHW2, f_B1HW2 = gradients(sources_BSHW), gradients(fused_B1HW)
    product = (a_BSHW2 * f_B1HW2).sum(-1).abs()
    squares = a_BSHW2.square().sum(-1)
    noise = EDGE_NOISE**2
    alike = (2 * product + noise) / (squares + f_B1HW2.square().sum(-1) + noise)
    weight = (squares + 1e-12).sqrt()
    kept = 0.5 * alike + 0.5 * torch.sigmoid(12 * (alike - 0.75))
    return (kept * weight).sum((2, 3)) / (weight.sum((2, 3)) + 1e-3)


def gradients(image_BCHW: Tensor) -> Tensor:
    """Return Sobel differences across and down, inside the image: (B, C, H - 2, W - 2, 2)."""
    smooth_down = image_BCHW[..., :-2, :] + 2 * image_BCHW[..., 1:-1, :] + image_BCHW[..., 2:, :]
    smooth_across = image_BCHW[..., :-2] + 2 * image_BCHW[..., 1:-1] + image_BCHW[..., 2:]
    across = smooth_down[..., 2:] - smooth_down[..., :-2]
    down = smooth_across[..., 2:, :] - smooth_across[..., :-2, :]
    return torch.stack([across, down], -1)


def detail_kept(fused_B1HW: Tensor, sources_BSHW: Tensor) -> Tensor:
    """Return the share of each source's local information that is kept, at three scales: (B, S).

    As in VIF: a window holds log(1 + s / n), of which log(1 + g^2 s / (v + n)) is kept, for the variance s of the
    source, the best gain g of the fused image and the variance v that it leaves. A gain above 1 earns nothing.
    """
    total_kept = total = sources_BSHW.new_zeros(())
    for size, step in ((9, 2), (5, 1), (5, 1)):
        products = (sources_BSHW.square(), fused_B1HW.square(), sources_BSHW * fused_B1HW)
        means = box_mean(torch.cat([sources_BSHW, fused_B1HW, *products], 1), size, step)
        mean_a, mean_f, square_a, square_f, product = torch.split(means, [2, 1, 2, 1, 2], 1)
        s = (square_a - mean_a.square()).clamp_min(0)
        covariance = product - mean_a * mean_f
        gain = (covariance / (s + 1e-6)).clamp_min(0)
        left = (square_f - mean_f.square() - gain * covariance).clamp_min(0)
        kept = torch.log1p(gain.clamp_max(1).square() * s / (left + NOISE))
        total_kept = total_kept + kept.sum((2, 3))
        total = total + torch.log1p(s / NOISE).sum((2, 3))
        sources_BSHW, fused_B1HW = F.avg_pool2d(sources_BSHW, 2), F.avg_pool2d(fused_B1HW, 2)
    kept_BS: Tensor = total_kept / (total + 1e-3)
    return kept_BS


def box_mean(image_BCHW: Tensor, size: int, step: int) -> Tensor:
    """Return means over windows inside the image, every `step`-th: (B, C, (H - size) // step + 1, ...)."""
    rows = F.avg_pool2d(image_BCHW, (size, 1), (step, 1))
    return F.avg_pool2d(rows, (1, size), (1, step))


def tone_error(fused_B1HW: Tensor, sources_BSHW: Tensor) -> Tensor:
    """Return how far local means are from what they should be, (B,).

    That is how far they leave the range of both sources' means, and a fifth of how far they are from BRIGHTNESS of
    the way from the darker to the brighter one: dark scenes stay readable, a bright sky stays bright.
    """
    mean_f, means = F.avg_pool2d(fused_B1HW, TONE_CELL), F.avg_pool2d(sources_BSHW, TONE_CELL)
    low, high = means.amin(1, keepdim=True), means.amax(1, keepdim=True)
    outside = F.relu(low - mean_f) + F.relu(mean_f - high)
    return (outside + 0.2 * (mean_f - torch.lerp(low, high, BRIGHTNESS)).abs()).mean((1, 2, 3))
