"""The settings of a YOLO training. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from fusion.errors import UserError

STRIDE = 32  # image sides are multiples of it inside the network
RESERVED = frozenset(  # what train() decides; the rest of ultralytics' training settings may be given in `extra`
    "batch cfg data device epochs exist_ok freeze imgsz lr0 mode model name patience plots pretrained project resume "
    "save save_dir seed task val verbose".split()
)


@dataclass(frozen=True)
class YoloConfig:
    """A training of YOLO.

    Attributes:
        model: An architecture ("yolo11n.yaml": random weights) or weights to start from: a .pt file, which may have
            other classes, or the name of published ones ("yolo11n.pt").
        size: The longer side of the images inside the network, in pixels.
        epochs: Passes over the training images.
        batch: Images per step.
        lr0: First learning rate, of AdamW unless `extra` says otherwise; 0 lets ultralytics choose rate and optimiser.
        seed: Of all draws.
        patience: Stop after that many epochs without a better validation.
        freeze: That many first layers keep their weights.
        num_workers: Processes that load images for a GPU (none on a CPU).
        extra: Other settings of ultralytics' training as "key=value", for example ("mosaic=0", "optimizer=SGD").
    """

    model: str = "yolo11n.yaml"
    size: int = 640
    epochs: int = 100
    batch: int = 16
    lr0: float = 0.0
    seed: int = 0
    patience: int = 100
    freeze: int = 0
    num_workers: int = 4
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.model.endswith((".yaml", ".pt")):
            raise UserError(f"YOLO model {self.model!r} must be a .yaml (architecture) or .pt (weights) file")
        if self.size <= 0 or self.size % STRIDE:
            raise UserError(f"YOLO size {self.size} must be a multiple of {STRIDE}, for example 320 or 640")
        for name, least in (("epochs", 1), ("batch", 1), ("lr0", 0), ("seed", 0), ("patience", 0), ("freeze", 0)):
            if not getattr(self, name) >= least:
                raise UserError(f"YOLO {name} {getattr(self, name)} must be {least} or more")
        object.__setattr__(self, "extra", tuple(self.extra))
        self.overrides()

    def overrides(self) -> dict[str, Any]:
        """Return `extra` as a table, values read as YAML.

        Raises:
            UserError: Not of the form key=value, or a setting that has a field here or that train() decides.
        """
        table = {}
        for part in self.extra:
            key, equals, value = part.partition("=")
            if not equals or not key.strip():
                raise UserError(f"YOLO setting {part!r} is not of the form key=value, for example mosaic=0")
            if key.strip() in RESERVED:
                raise UserError(f"YOLO setting {key.strip()!r} cannot be given as an extra: it has its own place")
            try:
                table[key.strip()] = yaml.safe_load(value)
            except yaml.YAMLError:
                raise UserError(f"YOLO setting {part!r}: the value cannot be read") from None
        return table
