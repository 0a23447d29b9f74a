"""An AE-Netv2 made smaller without changing what it computes: `Folded(model)`, plain tensor operations on any device.

1. Batch norms in evaluation mode fold into the convolutions before them.
2. The three replicated channels of a grey image fold into one: C1 is 2 -> 64.
3. Where R is linear and 3x3 (gcb, separable), C2(f + R(f)) before its ReLU is one 5x5 convolution 64 -> 1,

       K[d] = w2[d] + sum over s + t = d of wR[s]^T w2[t],   b = b2 + sum over t of w2[t] bR      s, t in {-1, 0, 1}^2

   w2 being C2's weights and wR, bR those of R as one dense convolution. C2 sees zeros outside the image, this sees
   R(f), which is not zero one pixel outside. `Edges` is what it sees too much; it depends only on f's outermost rows
   and columns,

       top[x] = sum over u of w2[-1, u] bR + sum over d of E[d] f[0, x + d]
       E[d] = sum over v + u = d of wR[1, v]^T w2[-1, u]

   likewise at the bottom and, along columns, left and right. The corners count in two sides and are added once.

Sums are made in float64. Shapes: B batch, C channels, H height, W width, L length of a border.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fusion.models.aenet import AENet, Fused

LINEAR = ("gcb", "separable")  # blocks that are a 3x3 convolution


class Folded(nn.Module):
    """`forward(first, second)` equals the AENet's in evaluation mode, to rounding, everywhere and for any size.

    Weights are copies, in float32. `kernel` is None for a block that is not linear: then `block` and `head` remain.
    """

    def __init__(self, model: AENet) -> None:
        super().__init__()
        self.config = model.config
        exact = copy.deepcopy(model).eval().cpu().double().requires_grad_(False)
        stem, block, head = (without_norms(part) for part in (exact.stem, exact.block, exact.head))
        self.residual = exact.residual
        self.stem = grey_stem(_first_conv(stem))
        self.block: nn.Module | None = None
        self.head: nn.Conv2d | None = None
        self.kernel: nn.Conv2d | None = None
        self.edges: Edges | None = None
        if model.config.block in LINEAR:
            weight, bias = dense(block, model.config.width)
            self.edges = Edges(weight, bias, _first_conv(head).weight[0])
            self.kernel = collapse(weight, bias, _first_conv(head))
        else:
            self.block, self.head = block, _first_conv(head)
        self.float().requires_grad_(False)

    def forward(self, first_B1HW: Tensor, second_B1HW: Tensor) -> Fused:
        """(B, 1, H, W) twice -> (B, 1, H, W)."""
        features = F.relu(self.stem(torch.cat([first_B1HW, second_B1HW], 1)))
        if self.block is not None and self.head is not None:
            refined = self.block(features)
            return Fused(F.relu(self.head(features + refined if self.residual else refined)))
        assert self.kernel is not None and self.edges is not None
        top, bottom, left, right = self.edges(
            features[:, :, 0], features[:, :, -1], features[..., 0], features[..., -1]
        )
        down, across = features.shape[2] - 1, features.shape[3] - 1
        rows = F.pad(top[:, :, None], (0, 0, 0, down)) + F.pad(bottom[:, :, None], (0, 0, down, 0))
        columns = F.pad(left[..., None], (0, across)) + F.pad(right[..., None], (across, 0))
        return Fused(F.relu(self.kernel(features) - rows - columns))


class Edges(nn.Module):
    """The part of the 5x5 convolution that lies outside the image, from f's outermost rows and columns."""

    def __init__(self, weight_CC33: Tensor, bias_C: Tensor, head_C33: Tensor) -> None:
        super().__init__()
        # sides in the order top, bottom, left, right: along each, C2's taps outside and R's taps back inside
        taps = torch.stack([head_C33[:, 0], head_C33[:, 2], head_C33[:, :, 0], head_C33[:, :, 2]])
        back = torch.stack([weight_CC33[:, :, 2], weight_CC33[:, :, 0], weight_CC33[..., 2], weight_CC33[..., 0]])
        lines = torch.zeros(4, 5, head_C33.shape[0], dtype=torch.float64)
        for s in range(3):
            for t in range(3):
                lines[:, s + t] += torch.einsum("zoc,zo->zc", back[..., s], taps[..., t])
        self.lines_45C = nn.Parameter(lines)
        self.biases_4 = nn.Parameter(torch.einsum("o,zot->z", bias_C, taps))
        # corners: top left, top right, bottom left, bottom right
        taps = head_C33[:, ::2, ::2].flatten(1)
        self.corners_4C = nn.Parameter(torch.einsum("ocz,oz->zc", weight_CC33[:, :, ::2, ::2].flatten(2).flip(2), taps))
        self.corner_biases_4 = nn.Parameter(bias_C @ taps)

    def forward(self, top_BCW: Tensor, bottom_BCW: Tensor, left_BCH: Tensor, right_BCH: Tensor) -> list[Tensor]:
        """F along the four sides -> what to take off there: top, bottom (B, 1, W), left, right (B, 1, H)."""
        sides = [top_BCW, bottom_BCW, left_BCH, right_BCH]
        top, bottom, left, right = (self._along(line, i) for i, line in enumerate(sides))
        more = top_BCW.shape[2] - 1
        ends = [line[..., end] for line in sides[:2] for end in (0, -1)]
        corners = [(end @ self.corners_4C[i] + self.corner_biases_4[i])[:, None, None] for i, end in enumerate(ends)]
        top = top - F.pad(corners[0], (0, more)) - F.pad(corners[1], (more, 0))
        bottom = bottom - F.pad(corners[2], (0, more)) - F.pad(corners[3], (more, 0))
        return [top, bottom, left, right]

    def _along(self, line_BCL: Tensor, side: int) -> Tensor:
        """Convolve a side with 5 taps, as a matrix product and shifted sums: faster for one channel."""
        taps_B5L = F.pad(self.lines_45C[side] @ line_BCL, (2, 2))
        length = line_BCL.shape[2]
        shifted = [taps_B5L[:, d : d + 1, d : d + length] for d in range(5)]
        return sum(shifted, self.biases_4[side])


