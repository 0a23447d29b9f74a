"""Dialects: the conventions that published tables follow, by the name of the evaluator that set them.

A dialect says which grey planes of a colour image are scored, and, in each metric's file, which variant of the
formula. Images enter with 1 or 3 channels (RGB) and leave as planes of one channel.

B images, C channels, P planes of an image (1, or 3 where every colour channel is scored), H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

STANDARD = "standard"
BT601 = (0.299, 0.587, 0.114)
MATLAB = (0.298936021293775, 0.587043074451121, 0.114020904255103)


@dataclass(frozen=True)
class Dialect:
    """One row of the table. `planes`: float64 B C H W -> B P H W; values of the planes are averaged."""

    name: str
    planes: Callable[[Tensor], Tensor]
    scored: str  # which channel, for people
    source: str


def luma_exact(image_BCHW: Tensor) -> Tensor:
    """(299 R + 587 G + 114 B) / 1000 rounded to 8 bits, halves up, without rounding errors on the way."""
    if image_BCHW.shape[1] == 1:
        return image_BCHW
    r, g, b = image_BCHW.unbind(1)
    return ((299 * r + 587 * g + 114 * b) / 1000 + 0.5).floor()[:, None]


def luma_float32(image_BCHW: Tensor) -> Tensor:
    """OpenCV's BGR2GRAY on float32 (fused multiply-adds: green, blue, red), rounded, halves to even."""
    if image_BCHW.shape[1] == 1:
        return image_BCHW
    weight_C = torch.tensor(BT601, dtype=torch.float32).double().tolist()
    total = torch.zeros_like(image_BCHW[:, 0])
    for channel in (1, 2, 0):
        # float64 holds product and sum exactly, so that one rounding remains, as in a fused multiply-add
        total = (total + image_BCHW[:, channel] * weight_C[channel]).float().double()
    return total.round()[:, None]


def luma_matlab(image_BCHW: Tensor) -> Tensor:
    """MATLAB's rgb2gray of 8-bit images: its own weights, halves rounded up."""
    if image_BCHW.shape[1] == 1:
        return image_BCHW
    weight_C = torch.tensor(MATLAB, dtype=torch.float64, device=image_BCHW.device)
    return (torch.einsum("bchw,c->bhw", image_BCHW, weight_C) + 0.5).floor()[:, None]


def each_channel(image_BCHW: Tensor) -> Tensor:
    """All three channels; a grey image stands for three equal ones."""
    return image_BCHW.expand(-1, 3, -1, -1)


_TABLE = (
    Dialect(STANDARD, luma_exact, "BT.601 luma, 8 bit", "the definitions in this package's docstrings"),
    Dialect("vifb", each_channel, "mean over R, G and B", "VIFB, CVPR Workshops 2020"),
    Dialect("tang2022", luma_matlab, "MATLAB rgb2gray, 8 bit", "L. Tang's evaluation code for image fusion, May 2022"),
    Dialect("cddfuse", luma_float32, "BT.601 luma, 8 bit", "the evaluator published with CDDFuse, CVPR 2023"),
)
DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in _TABLE}
