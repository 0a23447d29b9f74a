"""The options of `duskfuse detect`."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Annotated

import tyro

from detection.faster_rcnn.recipes import RECIPES as FASTER_RCNN_RECIPES
from detection.faster_rcnn.recipes import DetectorRecipe
from detection.yolo.config import YoloConfig
from fusion.errors import UserError
from workflows.options import Repeated, SplitOptions, parse_with_recipe


@dataclass(frozen=True, kw_only=True)
class Args(SplitOptions):
    """Options of a detection; --val-fraction is what YOLO keeps its best epoch by."""

    recipe: Recipe
    """The detector's training; any field can be set, as in --recipe.epochs 30."""
    out: str
    """Folder or s3://bucket/path of the tables and the detector."""
    pairs: str | None = None
    """Labelled pairs; their training split trains the detector, their test split is scored."""
    corpus: str | None = None
    """Score the degraded rows of this corpus instead of the pairs' test split."""
    split: str = "test"
    """What is scored of the pairs or the corpus: train, val, test, all."""
    fused: Repeated = ()
    """Folders of fused images, each NAME=DIR; visible and infrared are always scored."""
    detector: str = "yolo"
    """One of: yolo, yolo-small, faster-rcnn, faster-rcnn-small."""
    weights: str | None = None
    """A trained detector (--out of another run, its training/detector, or a YOLO .pt file) instead of training one.
    YOLO looks at images at the size it was trained with, unless --recipe.size is another."""
    train_on: str = "visible+infrared"
    """Images to train on: visible, infrared, names of --fused, several joined by +."""
    start: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """A trained detector that the training starts from, given as for --weights; Faster R-CNN's of the same classes."""
    classes: str = ""
    """Classes to detect, separated by commas; by default those that occur in the training split."""
    class_aliases: str = ""
    """Class names that count as another one, such as people=person,van=car."""
    resamples: int = 1000
    """Bootstrap draws."""
    num_images: int = 6
    """Images shown with their boxes."""
    threshold: float = 0.5
    """Score from which a box is shown in pictures."""
    workers: int = 0
    """Training workers of a Faster R-CNN; 0: one per GPU, or one with all CPUs of a node."""


def recipes() -> dict[str, Recipe]:
    """Return the detectors by name."""
    small = YoloConfig(size=320, epochs=30, batch=8)
    return {"yolo": YoloConfig(), "yolo-small": small} | {name: make() for name, make in FASTER_RCNN_RECIPES.items()}


def options(arguments: list[str]) -> Args:
    """Parse the command line. --detector decides which recipe, and so which options there are."""
    name = detector_named(arguments)
    known = recipes()
    if name not in known:
        raise UserError(f"unknown detector {name!r}. Known: {', '.join(known)}.")
    return parse_with_recipe(Args, "detect", arguments, known[name])


def detector_named(arguments: list[str]) -> str:
    """Return the value of --detector, which the recipe's own options depend on; the last one counts."""
    name = "yolo"
    for word, following in itertools.pairwise([*arguments, name]):
        if word == "--detector":
            name = following
        elif word.startswith("--detector="):
            name = word.partition("=")[2]
    return name


def size_of(args: Args) -> int:
    """Return YOLO's image size in pixels where another one than that of its training was asked for, else 0."""
    default = recipes()[args.detector]
    if not isinstance(args.recipe, YoloConfig) or not isinstance(default, YoloConfig):
        return 0
    return 0 if args.recipe.size == default.size else args.recipe.size


Recipe = DetectorRecipe | YoloConfig


def name_of(recipe: Recipe) -> str:
    """Return what a recipe is called in output."""
    return recipe.model.rpartition("/")[2] if isinstance(recipe, YoloConfig) else recipe.name
