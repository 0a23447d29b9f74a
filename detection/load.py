"""Trained detectors, found by the folder of what made them and loaded as functions of images."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from detection.boxes import Detections
from detection.faster_rcnn.model import DETECTORS, Detector, detect
from detection.yolo.detector import Yolo
from fusion import checkpoint, storage
from fusion.data.class_names import standard_name
from fusion.errors import UserError

FOLDER = "detector"  # of a trained detector, in the output of a training
YOLO_WEIGHTS = "yolo.pt"


class DetectFunction(Protocol):
    """A detector of a list of classes."""

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Return the detections in each image: uint8, H W 3 (RGB) or H W, of any sizes."""


class LoadedDetector(NamedTuple):
    """A trained detector.

    Attributes:
        detect: Returns the detections in images.
        image_size: The longer side of images inside a YOLO network, in pixels; None for a Faster R-CNN.
    """

    detect: DetectFunction
    image_size: int | None


def load_detector(
    weights: str, classes: Sequence[str], class_aliases: Mapping[str, str], size: int | None, device: str
) -> LoadedDetector:
    """Load a trained detector.

    Args:
        weights: The weights of a YOLO (a .pt file, or a folder with yolo.pt), or the checkpoint of a Faster R-CNN.
        classes: The class list by which its detections are numbered; it must know all of them.
        class_aliases: For the comparison of class names, see `standard_name`.
        size: Of images inside a YOLO network, in pixels; None: as in its training.
        device: Where it runs.

    Raises:
        UserError: No such detector, or it does not know one of the classes.
    """
    if is_yolo(weights):
        with tempfile.TemporaryDirectory() as folder:
            path = download_weights(weights, Path(folder))
            yolo = Yolo(path, device, size, classes=classes, class_aliases=class_aliases)
        return LoadedDetector(yolo, yolo.size)

    model = load_faster_rcnn(weights).to(device)
    known = [standard_name(name, class_aliases) for name in model.config.classes]
    missing = [name for name in classes if name not in known]
    if missing:
        raise UserError(f"{weights} does not know {', '.join(missing)}: its classes are {', '.join(known)}.")
    indices = [classes.index(name) if name in classes else -1 for name in known]
    return LoadedDetector(lambda images: detect(model, images, indices), None)


def load_faster_rcnn(checkpoint_folder: str) -> Detector:
    """Load a Faster R-CNN, on the CPU and in evaluation mode. UserError: it is not one."""
    model = checkpoint.load(checkpoint.fetch(checkpoint_folder), models=DETECTORS).model
    assert isinstance(model, Detector)  # DETECTORS has no other
    return model


def is_yolo(weights: str) -> bool:
    """Return whether these are the weights of a YOLO: a .pt file, or a folder that holds yolo.pt."""
    return is_weights_file(weights) or storage.exists(storage.join(weights, YOLO_WEIGHTS))


def is_weights_file(path: str) -> bool:
    """Return whether a path or URI names a .pt file."""
    return path.partition("?")[0].endswith(".pt")  # a URI may have settings of its store behind the name


def find_detector(path: str) -> str:
    """Return the folder of a trained detector, given as that, as a training or as an output of `duskfuse detect`.

    A .pt file, and a folder without a detector, are returned as they are.
    """
    if is_weights_file(path):
        return path
    for parts in ((), (FOLDER,), ("training", FOLDER)):
        folder = storage.join(path, *parts)
        if any(storage.exists(storage.join(folder, name)) for name in (YOLO_WEIGHTS, "state.json")):
            return folder
    return path


def download_weights(weights: str, folder: Path) -> Path:
    """Copy the weights of a trained YOLO, given as its folder or its file, into a local folder. Return the copy.

    Raises:
        UserError: There are none.
    """
    path = weights if is_weights_file(weights) else storage.join(weights, YOLO_WEIGHTS)
    copy = folder / "start.pt"
    try:
        copy.write_bytes(storage.read_bytes(path))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"no YOLO weights at {path}. Give what `duskfuse detect` trained, or a .pt file.") from error
    return copy
