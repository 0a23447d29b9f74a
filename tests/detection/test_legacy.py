"""Checkpoints of detectors that revision 103a0ad wrote are read as they were.

tests/fixtures/103a0ad/detector has its config.json and state.json, the names and shapes of its weights, and what it
found with `make_weights` in `IMAGES`. The weights themselves would be 20 MB.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from detection.faster_rcnn.model import DETECTORS, read_frozen
from detection.faster_rcnn.recipes import DetectorRecipe
from detection.load import load_detector
from fusion import checkpoint
from fusion.config import from_dict
from fusion.legacy import upgrade_config, upgrade_recipe

OLD = Path(__file__).parent.parent / "fixtures" / "103a0ad" / "detector"
RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8), RNG.integers(0, 256, (50, 60), dtype=np.uint8)]


def make_weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Weights drawn by their names: the same on any machine."""
    weights = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        values = rng.standard_normal(shape) * (2 / max(int(np.prod(shape[1:])), 1)) ** 0.5
        if len(shape) < 2:
            values = np.ones(shape) if name.endswith(("weight", "running_var")) else np.zeros(shape)
        values = values * 0.02 if "box_predictor" in name else values  # scores between 0 and 1
        dtype = np.int64 if name.endswith("num_batches_tracked") else np.float32
        weights[name] = torch.from_numpy(np.asarray(values, dtype))
    return weights


@pytest.fixture(scope="module")
def old_checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    for name in ("config.json", "state.json"):
        (folder / name).write_bytes((OLD / name).read_bytes())
    save_file(make_weights(json.loads((OLD / "shapes.json").read_text())), folder / "model.safetensors")
    return folder


def test_it_loads_with_the_fields_of_today(old_checkpoint):
    loaded = checkpoint.load(old_checkpoint, models=DETECTORS)
    config = loaded.model.config
    assert (config.box_head_dim, config.max_size, config.scale_jitter, config.rois_per_image) == (16, 128, 0.2, 16)
    recipe = from_dict(DetectorRecipe, loaded.recipe)
    assert recipe.brightness_jitter == 0.3 and recipe.model == config
    assert read_frozen(old_checkpoint)


def test_it_finds_what_it_found(old_checkpoint):
    detector = load_detector(str(old_checkpoint), ("person", "car"), {}, None, "cpu")
    for detections, expected in zip(
        detector.detect(IMAGES), json.loads((OLD / "detections.json").read_text()), strict=True
    ):
        count = len(expected["scores"])
        assert count and detections.classes[:count].tolist() == expected["classes"]
        np.testing.assert_allclose(detections.boxes[:count], expected["boxes"], atol=0.01)
        np.testing.assert_allclose(detections.scores[:count], expected["scores"], atol=1e-4)


def test_fields_of_detectors_in_other_settings():
    old = {"head": 16, "longest": 128, "jitter": 0.2, "sampled": 16}
    new = {"box_head_dim": 16, "max_size": 128, "scale_jitter": 0.2, "rois_per_image": 16}
    assert upgrade_config("detectors", {"detector": old}) == {"detector": new, "exchange": "per_level"}
    assert upgrade_recipe({"detectors": {"detector": old}, "optim": {"clip": 5.0}}) == {
        "detectors": {"detector": new},
        "optim": {"max_grad_norm": 5.0, "batch_scaling": "sqrt"},
    }
    assert upgrade_recipe({"model": "yolo11n.yaml", "loaders": 4}) == {"model": "yolo11n.yaml", "num_workers": 4}
    assert upgrade_recipe({"model": {"heads": [1, 2]}}) == {"model": {"heads": [1, 2]}}
