from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from detection.faster_rcnn.model import DETECTORS, detect
from fusion import checkpoint, storage
from fusion.data.class_names import standard_name
from fusion.errors import UserError


def load(weights: str, classes: tuple[str, ...], same: dict, size: int, device: str):
    """A trained detector as a function of images: YOLO weights, or a Faster R-CNN's checkpoint. UserError: neither."""
    if weights_of_yolo(weights):
        from detection.yolo.detector import Yolo

        with tempfile.TemporaryDirectory() as folder:
            return Yolo(local(weights, Path(folder)), device, size or None, classes=classes, same=same)

    loaded = checkpoint.load(checkpoint.fetch(weights), models=DETECTORS)
    known = [standard_name(name, same) for name in loaded.model.config.classes]
    missing = [name for name in classes if name not in known]
    if missing:
        raise UserError(f"{weights} does not know {', '.join(missing)}: its classes are {', '.join(known)}.")
    places = [classes.index(name) if name in classes else -1 for name in known]
    return partial(detect, loaded.model.to(device), places=places)


def weights_of_yolo(weights: str) -> bool:

    return is_file_of_weights(weights) or storage.exists(storage.join(weights, "yolo.pt"))


MODEL = "detector"


def detector_in(where: str) -> str:
    """The folder of a trained detector, given as that, as a training or as the output of `duskfuse detect`."""
    if is_file_of_weights(where):
        return where
    for parts in ((), (MODEL,), ("training", MODEL)):
        folder = storage.join(where, *parts)
        if any(storage.exists(storage.join(folder, name)) for name in ("yolo.pt", "state.json")):
            return folder
    return where


def is_file_of_weights(where: str) -> bool:
    return where.partition("?")[0].endswith(".pt")  # a URI may have settings of its store behind the name


def local(where: str, home: Path) -> Path:
    """A local copy of the weights of a trained YOLO, given as its folder or its file."""
    path = where if is_file_of_weights(where) else storage.join(where, "yolo.pt")
    copy = home / "start.pt"
    try:
        copy.write_bytes(storage.read_bytes(path))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"no YOLO weights at {path}. Give what `duskfuse detect` trained, or a .pt file.") from error
    return copy
