"""SCD, the sum of the correlations of differences."""

from __future__ import annotations

from torch import Tensor

from fusion.metrics.cc import products, ratio, variances
from fusion.metrics.triplet import Triplet

NOISE = 1e-13  # a difference of images with less of their variance is constant up to rounding


def compute(t: Triplet) -> Tensor:
    """SCD = r(F - B, A) + r(F - A, B), r the Pearson correlation over all pixels; A visible, B infrared.

    What the fused image adds to one source should be the other one. NaN if a source, F - A or F - B is constant
    (a correlation with a constant is 0/0), as for F = A. Standard, tang2022 and cddfuse. Source: Aslantas and Bendes,
    "A new image quality metric for image fusion: the sum of the correlations of differences", AEU Int. J. Electronics
    and Communications 69, 2015.
    """
    own_BT, cross_BTT = t.get(variances), t.get(products)
    a, b, f = range(3)
    total = t.fused.new_zeros(())
    for source, other in ((a, b), (b, a)):
        sizes = own_BT[:, f] + own_BT[:, other]
        added = sizes - 2 * cross_BTT[:, f, other]  # of F - B, when A is `source`
        added = added.masked_fill(added <= NOISE * sizes, 0.0)
        total = total + ratio(cross_BTT[:, f, source] - cross_BTT[:, other, source], added, own_BT[:, source])
    return total