def grey_stem(stem: nn.Conv2d) -> nn.Conv2d:
    """Return C1 of 6 channels, three for each image, as a convolution of the two grey images themselves."""
    folded = nn.Conv2d(2, stem.out_channels, 3, padding=1, dtype=torch.float64)
    assert folded.bias is not None and stem.bias is not None  # batch norm folded into it
    folded.weight.data = torch.unflatten(stem.weight, 1, (2, 3)).sum(2)
    folded.bias.data = stem.bias
    return folded


def _first_conv(part: nn.Module) -> nn.Conv2d:
    assert isinstance(part, nn.Sequential) and isinstance(part[0], nn.Conv2d)
    return part[0]


def without_norms(part: nn.Module) -> nn.Module:
    """Fold batch norms into the convolutions before them, in every nn.Sequential."""
    if isinstance(part, nn.Sequential):
        layers: list[nn.Module] = []
        for layer in part:
            if isinstance(layer, nn.BatchNorm2d):
                before = layers[-1]
                assert isinstance(before, nn.Conv2d)
                layers[-1] = fuse_conv_bn_eval(before, layer)
            else:
                layers.append(without_norms(layer))
        return nn.Sequential(*layers)
    for name, child in part.named_children():
        setattr(part, name, without_norms(child))
    return part


def dense(block: nn.Module, width: int) -> tuple[Tensor, Tensor]:
    """Return a linear 3x3 block as one convolution, (C, C, 3, 3) and (C,): what it makes of impulses and of zeros."""
    impulses = torch.zeros(width, width, 3, 3, dtype=torch.float64)
    impulses[range(width), range(width), 1, 1] = 1
    nothing = block(torch.zeros(1, width, 3, 3, dtype=torch.float64))
    return (block(impulses) - nothing).transpose(0, 1).flip(2, 3), nothing[0, :, 1, 1]


def collapse(weight_CC33: Tensor, bias_C: Tensor, head: nn.Conv2d) -> nn.Conv2d:
    """Return w2 (f + R f) as one 5x5 convolution (1, C, 5, 5), of R (C, C, 3, 3) with bias (C,) and C2."""
    kernel = nn.Conv2d(head.in_channels, 1, 5, padding=2, dtype=torch.float64)
    total_1C55 = F.pad(head.weight, (1, 1, 1, 1))
    for t in range(3):
        for u in range(3):
            total_1C55[0, :, t : t + 3, u : u + 3] += torch.einsum("o,ocij->cij", head.weight[0, :, t, u], weight_CC33)
    kernel.weight.data = total_1C55
    assert kernel.bias is not None and head.bias is not None
    kernel.bias.data = head.bias + head.weight.sum((2, 3)) @ bias_C
    return kernel
