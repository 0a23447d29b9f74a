"""Fusing one pair of any size with a model or a classical method; colour is kept.

    from fusion import checkpoint, inference
    model = checkpoint.load("runs/fuse/checkpoint").model
    image = inference.fuse(model, visible, infrared)

Shapes: visible uint8 H W 3 (RGB), infrared uint8 H W.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fusion.classical import Method
from fusion.images.colour import attach_colour, luma


def fuse(
    model: nn.Module | Method, visible: np.ndarray, infrared: np.ndarray, attention: torch.Tensor | None = None
) -> np.ndarray:
    """Return the fused image, uint8, of the size of the pair: H W 3 in the visible image's colour (H W if it is grey).

    `visible` is uint8 H W 3 (RGB) or H W, `infrared` uint8 H W. `model` is a fusing network in evaluation mode or a
    method of `fusion.classical`; `attention`, (1, 1 or 2, h, w) in [0, 1], is for a network that takes it. ValueError
    for unequal sizes.
    """
    return fuse_with_gates(model, visible, infrared, attention)[0]


def fuse_with_gates(
    model: nn.Module | Method, visible: np.ndarray, infrared: np.ndarray, attention: torch.Tensor | None = None
) -> tuple[np.ndarray, dict[str, list[float]]]:
    """Return the image of `fuse` and the weights of the experts by gate; {} for a model that gates no whole images."""
    _check(visible, infrared)
    if not isinstance(model, nn.Module):
        return attach_colour(model(luma(visible), luma(infrared)), visible), {}
    device = next(model.parameters()).device
    with torch.inference_mode():
        more = () if attention is None else (attention.to(device),)
        output = model(_tensor(visible, device), _tensor(infrared, device), *more)
    gates = {name: weights[0].tolist() for name, weights in getattr(output, "gates", {}).items()}
    return attach_colour(_array(output.image), visible), gates


def restore(model: nn.Module, visible: np.ndarray, infrared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both images restored by a stage-1 network: uint8 visible (colour kept) and uint8 infrared."""
    _check(visible, infrared)
    device = next(model.parameters()).device
    with torch.inference_mode():
        clear_visible = _array(model(_tensor(visible, device)).image)
        clear_infrared = _array(model(_tensor(infrared, device)).image)
    return attach_colour(clear_visible, visible), attach_colour(clear_infrared, infrared)


def _check(visible: np.ndarray, infrared: np.ndarray) -> None:
    if visible.shape[:2] != infrared.shape[:2]:
        sizes = " and ".join(f"{image.shape[1]}x{image.shape[0]}" for image in (visible, infrared))
        raise ValueError(f"visible and infrared differ in size: {sizes}")
    if visible.dtype != np.uint8 or infrared.dtype != np.uint8 or infrared.ndim != 2:
        given = f"{visible.dtype} {visible.shape} and {infrared.dtype} {infrared.shape}"
        raise ValueError(f"visible must be uint8 H W 3 (or H W) and infrared uint8 H W, not {given}")


def _tensor(image: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(luma(image))[None, None].to(device)


def _array(image_11HW: torch.Tensor) -> np.ndarray:
    return image_11HW[0, 0].float().cpu().numpy()
