"""`duskfuse fuse` on two files: a pair of images, or a pair of videos. No Ray; at once.

    duskfuse fuse --visible a.jpg --infrared b.jpg --out c.png
    duskfuse fuse --visible a.mp4 --infrared b.mp4 --out c.mp4

Without --checkpoint or --method the AE-Netv2 that comes with the package fuses.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from tqdm import tqdm

from detection.moefusion.joint import attention_maps
from fusion import inference, realtime, storage, weights
from fusion.errors import UserError
from fusion.images.colour import to_grey
from fusion.images.decode import decode
from fusion.images.formats import BadImage
from fusion.images.png import encode_png
from fusion.models.aenet import AENet
from workflows.console import log_progress
from workflows.fuse.methods import classical_fuse_fn, load_network

if TYPE_CHECKING:
    from workflows.fuse.options import Args

VIDEOS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}
READ = (*VIDEOS, ".webm", ".mpg", ".mpeg", ".wmv")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
RATES_DIFFER = 0.01  # frames a second
Fuse = Callable[[np.ndarray, np.ndarray], np.ndarray]


def run(args: Args) -> None:
    """Fuse --visible and --infrared into --out; the options have been checked."""
    kinds = {_extension(path) in READ for path in (args.visible, args.infrared)}
    if len(kinds) > 1:
        raise UserError(f"{args.visible} and {args.infrared}: one is a video, the other is not.")
    fuse = build_fuse_fn(args)
    (video if kinds.pop() else image)(args, fuse)


def _extension(path: str) -> str:
    return os.path.splitext(path.partition("?")[0])[1].lower()


def build_fuse_fn(args: Args) -> Fuse:
    """(visible RGB or grey, infrared grey) -> fused, all uint8."""

    if args.method is not None:
        return classical_fuse_fn(args.method, args.colour)
    loaded, twin = (weights.load(), None) if args.checkpoint is None else load_network(args.checkpoint)[:2]
    if loaded.model.config.stage == "restore":
        raise UserError(f"{args.checkpoint} restores and does not fuse. Give a checkpoint of stage 2, or use --pairs.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = loaded.model
    if isinstance(model, AENet):
        model = realtime.fold(model) if device == "cpu" else realtime.on_gpu(model)
    else:
        model = model.to(device)
    if twin is None:
        return lambda visible, infrared: inference.fuse(model, visible, infrared)

    twin = twin.to(device)
    return lambda visible, infrared: inference.fuse(model, visible, infrared, attention_maps(twin, visible, infrared))


def fit(visible: np.ndarray, infrared: np.ndarray, args: Args) -> np.ndarray:
    """The infrared image, at the visible one's size if --resize allows it."""
    if visible.shape[:2] == infrared.shape[:2]:
        return infrared
    sizes = [f"{shape[1]}x{shape[0]}" for shape in (visible.shape, infrared.shape)]
    if not args.resize:
        raise UserError(
            f"the visible image is {sizes[0]}, the infrared one {sizes[1]}. Give images of one size, or --resize, "
            "which scales the infrared one."
        )

    smaller = visible.shape[0] < infrared.shape[0]
    way = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return cv2.resize(infrared, visible.shape[1::-1], interpolation=way)


def image(args: Args, fuse: Fuse) -> None:
    """One pair of images; the format is that of the name of --out."""

    extension = _extension(args.out)
    if extension not in PICTURES:
        raise UserError(f"--out {args.out}: give a file name that ends in one of {', '.join(PICTURES)}.")
    pair = []
    for path in (args.visible, args.infrared):
        try:
            pair.append(decode(storage.read_bytes(path)).pixels)
        except FileNotFoundError as error:
            raise UserError(f"there is no file {path}.") from error
        except (OSError, BadImage) as error:
            raise UserError(f"{path} cannot be read ({error}).") from error
    visible, infrared = pair[0], to_grey(pair[1])
    infrared = fit(visible, infrared, args)
    start = time.perf_counter()
    fused = fuse(visible, infrared)
    seconds = time.perf_counter() - start
    if extension == ".png":
        data = encode_png(fused)
    else:
        data = cv2.imencode(extension, fused if fused.ndim == 2 else fused[..., ::-1])[1].tobytes()
    storage.write_bytes(args.out, data)
    print(f"{args.out}: {fused.shape[1]}x{fused.shape[0]}, fused in {seconds * 1e3:.0f} ms")


