"""What differs between the kinds of training: the images a network takes, its loss, what validation looks at.

A new kind is a line here and its loss terms in `losses.TERMS`. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion.training.configs import AENetLoss, BlendLoss, FuseLoss, MoEFusionLoss, RestoreLoss

if TYPE_CHECKING:
    from torch import Tensor, nn

Roles = dict[str, str]  # a key of a batch -> the name of an image of a sample
Inputs = Callable[[Any, np.random.Generator | None, float], Roles]


@dataclass(frozen=True)
class Stage:
    """One row of the table. Names are keys of a batch (`fusion.training.crops`).

    loss        the class of its loss weights
    images      what the network is called with
    inputs      (sample, generator or None in validation, identity share) -> which images of a sample a batch takes
    truth       what validation scores the image against
    metrics     of validation
    before      validation adds the PSNR of this image as "psnr_input"
    continues   starts from a checkpoint of stage "restore"
    fuses       the network makes one image of a pair
    """

    loss: type
    images: tuple[str, ...]
    inputs: Inputs
    truth: tuple[str, str]
    metrics: tuple[str, ...]
    before: str | None = None
    continues: bool = False
    fuses: bool = True

    def call(self, network: nn.Module, batch: dict[str, Tensor]) -> Any:
        """Return the network's output; "attention" goes along where a batch has it."""
        return network(*(batch[name] for name in (*self.images, "attention") if name in batch))


def _one_modality(sample: Any, rng: np.random.Generator | None, identity_probability: float) -> Roles:
    """Take a degraded modality; in training, by `identity_probability`, one that is not degraded."""
    degraded = sample.degraded_modalities or ("visible", "infrared")
    others = tuple(name for name in ("visible", "infrared") if name not in degraded)
    pool = others if rng is not None and others and rng.random() < identity_probability else degraded
    name = pool[0] if rng is None else pool[rng.integers(len(pool))]
    return {"clean": name, "degraded": f"degraded_{name}"}


def _both_and_clean(sample: Any, rng: np.random.Generator | None, identity_probability: float) -> Roles:
    return {name: name for name in ("visible", "infrared", "degraded_visible", "degraded_infrared")}


def _pair(sample: Any, rng: np.random.Generator | None, identity_probability: float) -> Roles:
    return {"visible": "visible", "infrared": "infrared"}


def _pair_and_mask(sample: Any, rng: np.random.Generator | None, identity_probability: float) -> Roles:
    return {"visible": "visible", "infrared": "infrared", "mask": "boxes"}


def _pair_and_boxes(sample: Any, rng: np.random.Generator | None, identity_probability: float) -> Roles:
    return _pair_and_mask(sample, rng, identity_probability) | {"colour": "colour", "boxes": "boxes_n5"}


def _pair_and_label(sample: Any, rng: np.random.Generator | None, identity_probability: float) -> Roles:
    """Labels come from an evolution; a sample of a corpus has none."""
    return {name: name for name in ("visible", "infrared", "label") if hasattr(sample, name)}


PAIR = ("visible", "infrared")
DEGRADED_PAIR = ("degraded_visible", "degraded_infrared")
FUSION = ("qabf", "vif", "en")

STAGES: dict[str, Stage] = {
    "restore": Stage(
        RestoreLoss, ("degraded",), _one_modality, ("clean", "clean"), ("psnr", "ssim"), before="degraded", fuses=False
    ),
    "fuse": Stage(FuseLoss, DEGRADED_PAIR, _both_and_clean, PAIR, FUSION, continues=True),
    "moefusion": Stage(MoEFusionLoss, PAIR, _pair_and_mask, PAIR, FUSION),
    "moefusion-joint": Stage(MoEFusionLoss, PAIR, _pair_and_boxes, PAIR, FUSION),  # its detectors give the attention
    "aenet": Stage(AENetLoss, PAIR, _pair_and_label, PAIR, FUSION),
    "blend": Stage(BlendLoss, PAIR, _pair, PAIR, ("qabf_smaller", "vif_smaller", *FUSION)),
}
