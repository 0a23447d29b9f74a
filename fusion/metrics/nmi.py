"""NMI, the mutual information of the fused image with its sources, normalised by the entropies."""

from __future__ import annotations

from torch import Tensor

from fusion.metrics.histograms import entropies, mutual_information
from fusion.metrics.triplet import Triplet


def compute(t: Triplet) -> Tensor:
    """NMI = 2 [I(A; F) / (H(A) + H(F)) + I(B; F) / (H(B) + H(F))], 0..2, 2 for F = A = B; no unit.

    NaN if the fused image and a source are both constant (0/0). Source: Hossny, Nahavandi and Creighton, "Comments on
    'Information measure for performance of image fusion'", Electronics Letters 44, 2008.
    """
    entropy_BT, shared_BS = t.get(entropies), t.get(mutual_information)
    return 2 * (shared_BS / (entropy_BT[:, :2] + entropy_BT[:, 2:])).sum(dim=1)