def video(args: Args, fuse: Fuse) -> None:
    """One pair of videos, frame by frame, under a temporary name until it is whole."""

    extension = _extension(args.out)
    if extension not in VIDEOS or storage.is_uri(args.out):
        raise UserError(f"--out {args.out}: give a file on this machine whose name ends in one of {', '.join(VIDEOS)}.")
    sources = [Video(path) for path in (args.visible, args.infrared)]
    first, second = sources
    if abs(first.rate - second.rate) > RATES_DIFFER:
        raise UserError(f"{args.visible} has {first.rate:g} frames a second, {args.infrared} {second.rate:g}.")
    if first.count != second.count:
        raise UserError(f"{args.visible} has {first.count} frames, {args.infrared} {second.count}. Cut them alike.")
    path = storage.absolute(args.out)
    folder, name = os.path.split(path)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {args.out}: {error.strerror}. Choose another place.") from error
    temporary = os.path.join(folder, f".{name}.part{extension}")
    writer = None
    number, busy = 0, 0.0
    try:
        with tqdm(total=first.count or None, unit="frame", desc="fuse", mininterval=1) as bar:
            for visible, infrared in itertools.zip_longest(first.frames(), second.frames()):
                if visible is None or infrared is None:
                    ended = args.visible if visible is None else args.infrared
                    raise UserError(f"{ended} ended or broke off after {number} frames, before the other video.")
                grey = cv2.cvtColor(infrared, cv2.COLOR_RGB2GRAY)
                grey = fit(visible, grey, args)
                start = time.perf_counter()
                fused = fuse(visible, grey)
                busy += time.perf_counter() - start
                if writer is None:
                    code = cv2.VideoWriter_fourcc(*VIDEOS[extension])
                    writer = cv2.VideoWriter(temporary, code, first.rate, fused.shape[1::-1])
                    if not writer.isOpened():
                        raise UserError(f"{args.out} cannot be written as a video. Try a name that ends in .avi.")
                # a frame without colour, a black one for example, is fused to grey
                writer.write(cv2.cvtColor(fused, cv2.COLOR_GRAY2BGR) if fused.ndim == 2 else fused[..., ::-1])
                number += 1
                bar.update(1)
    finally:
        if writer is not None:
            writer.release()
        if sys.exc_info()[0] is not None and os.path.exists(temporary):
            os.remove(temporary)
    if not number:
        raise UserError(f"{args.visible} and {args.infrared} have no frames that can be read.")
    os.replace(temporary, path)
    if number < first.count:
        log_progress(f"{args.visible} and {args.infrared}: only {number} of {first.count} frames could be read")
    print(f"{args.out}: {number} frames, fused at {number / max(busy, 1e-9):.1f} frames a second")


class Video:
    """Frames of a file, RGB. UserError: it cannot be opened."""

    def __init__(self, path: str) -> None:

        if not os.path.exists(path):
            raise UserError(f"there is no file {path}.")
        self.path, self.capture = path, cv2.VideoCapture(path)
        if not self.capture.isOpened():
            raise UserError(f"{path} cannot be read as a video.")
        self.rate = float(self.capture.get(cv2.CAP_PROP_FPS)) or 25.0
        self.count = max(0, int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT)))  # 0: not known

    def frames(self) -> Iterator[np.ndarray]:
        while True:
            there, frame = self.capture.read()
            if not there:
                return
            yield np.ascontiguousarray(frame[..., ::-1])
