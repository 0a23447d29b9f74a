"""Training losses, as named terms; a total is the sum of terms times the weights of the config.

Shapes: B batch, H height, W width, n boxes; images are grey (B, 1, H, W) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.errors import UserError
from fusion.training.configs import AENetLoss, BlendLoss, FuseLoss, MoEFusionLoss, RestoreLoss
from fusion.training.keep_both import keep_both_terms

Terms = dict[str, Tensor]
Batch = dict[str, Tensor]


def sobel(image_B1HW: Tensor) -> Tensor:
    """|gx| + |gy| of the 3x3 Sobel operator, border replicated: (B, 1, H, W) -> (B, 1, H, W)."""
    across = image_B1HW.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack([across, across.T])[:, None]
    padded = F.pad(image_B1HW, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernels).abs().sum(1, keepdim=True)


def restore_terms(restored: Tensor, clean: Tensor, balance: Tensor) -> Terms:
    """Return the terms of TG-ECNet's stage 1: L1(restored, clean), the balance, L1 between Sobel magnitudes.

    `restored`, `clean`: (B, 1, H, W) in [0, 1]. `balance`: scalar, summed over the gates. Terms are scalars.
    """
    return {
        "l1": F.l1_loss(restored, clean),
        "balance": balance,
        "gradient": F.l1_loss(sobel(restored), sobel(clean)),
    }


def fuse_terms(fused: Tensor, visible: Tensor, infrared: Tensor, balance: Tensor) -> Terms:
    """Return the terms of TG-ECNet's stage 2.

    They are L1 to the clean visible image, to the clean infrared one and to their maximum, the balance, and L1 between
    Sobel magnitudes, to the greater one of both sources. `fused`, `visible`, `infrared`: (B, 1, H, W) in [0, 1].
    `balance`: scalar. Terms are scalars.
    """
    return {
        "visible": F.l1_loss(fused, visible),
        "infrared": F.l1_loss(fused, infrared),
        "maximum": F.l1_loss(fused, torch.maximum(visible, infrared)),
        "balance": balance,
        "gradient": F.l1_loss(sobel(fused), torch.maximum(sobel(visible), sobel(infrared))),
    }


def moefusion_terms(
    fused: Tensor, visible: Tensor, infrared: Tensor, mask: Tensor | None, loads: Mapping[str, Tensor]
) -> Terms:
    """Return the terms of MoE-Fusion: L1 to a target, L1 to the greater Sobel magnitude, and the loads.

    The target is the maximum of both images where `mask` is not 0 and their mean elsewhere. `fused`, `visible`,
    `infrared`: (B, 1, H, W) in [0, 1]. `mask`: (B, 1, H, W), as `box_mask` makes it from the ground truth; None: all is
    background. `loads`: scalars by gate, as the network names them; 0 for a gate that an ablation dropped.
    """
    target = (visible + infrared) / 2
    if mask is not None:
        target = torch.where(mask > 0, torch.maximum(visible, infrared), target)
    none = fused.new_zeros(())
    return {
        "pixel": F.l1_loss(fused, target),
        "gradient": F.l1_loss(sobel(fused), torch.maximum(sobel(visible), sobel(infrared))),
        **{f"load_{gate}": loads.get(gate, none) for gate in ("foreground", "background", "global")},
    }


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean SSIM, a scalar, of two batches (B, 1, H, W) in [0, 1]; H and W at least 11.

    Gaussian window of 11 pixels and sigma 1.5, inside the images only; C1 = 0.01^2, C2 = 0.03^2 (Wang et al., 2004).
    """
    offsets = torch.arange(11, dtype=first.dtype, device=first.device) - 5
    taps = torch.exp(-(offsets**2) / (2 * 1.5**2))
    taps = (taps / taps.sum()).reshape(1, 1, 11, 1).expand(5, 1, 11, 1)
    stack = torch.cat([first, second, first * first, second * second, first * second], 1)
    local = F.conv2d(F.conv2d(stack, taps, groups=5), taps.transpose(2, 3), groups=5)
    mean_a, mean_b, square_a, square_b, product = local.unbind(1)
    variances = square_a - mean_a**2 + square_b - mean_b**2
    covariance = product - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).mean()


def aenet_terms(fused: Tensor, first: Tensor, second: Tensor, label: Tensor | None) -> Terms:
    """Return the terms L1 and 1 - SSIM of AE-Netv2: E(P, O) against a label O, or (E(x, P) + E(y, P)) / 2 without.

    P is `fused`, x `first`, y `second`, O `label`: (B, 1, H, W) in [0, 1]. Terms are scalars.
    The paper's further term C [L(x, y), 0] does not depend on the network, so it teaches nothing and is left out.
    """
    targets = [first, second] if label is None else [label]
    return {
        "l1": torch.stack([F.l1_loss(fused, target) for target in targets]).mean(),
        "ssim": torch.stack([1 - ssim(fused, target) for target in targets]).mean(),
    }


def total(terms: Terms, weights: RestoreLoss | FuseLoss | MoEFusionLoss | AENetLoss | BlendLoss) -> Tensor:
    """Return the weighted sum of the terms, a scalar. UserError, which shows all terms, when it is not finite."""
    first, *others = (weight * terms[name] for name, weight in asdict(weights).items())
    loss: Tensor = sum(others, first)
    if not torch.isfinite(loss):
        shown = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
        raise UserError(f"the loss is not finite ({shown}). Lower optim.lr, or look for damaged images in the corpus.")
    return loss


def _restore(output: Any, batch: Batch) -> Terms:
    return restore_terms(output.image.float(), batch["clean"], output.balance.float())


def _fuse(output: Any, batch: Batch) -> Terms:
    return fuse_terms(output.image.float(), batch["visible"], batch["infrared"], output.balance.float())


def _moefusion(output: Any, batch: Batch) -> Terms:
    return moefusion_terms(output.image.float(), batch["visible"], batch["infrared"], batch["mask"], output.loads)


def _aenet(output: Any, batch: Batch) -> Terms:
    return aenet_terms(output.image.float(), batch["visible"], batch["infrared"], batch.get("label"))


def _blend(output: Any, batch: Batch) -> Terms:
    return keep_both_terms(output.image.float(), batch["visible"], batch["infrared"])


# The class of a stage's loss weights -> its terms, of a network's output and the batch, in float32.
TERMS: dict[type, Callable[[Any, Batch], Terms]] = {
    RestoreLoss: _restore,
    FuseLoss: _fuse,
    MoEFusionLoss: _moefusion,
    AENetLoss: _aenet,
    BlendLoss: _blend,
}
