"""Named training recipes: the papers', our own, and tiny ones for a laptop. A recipe is all that shapes a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from fusion.errors import UserError
from fusion.models.configs import AENetConfig, BlendNetConfig, MoEFusionConfig, TGECNetConfig
from fusion.training.configs import (
    AENetLoss,
    BlendLoss,
    CropConfig,
    FuseLoss,
    MoEFusionLoss,
    OptimConfig,
    RestoreLoss,
    ValidationConfig,
)
from fusion.training.stages import STAGES


@dataclass(frozen=True)
class Recipe:
    """All that shapes a training. What the papers fix, and where we differ: docs/recipes.md.

    batch_size      of all workers together, where they share it evenly; else the next larger one that they do share
                    (`configs.worker_batch_size`)
    repeats         passes over the corpus in an epoch
    """

    name: str
    model_name: str
    model: TGECNetConfig | MoEFusionConfig | AENetConfig | BlendNetConfig
    loss: RestoreLoss | FuseLoss | MoEFusionLoss | AENetLoss | BlendLoss
    optim: OptimConfig = field(default_factory=OptimConfig)
    crops: CropConfig = field(default_factory=CropConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    epochs: int = 30
    batch_size: int = 60
    repeats: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.repeats < 1:
            raise UserError(f"recipe {self.name}: epochs, batch_size and repeats must be at least 1")
        wanted = STAGES[self.model.stage].loss
        if not isinstance(self.loss, wanted):
            raise UserError(f"recipe {self.name}: stage {self.model.stage} needs the loss {wanted.__name__}")
        if self.crops.box_attention and self.model.stage != "moefusion":
            raise UserError(f"recipe {self.name}: crops.box_attention is for MoE-Fusion alone")


PAPER_CROPS = CropConfig(per_image=1, identity_probability=0.0)  # TG-ECNet's: 128 x 128, flipped


def tgecnet_restore() -> Recipe:
    """TG-ECNet stage 1 as in the paper; what it leaves open as in the authors' files.

    Paper: Adam at 1e-4, cosine annealing, 30 epochs, crops of 128 x 128 with flips, 6 GPUs. Files: 7 crops a GPU, one
    crop of a sample in an epoch, a linear warm-up over 5 epochs, annealing to 0.
    """
    return Recipe(
        "tgecnet-restore",
        "tgecnet",
        TGECNetConfig(stage="restore"),
        RestoreLoss(),
        OptimConfig(lr=1e-4, final_lr_ratio=0.0, warmup_fraction=5 / 30),
        PAPER_CROPS,
        epochs=30,
        batch_size=42,
    )


def tgecnet_fuse() -> Recipe:
    """TG-ECNet stage 2 as in the paper, from stage 1; what it leaves open as in the authors' files: 10 crops a GPU.

    The files crop 64 x 64 in this stage; the paper says 128 x 128 of both.
    """
    return replace(
        tgecnet_restore(),
        name="tgecnet-fuse",
        model=TGECNetConfig(stage="fuse"),
        loss=FuseLoss(),
        batch_size=60,
    )


def tgecnet_restore_duskfuse() -> Recipe:
    """TG-ECNet stage 1 by our own settings: four crops of a decoded image, a fifth of them of clean modalities."""
    return Recipe(
        "tgecnet-restore-duskfuse",
        "tgecnet",
        TGECNetConfig(stage="restore", initialisation="scaled"),
        RestoreLoss(),
        batch_size=60,
    )


def tgecnet_fuse_duskfuse() -> Recipe:
    """TG-ECNet stage 2 by our own settings, on top of `tgecnet-restore-duskfuse`."""
    return Recipe(
        "tgecnet-fuse-duskfuse",
        "tgecnet",
        TGECNetConfig(stage="fuse", initialisation="scaled"),
        FuseLoss(),
        batch_size=42,
    )


TINY = TGECNetConfig(
    width=12,
    blocks=(1, 1, 1, 1),
    refinement=1,
    experts=4,
    top_k=2,
    prompt_width=64,
    bank_channels=(12, 24, 48),
    bank_sizes=(32, 16, 8),
    residual=0.5,
    prompt_padding=1,
    initialisation="scaled",
)


def tgecnet_restore_tiny() -> Recipe:
    """Stage 1 small enough for two CPU cores: 0.95 million parameters."""
    return Recipe(
        "tgecnet-restore-tiny",
        "tgecnet",
        replace(TINY, stage="restore"),
        RestoreLoss(balance=0.02, gradient=1.0),
        OptimConfig(lr=2e-3, warmup_fraction=0.05, max_grad_norm=1.0),
        CropConfig(size=96, per_image=1, identity_probability=0.15),
        ValidationConfig(rows=24, size=128),
        epochs=5,
        batch_size=4,
    )


def tgecnet_fuse_tiny() -> Recipe:
    """Stage 2 on top of `tgecnet-restore-tiny`."""
    return replace(
        tgecnet_restore_tiny(),
        name="tgecnet-fuse-tiny",
        model=replace(TINY, stage="fuse"),
        loss=FuseLoss(balance=0.02),
        epochs=2,
    )


def moefusion() -> Recipe:
    """MoE-Fusion (E4K2) as in the paper, without its detectors: attention is 0.5 everywhere, the boxes shape the loss.

    Paper: 24 epochs, batch 4, Adam at 1e-4, images of 640 x 480. Authors' files: weight decay 1e-4, a tenth of the rate
    from epochs 16 and 22 on, gradients clipped to 35, each image three times an epoch, whole and never flipped.
    """
    return Recipe(
        "moefusion",
        "moefusion",
        MoEFusionConfig(),
        MoEFusionLoss(),
        OptimConfig(lr=1e-4, weight_decay=1e-4, milestones=(16, 22), max_grad_norm=35.0),
        CropConfig(per_image=1, flips=False, resize=(480, 640), shuffle_buffer=128),
        epochs=24,
        batch_size=4,
        repeats=3,
    )


def moefusion_duskfuse() -> Recipe:
    """MoE-Fusion without its detectors by our own settings: crops of 480 x 480 with flips, each image once an epoch.

    Its gates see their inputs standardised, on a coarse grid, so that images differ in their choice.
    """
    return replace(
        moefusion(),
        name="moefusion-duskfuse",
        model=MoEFusionConfig(gate_inputs="standardised", grid=(2, 2)),
        optim=OptimConfig(lr=1e-4, weight_decay=1e-4, milestones=(16, 22)),
        crops=CropConfig(size=480, per_image=1),
        repeats=1,
    )


def moefusion_tiny() -> Recipe:
    """MoE-Fusion narrow, on small crops: minutes on two CPU cores. Too short for gates that choose by image."""
    return replace(
        moefusion_duskfuse(),
        name="moefusion-tiny",
        model=MoEFusionConfig(width=8, decoder_widths=(24, 12, 8), grid=(6, 8)),
        optim=OptimConfig(lr=2e-3, warmup_fraction=0.05, max_grad_norm=1.0),
        crops=CropConfig(size=96, per_image=2),
        validation=ValidationConfig(rows=24, size=128),
        epochs=4,
    )


def aenet() -> Recipe:
    """AE-Netv2 (GCB) as in its paper: 10 epochs at 1e-3, then 100 at 1e-4, patches of 128 x 128, batch 16.

    There are no files of the authors. Open, and ours: Adam, one patch of a pair in an epoch, flips, E = L1 + 1 - SSIM.
    """
    return Recipe(
        "aenet",
        "aenet",
        AENetConfig(),
        AENetLoss(),
        OptimConfig(lr=1e-3, milestones=(10,)),
        CropConfig(size=128, per_image=1),
        ValidationConfig(rows=24, size=256),
        epochs=110,
        batch_size=16,
    )


def aenet_tiny() -> Recipe:
    """AE-Netv2 (GCB) for 6 short epochs: seconds on two CPU cores."""
    return replace(
        aenet(),
        name="aenet-tiny",
        optim=OptimConfig(lr=2e-3, milestones=(4,)),
        crops=CropConfig(size=64, per_image=1),
        validation=ValidationConfig(rows=8, size=128),
        epochs=6,
        batch_size=4,
    )


def blendnet() -> Recipe:
    """Return BlendNet (135 thousand parameters) as it is shipped: hours on two CPU cores."""
    return Recipe(
        "blendnet",
        "blendnet",
        BlendNetConfig(),
        BlendLoss(),
        OptimConfig(lr=1e-3, warmup_fraction=0.01, max_grad_norm=1.0),
        CropConfig(size=128, per_image=2, tone=0.5),
        ValidationConfig(rows=24, size=256),
        epochs=100,
        batch_size=8,
    )


def blendnet_tiny() -> Recipe:
    """Return BlendNet narrow, on small crops: seconds on two CPU cores."""
    return replace(
        blendnet(),
        name="blendnet-tiny",
        model=BlendNetConfig((8, 12)),
        crops=CropConfig(size=64, per_image=1, tone=0.5),
        validation=ValidationConfig(rows=8, size=128),
        epochs=4,
        batch_size=4,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "tgecnet-restore": tgecnet_restore,
    "tgecnet-fuse": tgecnet_fuse,
    "tgecnet-restore-duskfuse": tgecnet_restore_duskfuse,
    "tgecnet-fuse-duskfuse": tgecnet_fuse_duskfuse,
    "tgecnet-restore-tiny": tgecnet_restore_tiny,
    "tgecnet-fuse-tiny": tgecnet_fuse_tiny,
    "moefusion": moefusion,
    "moefusion-duskfuse": moefusion_duskfuse,
    "moefusion-tiny": moefusion_tiny,
    "aenet": aenet,
    "aenet-tiny": aenet_tiny,
    "blendnet": blendnet,
    "blendnet-tiny": blendnet_tiny,
}


def recipe(name: str) -> Recipe:
    """Return the recipe of that name. UserError names the known ones."""
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}. Known: {', '.join(RECIPES)}.")
    return RECIPES[name]()
