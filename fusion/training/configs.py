"""What a recipe is made of: loss weights, crops, optimiser, validation.

Nothing here imports torch, so `duskfuse JOB --help` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from fusion.errors import UserError


@dataclass(frozen=True)
class CropConfig:
    """How crops are taken from images.

    per_image               crops of a sample in one pass
    resize                  (height, width) that whole images are scaled to, instead of being cropped; (0, 0): crops
                            of `size`
    identity_probability    how often stage 1 sees the modality that is not degraded, to learn to leave it alone
    shuffle_buffer          crops held back to mix images and degradations within a batch
    classes                 which boxes detectors learn
    box_attention           MoE-Fusion without detectors takes the labelled boxes as its attention, in training and in
                            validation: 1 inside, 0 outside. For studies: where there are no boxes it is 0.5 everywhere
    tone                    how often gamma, gain and, now and then, sign of both images of a pair are drawn anew,
                            each for itself
    """

    size: int = 128
    per_image: int = 4
    flips: bool = True
    resize: tuple[int, int] = (0, 0)
    identity_probability: float = 0.2
    shuffle_buffer: int = 512
    classes: tuple[str, ...] = ()
    box_attention: bool = False
    tone: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 8 or self.size % 8:
            raise UserError(f"crops.size is {self.size}; it must be a positive multiple of 8")
        if self.resize != (0, 0) and (min(self.resize) < 8 or any(side % 8 for side in self.resize)):
            raise UserError(f"crops.resize is {self.resize}; both must be positive multiples of 8, or 0 for crops")
        if self.resize != (0, 0) and self.per_image != 1:
            raise UserError(f"crops.per_image is {self.per_image}; with crops.resize an image is taken once: give 1")
        if self.per_image < 1 or self.shuffle_buffer < 1:
            raise UserError("crops.per_image and crops.shuffle_buffer must be at least 1")
        if not 0 <= self.identity_probability <= 1:
            raise UserError(f"crops.identity_probability is {self.identity_probability}; it must be in 0..1")
        if not 0 <= self.tone <= 1:
            raise UserError(f"crops.tone is {self.tone}; it must be in 0..1")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a crop in pixels."""
        return self.resize if self.resize != (0, 0) else (self.size, self.size)


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
class BlendLoss:
    """Weights of BlendNet, see `fusion.training.keep_both`."""

    edges: float = 1.0
    detail: float = 0.7
    tone: float = 2.0
    range: float = 5.0


# The exponent of (batch of all workers / batch of the recipe) by which the rate is multiplied. Adam divides a gradient
# by its own size, so its steps want the root (Malladi et al., NeurIPS 2022); "linear" is the rule for SGD.
BATCH_SCALING = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}


@dataclass(frozen=True)
class OptimConfig:
    """Adam, cosine annealing from `lr` to `lr * final_lr_ratio`, linear warm-up over `warmup_fraction` of all steps.

    `milestones`: epochs from which on the rate is a tenth, instead of annealing. `batch_scaling`: what the rate does
    where the workers' batch is larger than the recipe's, see `scale_for_batch`.
    """

    lr: float = 1e-4
    final_lr_ratio: float = 0.01
    milestones: tuple[int, ...] = ()
    warmup_fraction: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    max_grad_norm: float = 0.0  # greatest gradient norm; 0: none
    batch_scaling: str = "sqrt"

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise UserError(f"optim.lr is {self.lr}; it must be positive")
        if self.batch_scaling not in BATCH_SCALING:
            known = ", ".join(BATCH_SCALING)
            raise UserError(f"optim.batch_scaling is {self.batch_scaling!r}; it must be one of {known}")


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


def worker_batch_size(batch_size: int, workers: int) -> int:
    """Return the batch of each of so many workers: ceil(batch_size / workers).

    The batch of all of them is the smallest one that they share evenly and that is not below the recipe's: 4 on six
    workers is 6, 16 is 18, 42 stays 42.
    """
    return -(-batch_size // workers)


def scale_for_batch(optim: OptimConfig, batch_size: int, effective: int) -> float:
    """Return the factor of the rate for a batch of `effective` in place of the recipe's `batch_size`."""
    factor: float = (effective / batch_size) ** BATCH_SCALING[optim.batch_scaling]
    return factor
