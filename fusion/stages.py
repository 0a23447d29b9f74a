"""What differs between the kinds of training: the images a network takes, its loss terms, what validation looks at.

A new kind is a function of terms in `losses`, a line here, and the roles of its images in `crops.inputs`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fusion import losses
from fusion.losses import AENetLoss, FuseLoss, MoEFusionLoss, RestoreLoss, Terms

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Stage:
    """One row of the table. Names are keys of a batch (`fusion.crops`)."""

    loss: type  # its weights
    images: tuple[str, ...]  # what the network is called with
    terms: Callable[[Any, Batch], Terms]  # of the network's output, in float32
    truth: tuple[str, str]  # what validation scores the image against
    metrics: tuple[str, ...]
    before: str | None = None  # what validation compares with: the PSNR of this image is "psnr_in"
    continues: bool = False  # starts from a checkpoint of stage "restore"

    def call(self, network: nn.Module, batch: Batch) -> Any:
        """The network's output; "attention" goes along where a batch has it."""
        return network(*(batch[name] for name in (*self.images, "attention") if name in batch))


def _restore(output: Any, batch: Batch) -> Terms:
    return losses.restore_terms(output.image.float(), batch["clean"], output.balance.float())


def _fuse(output: Any, batch: Batch) -> Terms:
    return losses.fuse_terms(output.image.float(), batch["visible"], batch["infrared"], output.balance.float())


def _moefusion(output: Any, batch: Batch) -> Terms:
    return losses.moefusion_terms(
        output.image.float(), batch["visible"], batch["infrared"], batch["mask"], output.loads
    )


def _aenet(output: Any, batch: Batch) -> Terms:
    return losses.aenet_terms(output.image.float(), batch["visible"], batch["infrared"], batch.get("label"))


PAIR = ("visible", "infrared")
FUSION = ("qabf", "vif", "en")

STAGES: dict[str, Stage] = {
    "restore": Stage(RestoreLoss, ("degraded",), _restore, ("clean", "clean"), ("psnr", "ssim"), before="degraded"),
    "fuse": Stage(FuseLoss, ("degraded_visible", "degraded_infrared"), _fuse, PAIR, FUSION, continues=True),
    "moefusion": Stage(MoEFusionLoss, PAIR, _moefusion, PAIR, FUSION),
    "moefusion-joint": Stage(MoEFusionLoss, PAIR, _moefusion, PAIR, FUSION),  # its detectors give the attention
    "aenet": Stage(AENetLoss, PAIR, _aenet, PAIR, FUSION),
}
