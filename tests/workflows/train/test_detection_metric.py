"""Validation by a detector, without Ray and without a detector: what it finds is given."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from detection.boxes import Detections
from fusion.data.corpus import Sample
from fusion.data.pairs import find_pairs, read_pair
from fusion.errors import UserError
from fusion.training.engine import Engine
from fusion.training.recipes import RECIPES
from workflows.train import detection_metric

RECIPE = replace(RECIPES["moefusion-tiny"](), batch_size=2)


@pytest.fixture(scope="module")
def samples():
    found = []
    for ref in find_pairs("scenes:4:160x128:7").refs:
        pair = read_pair(ref)
        images = {"visible": pair.visible, "infrared": pair.infrared}
        images |= {f"degraded_{name}": image for name, image in images.items()}
        found.append(
            Sample(pair.key, "val", "scenes", "clean", "0", "{}", **images, boxes=pair.boxes, classes=pair.classes)
        )
    assert sum(len(sample.boxes) for sample in found) > 3
    return found


def detected(monkeypatch, samples, find):
    monkeypatch.setattr(detection_metric, "load_detector", lambda *_: SimpleNamespace(detect=find))
    return detection_metric.DetectionMetric("detector", samples, Engine(RECIPE, 1), 1)


def test_a_detector_that_finds_all_of_it(monkeypatch, samples):
    seen = []

    def find(images):
        seen.extend(images)
        return [Detections(t.boxes, np.ones(len(t.boxes)), t.classes) for t in watch.truths]

    watch = detected(monkeypatch, samples, find)
    assert watch() == pytest.approx({"map50": 100.0, "map50_95": 100.0})
    assert [image.shape for image in seen] == [sample.visible.shape for sample in samples]
    assert any((image != sample.visible).any() for image, sample in zip(seen, samples, strict=True))


def test_a_detector_that_is_a_little_off(monkeypatch, samples):
    def find(images):
        return [Detections(t.boxes + 0.15 * sides(t.boxes), np.ones(len(t.boxes)), t.classes) for t in watch.truths]

    watch = detected(monkeypatch, samples, find)
    found = watch()
    assert 0 <= found["map50_95"] < found["map50"] <= 100


def sides(boxes):
    width = (boxes[:, 2:] - boxes[:, :2])[:, :1]
    return np.concatenate([width, 0 * width, width, 0 * width], axis=1)


def test_images_without_boxes(monkeypatch, samples):
    bare = [replace(sample, boxes=np.zeros((0, 4), np.float32), classes=()) for sample in samples]
    with pytest.raises(UserError, match="no boxes to be found"):
        detected(monkeypatch, bare, None)


def test_a_recipe_that_restores_is_refused():
    with pytest.raises(UserError, match="looks at fused images"):
        detection_metric.check("detector", RECIPES["tgecnet-restore-tiny"]())


def test_no_detector_there(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        detection_metric.check(str(tmp_path / "nothing"), RECIPE)
