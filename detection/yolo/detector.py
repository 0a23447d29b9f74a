"""Running a trained ultralytics YOLO, offline, without its side effects on the process.

    data_yaml = data.write_dataset(folder, images, classes)
    trained = train.train(data_yaml, config.YoloConfig(epochs=50), out)
    detections = detector.Yolo(trained.weights)(images)

`detection.yolo.offline` imports ultralytics and says why a .pt file is a risk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.ops import batched_nms  # ultralytics uses it, too, where torchvision is imported

from detection.boxes import Detections
from detection.yolo.config import STRIDE
from detection.yolo.offline import fetch, load_network, suppress_output
from fusion.data.class_names import standard_name
from fusion.errors import UserError

PADDING_GREY = 114  # of the border that fills images up to such sides, as in ultralytics' own training


class Yolo:
    """A trained detector as a function of uint8 images.

    Images are resized, padded and thresholded as in ultralytics' own validation (longer side `size`, grey border up to
    multiples of 32, non-maximum suppression per class, several classes a box, scores from 0.001, IoU 0.7, 300 boxes an
    image at most): these are the detections that its model.val() scores, but cut off at the image's border, where
    model.val() lets them reach beyond it and so finds a lower IoU.

    Attributes:
        size: The longer side of images inside the network, in pixels.
        names: The class list by which detections are numbered.
    """

    def __init__(
        self,
        weights: str | Path,
        device: str = "cpu",
        size: int | None = None,
        *,
        classes: Sequence[str] | None = None,
        class_aliases: Mapping[str, str] | None = None,
        allow_missing: bool = False,
        allow_download: bool = False,
        confidence: float = 0.001,
        overlap: float = 0.7,
        limit: int = 300,
        batch: int = 16,
    ) -> None:
        """Load the weights.

        Args:
            weights: A .pt file, or the name of published weights.
            device: Where it runs.
            size: Of images inside the network; by default that of its training.
            classes: The class list by which detections are numbered; detections of other classes are dropped. By
                default the detector's own classes, in its order.
            class_aliases: For the comparison of names, see `standard_name`.
            allow_missing: Accept classes that the detector does not know, unless it knows none of them.
            allow_download: Fetch published weights.
            confidence: Least score of a detection.
            overlap: IoU of non-maximum suppression.
            limit: Most detections in an image.
            batch: Most images in a batch.

        Raises:
            UserError: No such file, a damaged file, not a detector, a size that is not a multiple of 32, or classes
                that the detector does not know.
        """
        network, contents = load_network(fetch(str(weights), allow_download))
        size = size or int((contents.get("train_args") or {}).get("imgsz") or 640)
        if size <= 0 or size % STRIDE:
            raise UserError(f"YOLO size {size} must be a multiple of {STRIDE}, for example 320 or 640")
        with suppress_output():
            self._network = network.fuse(verbose=False).to(device).eval()
        self._end2end = bool(getattr(network, "end2end", False))
        if self._end2end:
            network.set_head_attr(max_det=limit, agnostic_nms=False)
        known = [standard_name(network.names[index], class_aliases) for index in sorted(network.names)]
        self._device, self.size, self._batch = torch.device(device), size, batch
        self._confidence, self._overlap, self._limit = confidence, overlap, limit
        self.names = tuple(known) if classes is None else tuple(classes)
        indices = {standard_name(name, class_aliases): index for index, name in enumerate(self.names)}
        if classes is None:
            self._class_index = np.arange(len(known))
        else:
            self._class_index = np.array([indices.get(name, -1) for name in known], np.int64)
        missing = [name for name in self.names if standard_name(name, class_aliases) not in known]
        if missing and (not allow_missing or len(missing) == len(self.names)):
            raise UserError(
                f"{weights} does not know {', '.join(missing)}: its classes are {', '.join(known)}; "
                f"wanted are {', '.join(self.names)}"
            )

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Return the detections in each image, in its pixels, best first.

        Args:
            images: uint8, (H, W, 3) RGB or (H, W) grey, of any sizes.

        Raises:
            ValueError: Other arrays.
        """
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
                raise ValueError(f"an image must be uint8 (H, W) or (H, W, 3), got {image.dtype} {image.shape}")
            by_size.setdefault((image.shape[0], image.shape[1]), []).append(index)
        detections: dict[int, Detections] = {}
        for indices in by_size.values():
            for start in range(0, len(indices), self._batch):
                batch = indices[start : start + self._batch]
                detections |= zip(batch, self._run([images[index] for index in batch]), strict=True)
        return [detections[index] for index in range(len(images))]

    @torch.inference_mode()
    def _run(self, images: list[np.ndarray]) -> list[Detections]:
        """Return the detections in images of one size."""
        from ultralytics.utils.nms import non_max_suppression

        padded, zoom, offset = zip(*(self._fit(image) for image in images), strict=True)
        batch_BCHW = torch.from_numpy(np.stack(padded)).to(self._device).permute(0, 3, 1, 2).float() / 255
        with suppress_output():
            rows = non_max_suppression(
                self._network(batch_BCHW),
                self._confidence,
                self._overlap,
                classes=np.flatnonzero(self._class_index >= 0).tolist(),
                multi_label=True,
                max_det=self._limit,
                max_time_img=3600.0,  # it would otherwise leave a slow machine's images without boxes
                end2end=self._end2end,
            )
        height, width = images[0].shape[:2]
        return [self._detections(row, zoom[0], offset[0], height, width) for row in rows]

    def _fit(self, image: np.ndarray) -> tuple[np.ndarray, tuple[float, float], tuple[int, int]]:
        """Return the image scaled and padded, zoom in x and y, and columns and rows of padding before the image.

        The padded image is uint8 H W 3, its sides multiples of 32.
        """
        if image.ndim == 2:
            image = np.repeat(image[:, :, None], 3, axis=2)
        height, width = image.shape[:2]
        scale = self.size / max(height, width)
        wide, high = (min(math.ceil(side * scale), self.size) for side in (width, height))
        if scale != 1:
            image = cv2.resize(image, (wide, high), interpolation=cv2.INTER_LINEAR)
        # Half a stride of border more than needed, as ultralytics has in its validation.
        ratio = height / width
        shares = (min(ratio, 1.0), min(1 / ratio, 1.0))
        rows, columns = (math.ceil(share * self.size / STRIDE + 0.5) * STRIDE for share in shares)
        left, top = round((columns - wide) / 2 - 0.1), round((rows - high) / 2 - 0.1)
        full = np.full((rows, columns, 3), PADDING_GREY, np.uint8)
        full[top : top + high, left : left + wide] = image
        return full, (wide / width, high / height), (left, top)

    def _detections(
        self, rows: torch.Tensor, zoom: tuple[float, float], offset: tuple[int, int], height: int, width: int
    ) -> Detections:
        """Return rows (n, 6), x1 y1 x2 y2 score class in the padded image, as detections in the image."""
        values = rows.cpu().numpy().astype(np.float64)
        boxes = (values[:, :4] - np.tile(offset, 2)) / np.tile(zoom, 2)
        boxes = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
        scores, classes = values[:, 4].astype(np.float32), self._class_index[values[:, 5].astype(np.int64)]
        if len(set(self._class_index[self._class_index >= 0].tolist())) < np.count_nonzero(self._class_index >= 0):
            # Two of the detector's classes are one of the list: an object found as both counts once.
            parts = torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(classes)
            keep = batched_nms(*parts, self._overlap).numpy()
            boxes, scores, classes = boxes[keep], scores[keep], classes[keep]
        return Detections(boxes, scores, classes)
