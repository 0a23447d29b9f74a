"""What a recipe is made of: loss weights, crops, optimiser, validation.

Nothing here imports torch, so `duskfuse JOB --help` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from fusion.errors import UserError


@dataclass(frozen=True)
class CropConfig:
    """How crops are taken from images.

    identity_probability    how often stage 1 sees the modality that is not degraded, to learn to leave it alone
    shuffle_buffer          crops held back to mix images and degradations within a batch
    classes                 which boxes detectors learn
    box_attention           MoE-Fusion without detectors takes the labelled boxes as its attention, in training and in
                            validation: 1 inside, 0 outside. For studies: where there are no boxes it is 0.5 everywhere
    """

    size: int = 128
    per_image: int = 4
    flips: bool = True
    identity_probability: float = 0.2
    shuffle_buffer: int = 512
    classes: tuple[str, ...] = ()
    box_attention: bool = False

    def __post_init__(self) -> None:
        if self.size < 8 or self.size % 8:
            raise UserError(f"crops.size is {self.size}; it must be a positive multiple of 8")
        if self.per_image < 1 or self.shuffle_buffer < 1:
            raise UserError("crops.per_image and crops.shuffle_buffer must be at least 1")
        if not 0 <= self.identity_probability <= 1:
            raise UserError(f"crops.identity_probability is {self.identity_probability}; it must be in 0..1")


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


@dataclass(frozen=True)
class MoEFusionLoss:
    """Weights of MoE-Fusion. `gradient` is the alpha of searches; the loads are those of the three gates."""

    pixel: float = 1.0
    gradient: float = 10.0
    load_foreground: float = 0.01
    load_background: float = 0.01
    load_global: float = 0.02


@dataclass(frozen=True)
class AENetLoss:
    """Weights of AE-Netv2's E(a, b), which its paper leaves open: L1 and 1 - SSIM."""

    l1: float = 1.0
    ssim: float = 1.0


@dataclass(frozen=True)
class OptimConfig:
    """Adam, cosine annealing from `lr` to `lr * final_lr_ratio`, linear warm-up over `warmup_fraction` of all steps.

    `milestones`: epochs from which on the rate is a tenth, instead of annealing.
    """

    lr: float = 1e-4
    final_lr_ratio: float = 0.01
    milestones: tuple[int, ...] = ()
    warmup_fraction: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    max_grad_norm: float = 0.0  # greatest gradient norm; 0: none

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise UserError(f"optim.lr is {self.lr}; it must be positive")


@dataclass(frozen=True)
class ValidationConfig:
    """Each epoch, on centre crops of rows of the `val` split, evenly chosen.

    `metrics`: names of `fusion.metrics` to add to those of the stage; `fusion.training.engine` checks them.
    """

    rows: int = 96
    size: int = 256
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rows < 0 or self.size < 8:
            raise UserError(f"validation: rows must be at least 0 and size at least 8, not {self.rows} and {self.size}")
