"""Q_cv, how far the fused image is from its sources to the eye, where they have edges."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.metrics.filters import is_constant, sobel
from fusion.metrics.qcb import filter_by_frequency, rounded, stretched
from fusion.metrics.triplet import Triplet

SIDE = 16  # pixels of a region
DEGREES = 4  # a side of the picture in the eye, whatever its aspect


def compute(t: Triplet) -> Tensor:
    """Return Q_cv of every image, float64 (B,).

    Q_cv = sum over regions of (s_A D_A + s_B D_B) / sum over regions of (s_A + s_B),
    s_X = sum over pixels of g_X^5,  D_X = mean over pixels of (S * (X - F))^2,  in squared grey levels.

    Every image is stretched to 0..255 (least pixel 0, greatest 255; a constant image stays as it is). Regions are
    16 x 16 pixels from the top left corner; those cut by the right and lower border have fewer pixels, and D is the
    mean of those. g is the Sobel edge strength with the border repeated, so that the rim is no edge. S filters in the
    DFT by Mannos and Sakrison's sensitivity of the eye, 2.6 (0.0192 + 0.144 r) exp(-(0.144 r)^1.1), r in cycles per
    degree where each side of the picture spans 4 degrees: r = sqrt(k^2 + l^2) / 4 for the bins of k and l cycles per
    side. The stretch, the viewing distance, 0.144 (0.114 in 1974), the exponent 5 and filtering the whole difference
    rather than each region are those of the toolbox that the field uses; see `toolbox`.

    0 for F = A = B; lower is better. A constant source has no weight. Any image size. NaN if both sources are constant
    (no edge: 0/0). Source: Chen and Varshney, "A human perception inspired quality metric for image fusion based on
    regional information", Information Fusion 8, 2007.
    """
    images = t.get(stretched)
    edges = sobel(F.pad(images.source_BSHW, (1, 1, 1, 1), mode="replicate"))
    count = _region_sums(images.fused.new_ones(images.fused.shape[-2:]))
    # the edges of a source that is constant up to rounding noise weigh nothing beside real ones, but alone they would
    no_edge_B = is_constant(t.source_BSHW).all(dim=1)
    return _weighted(images, *edges, count).masked_fill(no_edge_B, torch.nan)


def toolbox(t: Triplet) -> Tensor:
    """Return Q_cv of the dialect vifb, which is that of Z. Liu's toolbox of fusion metrics.

    Three things differ from the standard value: the stretched images are rounded to 8 bits; zeros beyond the border
    make the rim an edge, often the strongest (on
    VIFB's images it has half of all weight, which moves values by a quarter); and the mean of a cut region divides by
    256 all the same, so that D is too small there. A constant image gives NaN unless it is black. The frequencies are
    those of the DFT bins there too.
    """
    images = t.get(rounded)
    return _weighted(images, *sobel(F.pad(images.source_BSHW, (1, 1, 1, 1))), float(SIDE**2))


def _weighted(images: Triplet, across_BSHW: Tensor, down_BSHW: Tensor, count: Tensor | float) -> Tensor:
    square_BSHW = across_BSHW.square() + down_BSHW.square()
    saliency = _region_sums(square_BSHW.square() * square_BSHW.sqrt())
    seen_BSHW = filter_by_frequency(images.source_BSHW - images.fused, _sensitivity)
    distance = _region_sums(seen_BSHW.square()) / count
    value_B: Tensor = (saliency * distance).sum(dim=(1, 2, 3)) / saliency.sum(dim=(1, 2, 3))
    return value_B


def _region_sums(image: Tensor) -> Tensor:
    """Return sums over 16 x 16 pixels, ... H W to ... H/16 W/16, rounded up; zeros beyond the border."""
    height, width = image.shape[-2:]
    padded = F.pad(image, (0, -width % SIDE, 0, -height % SIDE))
    across = padded.reshape(*padded.shape[:-1], padded.shape[-1] // SIDE, SIDE).sum(dim=-1)
    return across.reshape(*across.shape[:-2], across.shape[-2] // SIDE, SIDE, across.shape[-1]).sum(dim=-2)


def _sensitivity(radius: Tensor) -> Tensor:
    scaled = 0.144 / DEGREES * radius
    return 2.6 * (0.0192 + scaled) * torch.exp(-scaled.pow(1.1))
