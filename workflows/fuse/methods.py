"""What fuses: trained networks, with the detectors that go along, and classical methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from detection.moefusion.attention import DUAL_DETECTORS, DualDetector
from detection.moefusion.joint import attention_maps
from fusion import checkpoint, inference, realtime
from fusion.classical import CLASSICAL, fuse_colour
from fusion.images.colour import to_grey
from fusion.training.stages import STAGES

FuseFn = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(visible uint8 (H, W, 3) or (H, W), infrared uint8 (H, W)) -> fused uint8, of the size of the pair."""


@dataclass(frozen=True)
class LoadedNetwork:
    """A network on the CPU, with the detectors it was trained with, if any.

    Args:
        checkpoint: The network as it was saved.
        detectors: The two detectors that tell a MoE-Fusion what to look at; None for other networks.
        identity: What its images depend on: the fingerprints of both.
        runner: What computes the network, where that is not the network itself: an AE-Netv2 in real time.
    """

    checkpoint: checkpoint.Checkpoint
    detectors: DualDetector | None
    identity: str
    runner: nn.Module | None = None

    @property
    def model(self) -> nn.Module:
        """The network itself."""
        return self.checkpoint.model

    @property
    def restores(self) -> bool:
        """Whether it restores both images of a pair instead of fusing them."""
        config: Any = self.model.config  # of every model of MODELS
        return not STAGES[config.stage].fuses

    @property
    def num_parameters(self) -> int:
        """Parameters of the network and its detectors together."""
        return sum(p.numel() for network in (self.model, self.detectors) if network for p in network.parameters())

    def ready(self, threads: int | None = None) -> LoadedNetwork:
        """Return the network for many images, on the GPU where there is one; `threads` of a CPU, all by default."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.detectors is not None:
            self.detectors.to(device)
        return replace(self, runner=realtime.fastest(self.model, device, threads))

    def fuse(
        self, visible: np.ndarray, infrared: np.ndarray, grey: bool = False
    ) -> tuple[np.ndarray, dict[str, list[float]]]:
        """Return the fused image and the weights of the experts by gate, see `inference.fuse_with_gates`.

        `grey`: its luma only; detectors see the colour all the same.
        """
        attention = self.attention(visible, infrared)
        pair = to_grey(visible) if grey else visible, infrared
        return inference.fuse_with_gates(self.runner or self.model, *pair, attention)

    def attention(self, visible: np.ndarray, infrared: np.ndarray) -> torch.Tensor | None:
        """Return the attention maps (1, 2, H, W) of its detectors on a pair; None without detectors."""
        return None if self.detectors is None else attention_maps(self.detectors, visible, infrared)


def load_network(path: str) -> LoadedNetwork:
    """Load the network of a run or checkpoint folder, or URI. UserError where there is none."""
    folder = checkpoint.fetch(path)
    loaded = checkpoint.load(folder)
    part = checkpoint.part(folder, "detectors")
    if part is None:
        return LoadedNetwork(loaded, None, loaded.fingerprint)
    detectors = checkpoint.load(part, models=DUAL_DETECTORS)
    assert isinstance(detectors.model, DualDetector)
    return LoadedNetwork(loaded, detectors.model, f"{loaded.fingerprint}+{detectors.fingerprint}")


def name_of_method(method: str, colour: str) -> str:
    """Return the name of a classical method with its treatment of colour: what its images depend on."""
    return method if colour == "luma" else f"{method}, every channel"


def classical_fuse_fn(method: str, colour: str) -> FuseFn:
    """Return the function that fuses by a classical method; a grey pair has luma only."""

    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        if colour == "channels" and visible.ndim == 3:
            return fuse_colour(CLASSICAL[method], visible, infrared)
        return inference.fuse(CLASSICAL[method].fuse, visible, infrared)

    return fuse
