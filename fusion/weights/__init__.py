"""Trained weights that come with the package: AE-Netv2, a few tens of KB. What they are is in aenet/MODEL_CARD.md."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from fusion import checkpoint

AENET = "aenet"


def folder(name: str = AENET) -> Path:
    """Return where the checkpoint lies."""
    return Path(str(resources.files("fusion.weights"))) / name


def load(name: str = AENET) -> checkpoint.Checkpoint:
    """Return the checkpoint, its model in evaluation mode on the CPU. UserError: it is damaged."""
    return checkpoint.load(folder(name))
