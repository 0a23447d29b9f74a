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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from tqdm import tqdm

from fusion import storage, weights
from fusion.errors import UserError
from fusion.images.colour import to_grey
from fusion.images.decode import decode
from fusion.images.formats import BadImage
from fusion.images.png import encode_png
from workflows.console import log_progress
from workflows.fuse.methods import FuseFn, classical_fuse_fn, load_network

if TYPE_CHECKING:
    from workflows.fuse.options import Args

VIDEOS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}
READABLE_VIDEOS = (*VIDEOS, ".webm", ".mpg", ".mpeg", ".wmv")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MAX_RATE_DIFFERENCE = 0.01  # frames a second


@dataclass(frozen=True)
class FilePair:
    """Two images or two videos, and the file for the fused one.

    resize: scale the infrared file to the size of the visible one where they differ.
    """

    visible: str
    infrared: str
    out: str
    resize: bool


def run(args: Args) -> None:
    """Fuse --visible and --infrared into --out; the options have been checked."""
    assert args.visible is not None and args.infrared is not None
    files = FilePair(args.visible, args.infrared, args.out, args.resize)
    kinds = {_extension(path) in READABLE_VIDEOS for path in (files.visible, files.infrared)}
    if len(kinds) > 1:
        raise UserError(f"{files.visible} and {files.infrared}: one is a video, the other is not.")
    fuse = build_fuse_fn(args)
    (fuse_videos if kinds.pop() else fuse_images)(files, fuse)


def _extension(path: str) -> str:
    return os.path.splitext(path.partition("?")[0])[1].lower()


def build_fuse_fn(args: Args) -> FuseFn:
    """Return the function that fuses a pair, by a method, a checkpoint or the network of the package."""
    if args.method is not None:
        return classical_fuse_fn(args.method, args.colour)
    network = load_network(str(weights.folder()) if args.checkpoint is None else args.checkpoint)
    if network.restores:
        raise UserError(f"{args.checkpoint} restores and does not fuse. Give a checkpoint of stage 2, or use --pairs.")
    network = network.ready()
    return lambda visible, infrared: network.fuse(visible, infrared)[0]


def match_size(visible: np.ndarray, infrared: np.ndarray, files: FilePair) -> np.ndarray:
    """Return the infrared image, at the visible one's size if --resize allows it."""
    if visible.shape[:2] == infrared.shape[:2]:
        return infrared
    sizes = [f"{shape[1]}x{shape[0]}" for shape in (visible.shape, infrared.shape)]
    if not files.resize:
        raise UserError(
            f"the visible image is {sizes[0]}, the infrared one {sizes[1]}. Give images of one size, or --resize, "
            "which scales the infrared one."
        )

    smaller = visible.shape[0] < infrared.shape[0]
    way = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return cv2.resize(infrared, visible.shape[1::-1], interpolation=way)


def fuse_images(files: FilePair, fuse: FuseFn) -> None:
    """Fuse one pair of images; the format is that of the name of --out."""
    extension = _extension(files.out)
    if extension not in IMAGES:
        raise UserError(f"--out {files.out}: give a file name that ends in one of {', '.join(IMAGES)}.")
    pair = []
    for path in (files.visible, files.infrared):
        try:
            pair.append(decode(storage.read_bytes(path)).pixels)
        except FileNotFoundError as error:
            raise UserError(f"there is no file {path}.") from error
        except (OSError, BadImage) as error:
            raise UserError(f"{path} cannot be read ({error}).") from error
    visible, infrared = pair[0], to_grey(pair[1])
    infrared = match_size(visible, infrared, files)
    start = time.perf_counter()
    fused = fuse(visible, infrared)
    seconds = time.perf_counter() - start
    if extension == ".png":
        data = encode_png(fused)
    else:
        data = cv2.imencode(extension, fused if fused.ndim == 2 else fused[..., ::-1])[1].tobytes()
    storage.write_bytes(files.out, data)
    print(f"{files.out}: {fused.shape[1]}x{fused.shape[0]}, fused in {seconds * 1e3:.0f} ms")


def fuse_videos(files: FilePair, fuse: FuseFn) -> None:
    """Fuse one pair of videos, frame by frame, under a temporary name until it is whole."""
    extension = _extension(files.out)
    if extension not in VIDEOS or storage.is_uri(files.out):
        raise UserError(
            f"--out {files.out}: give a file on this machine whose name ends in one of {', '.join(VIDEOS)}."
        )
    sources = [Video(path) for path in (files.visible, files.infrared)]
    first, second = sources
    if abs(first.rate - second.rate) > MAX_RATE_DIFFERENCE:
        raise UserError(f"{files.visible} has {first.rate:g} frames a second, {files.infrared} {second.rate:g}.")
    if first.count != second.count:
        raise UserError(f"{files.visible} has {first.count} frames, {files.infrared} {second.count}. Cut them alike.")
    path = storage.absolute(files.out)
    folder, name = os.path.split(path)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {files.out}: {error.strerror}. Choose another place.") from error
    temporary = os.path.join(folder, f".{name}.part{extension}")
    writer = None
    number, busy = 0, 0.0
    try:
        with tqdm(total=first.count or None, unit="frame", desc="fuse", mininterval=1) as bar:
            for visible, infrared in itertools.zip_longest(first.frames(), second.frames()):
                if visible is None or infrared is None:
                    ended = files.visible if visible is None else files.infrared
                    raise UserError(f"{ended} ended or broke off after {number} frames, before the other video.")
                grey = cv2.cvtColor(infrared, cv2.COLOR_RGB2GRAY)
                grey = match_size(visible, grey, files)
                start = time.perf_counter()
                fused = fuse(visible, grey)
                busy += time.perf_counter() - start
                if writer is None:
                    code = cv2.VideoWriter.fourcc(*VIDEOS[extension])
                    writer = cv2.VideoWriter(temporary, code, first.rate, fused.shape[1::-1])
                    if not writer.isOpened():
                        raise UserError(f"{files.out} cannot be written as a video. Try a name that ends in .avi.")
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
        raise UserError(f"{files.visible} and {files.infrared} have no frames that can be read.")
    os.replace(temporary, path)
    if number < first.count:
        log_progress(f"{files.visible} and {files.infrared}: only {number} of {first.count} frames could be read")
    print(f"{files.out}: {number} frames, fused at {number / max(busy, 1e-9):.1f} frames a second")


class Video:
    """Frames of a file, uint8 (H, W, 3), RGB. UserError: it cannot be opened."""

    def __init__(self, path: str) -> None:

        if not os.path.exists(path):
            raise UserError(f"there is no file {path}.")
        self.path, self.capture = path, cv2.VideoCapture(path)
        if not self.capture.isOpened():
            raise UserError(f"{path} cannot be read as a video.")
        self.rate = float(self.capture.get(cv2.CAP_PROP_FPS)) or 25.0
        self.count = max(0, int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT)))  # 0: not known

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames in order."""
        while True:
            success, frame = self.capture.read()
            if not success:
                return
            yield np.ascontiguousarray(frame[..., ::-1])
