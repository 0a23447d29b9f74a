"""What a trained detector finds in the fused validation images, every epoch of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from detection.average_precision import ap, match
from detection.boxes import truth
from detection.load import find_detector, load_detector
from detection.moefusion.joint import JointEngine, attention_maps
from detection.protocol import mean_of_present
from fusion.data.class_names import standard_name
from fusion.errors import UserError
from fusion.inference import fuse
from fusion.training.stages import STAGES
from workflows.train.collectives import all_gather

if TYPE_CHECKING:
    from fusion.data.corpus import Sample
    from fusion.training.engine import Engine
    from fusion.training.recipes import Recipe

METRICS = ("map50", "map50_95")


def check(weights: str, recipe: Recipe) -> None:
    """Raise UserError, before anything runs, where the recipe makes no fused images or there is no such detector."""
    if not STAGES[recipe.model.stage].fuses:
        raise UserError(f"--detector looks at fused images; {recipe.name} restores. Use it with stage 2.")
    load_detector(find_detector(weights), (), {}, None, "cpu")


class DetectionMetric:
    """Mean average precision of the engine's network, on this worker's samples together with those of the others.

    Whole images are fused, by as many as `size` workers at once. Classes are those of the samples' boxes.
    """

    def __init__(self, weights: str, samples: Sequence[Sample], engine: Engine, size: int) -> None:
        self.engine, self.size = engine, size
        names = {standard_name(name) for sample in samples for name in sample.classes}
        self.classes = tuple(sorted(set().union(*all_gather(names, size))))
        if not self.classes:
            raise UserError("--detector: the validation rows of the corpus have no boxes to be found")
        roles = STAGES[engine.stage].images
        self.pairs = [tuple(getattr(sample, role) for role in roles) for sample in samples]
        self.truths = [truth(sample.boxes, sample.classes, self.classes, *sample.infrared.shape) for sample in samples]
        self.detect = load_detector(find_detector(weights), self.classes, {}, None, str(engine.device)).detect

    def __call__(self) -> dict[str, float]:
        """Return {"map50", "map50_95"}, in percent: means over the classes."""
        found = self.detect([self._fused(visible, infrared) for visible, infrared in self.pairs])
        parts = all_gather((self.truths, found), self.size)
        truths = [true_boxes for part, _ in parts for true_boxes in part]
        detections = [boxes for _, part in parts for boxes in part]
        values_TC = ap(match(truths, detections, self.classes))
        return {
            "map50": 100 * float(mean_of_present(values_TC[0])),
            "map50_95": 100 * float(mean_of_present(values_TC.mean(0))),
        }

    def _fused(self, visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        model = self.engine.model.eval()
        if not isinstance(self.engine, JointEngine):
            return fuse(model, visible, infrared)
        return fuse(model, visible, infrared, attention_maps(self.engine.detectors.eval(), visible, infrared))
