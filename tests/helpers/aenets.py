"""Networks whose every part matters: norms with other statistics than at a start, images that are not all zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion.models.aenet import AENet
from fusion.models.configs import AENetConfig


def trained(block: str = "gcb", width: int = 16, seed: int = 0) -> AENet:
    torch.manual_seed(seed)
    model = AENet(AENetConfig(block, width)).eval().requires_grad_(False)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.3)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None and block != "plain":
            module.bias.normal_(0, 0.3)  # of R too, which the borders must not see outside the image
    if block != "plain":
        last = model.head[1]
        seen: list[Tensor] = []
        hook = last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        model(*pair(1, (32, 32), seed=9))
        hook.remove()
        last.running_mean.copy_(seen[0].mean().reshape(1))
        last.running_var.copy_(seen[0].var().reshape(1))
        last.weight.fill_(0.4)
        last.bias.fill_(0.8)
    return model


def pair(batch: int, size: tuple[int, int], seed: int = 1) -> Tensor:
    """(2, B, 1, H, W)"""
    return torch.rand(2, batch, 1, *size, generator=torch.Generator().manual_seed(seed))


def apart(image: Tensor, other: Tensor) -> float:
    assert image.shape == other.shape
    return float((image - other).abs().max())
