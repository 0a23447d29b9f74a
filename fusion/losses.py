"""Training losses, as named terms; a total is the sum of terms times the weights of the config.

Shapes: B batch, H height, W width; images are grey (B, 1, H, W) in [0, 1].
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.errors import UserError

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class RestoreLoss:
    """Weights of TG-ECNet's stage 1."""

    l1: float = 1.0
    balance: float = 0.1
    gradient: float = 10.0


@dataclass(frozen=True)
class FuseLoss:
    """Weights of TG-ECNet's stage 2. `gradient` is the alpha of searches."""

    visible: float = 1.0
    infrared: float = 1.0
    maximum: float = 1.0
    balance: float = 0.1
    gradient: float = 5.0


def sobel(image_B1HW: Tensor) -> Tensor:
    """|gx| + |gy| of the 3x3 Sobel operator, border replicated: (B, 1, H, W) -> (B, 1, H, W)."""
    across = image_B1HW.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack([across, across.T])[:, None]
    padded = F.pad(image_B1HW, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernels).abs().sum(1, keepdim=True)


def restore_terms(restored: Tensor, clean: Tensor, balance: Tensor) -> Terms:
    """L1(restored, clean), the gates' balance, L1 between Sobel magnitudes."""
    return {
        "l1": F.l1_loss(restored, clean),
        "balance": balance,
        "gradient": F.l1_loss(sobel(restored), sobel(clean)),
    }


def fuse_terms(fused: Tensor, visible: Tensor, infrared: Tensor, balance: Tensor) -> Terms:
    """L1 to the clean visible, to the clean infrared, to their maximum; balance; L1 to the greater Sobel magnitude."""
    return {
        "visible": F.l1_loss(fused, visible),
        "infrared": F.l1_loss(fused, infrared),
        "maximum": F.l1_loss(fused, torch.maximum(visible, infrared)),
        "balance": balance,
        "gradient": F.l1_loss(sobel(fused), torch.maximum(sobel(visible), sobel(infrared))),
    }


def total(terms: Terms, weights: RestoreLoss | FuseLoss) -> Tensor:
    """The weighted sum. Raises UserError, printing all terms, when it is not finite: training on would be in vain."""
    loss = sum(weight * terms[name] for name, weight in asdict(weights).items())
    if not torch.isfinite(loss):
        shown = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
        raise UserError(f"the loss is not finite ({shown}). Lower optim.lr, or look for damaged images in the corpus.")
    return loss
