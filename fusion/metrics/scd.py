"""SCD, the sum of the correlations of differences."""

from __future__ import annotations

from torch import Tensor

from fusion.metrics.cc import correlation
from fusion.metrics.triplet import Triplet


def compute(t: Triplet) -> Tensor:
    """SCD = r(F - B, A) + r(F - A, B), r the Pearson correlation over all pixels; A visible, B infrared.

    What the fused image adds to one source should be the other one. NaN if a source, F - A or F - B is constant
    (a correlation with a constant is 0/0), as for F = A. Standard, tang2022 and cddfuse. Source: Aslantas and Bendes,
    "A new image quality metric for image fusion: the sum of the correlations of differences", AEU Int. J. Electronics
    and Communications 69, 2015.
    """
    added_BSHW = t.fused - t.source_BSHW.flip(1)  # F - B beside A, F - A beside B
    return correlation(added_BSHW, t.source_BSHW).sum(dim=1)
