"""Pictures of detections: what is drawn where, in which colour, and that matching agrees with that of AP."""

from __future__ import annotations

import numpy as np
import pytest

from detection.average_precision import match
from detection.boxes import Detections, Truth
from detection.drawing import IGNORED, MISSED, TRUE, colour, draw, found_boxes, overlaps
from fusion.report.sheets import side_by_side

CLASSES = ("bicycle", "car", "person")
GREY = 100


def scene(height=240, width=350):
    return np.full((height, width, 3), GREY, np.uint8)


def share(picture, box, line):
    """The share of the box's outline (three pixels deep) in this colour."""
    x1, y1, x2, y2 = box
    area = np.zeros(picture.shape[:2], bool)
    area[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = True
    area[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2] = False
    return float((picture == line).all(axis=2)[area].mean())


def test_what_is_drawn_and_how():
    hit, miss, ignored = [20, 60, 90, 120], [150, 60, 220, 120], [270, 60, 330, 120]
    false, weak = [150, 160, 220, 220], [20, 160, 90, 220]
    truth = Truth([hit, miss, ignored], [1, 1, 2], 240, 350, [False, False, True])
    found = Detections([hit, false, weak], [0.9, 0.6, 0.4], [1, 0, 1])
    picture = draw(scene(), truth, found, CLASSES, 0.5)
    assert picture.shape == (240, 350, 3) and picture.dtype == np.uint8
    assert share(picture, hit, TRUE) > 0.15 and share(picture, hit, colour(1)) > 0.15
    assert share(picture, miss, MISSED) > 0.1 and share(picture, miss, TRUE) == 0
    edge = (picture[miss[1], miss[0] : miss[2]] == MISSED).all(axis=1)
    assert 0.4 < edge.mean() < 0.9 and np.count_nonzero(np.diff(edge)) > 8  # dashed
    assert share(picture, ignored, IGNORED) > 0.2
    assert share(picture, false, colour(0)) > 0.3 and share(picture, false, TRUE) == 0
    assert share(picture, weak, (GREY,) * 3) == 1  # under the threshold
    shown = draw(scene(), truth, found, CLASSES, 0.3)
    assert share(shown, weak, colour(1)) > 0.3


def test_the_image_itself_is_left_alone():
    image = scene()
    before = image.copy()
    draw(image, Truth([[5, 5, 50, 50]], [0], 240, 350), Detections([[5, 5, 60, 60]], [0.9], [0]), CLASSES)
    np.testing.assert_array_equal(image, before)
    nothing = draw(image, Truth([], [], 240, 350), Detections([], [], []), CLASSES)
    np.testing.assert_array_equal(nothing, before)
    assert nothing is not image


def plates(picture, place):
    return int((picture == colour(place)).all(axis=2).sum())


@pytest.mark.parametrize(("height", "width"), [(240, 350), (480, 640), (1024, 1280)])
def test_labels_are_readable_and_grow_with_the_image(height, width):
    """The rows of pixels that the strokes of the letters cover."""
    box = np.array([0.3, 0.4, 0.6, 0.8]) * [width, height, width, height]
    found = Detections([box], [0.87], [1])
    picture = draw(scene(height, width), Truth([], [], height, width), found, CLASSES).astype(int)
    above = picture[: int(box[1]) - 3]
    dark = (above.max(axis=2) < 80).any(axis=1).sum()
    assert dark >= max(7, 0.009 * width)
    assert dark <= 0.04 * width


@pytest.mark.parametrize("box", [[0, 0, 40, 30], [-20, -9, 30, 400], [310, 200, 350, 240], [340, 100, 360, 110]])
def test_labels_stay_inside(box):
    picture = draw(scene(), Truth([], [], 240, 350), Detections([box], [0.87], [1]), CLASSES)
    alone = draw(scene(), Truth([], [], 240, 350), Detections([[100, 100, 140, 130]], [0.87], [1]), CLASSES)
    frame = 2 * 2 * (40 + 30) + 100
    assert plates(picture, 1) > plates(alone, 1) - frame
    assert (picture.max(axis=2) < 80).sum() == pytest.approx((alone.max(axis=2) < 80).sum(), rel=0.2)  # all letters


def test_labels_avoid_each_other():
    boxes = [[100, 100, 140, 200], [104, 100, 144, 200], [108, 100, 148, 200], [112, 100, 152, 200]]
    empty = Truth([], [], 240, 350)
    together = draw(scene(), empty, Detections(boxes, [0.9, 0.8, 0.7, 0.6], [0, 1, 2, 0]), CLASSES)
    dark = (together.max(axis=2) < 80).sum()
    apart = 0
    for box, score, place in zip(boxes, [0.9, 0.8, 0.7, 0.6], [0, 1, 2, 0], strict=True):
        apart += (draw(scene(), empty, Detections([box], [score], [place]), CLASSES).max(axis=2) < 80).sum()
    assert dark == pytest.approx(apart, rel=0.02)


def test_the_best_detection_is_on_top():
    box = [100, 100, 160, 160]
    for scores in ([0.9, 0.6], [0.6, 0.9]):
        picture = draw(scene(), Truth([], [], 240, 350), Detections([box, box], scores, [0, 2]), CLASSES)
        above, below = (0, 2) if scores[0] > scores[1] else (2, 0)
        assert share(picture, box, colour(above)) > 0.2
        assert share(picture, box, colour(below)) < 0.2


def test_matching_is_that_of_average_precision():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        corner = rng.uniform(0, 60, (8, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(15, 40, (8, 2))], axis=1)
        truth = Truth(boxes, rng.integers(0, 2, 8), 100, 100, rng.random(8) < 0.2)
        moved = np.concatenate([boxes + rng.normal(0, 3, boxes.shape), boxes])
        found = Detections(moved, rng.random(16), np.tile(truth.classes, 2))
        counted = sum(
            int((one.matched[0] & ~one.ignored[0]).sum()) for one in match([truth], [found], CLASSES[:2]).found
        )
        ours = found_boxes(truth, found)
        assert (ours & ~truth.ignore).sum() == counted
        hits += counted
    assert hits > 200


def test_a_box_is_found_once_by_its_class_and_at_this_score():
    box = [0, 0, 40, 40]
    truth = Truth([box, box], [0, 1], 99, 99)
    assert found_boxes(truth, Detections([box, box], [0.9, 0.8], [0, 0])).tolist() == [True, False]
    assert found_boxes(truth, Detections([box, box], [0.4, 0.8], [0, 1]), 0.5).tolist() == [False, True]
    assert found_boxes(truth, Detections([[0, 0, 40, 19]], [0.9], [0])).tolist() == [False, False]
    assert found_boxes(truth, Detections([[0, 0, 40, 20]], [0.9], [0])).tolist() == [True, False]
    assert found_boxes(Truth([], [], 9, 9), Detections([box], [0.9], [0])).tolist() == []
    assert found_boxes(truth, Detections([], [], [])).tolist() == [False, False]


def test_overlaps():
    one = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], np.float32)
    other = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    np.testing.assert_allclose(overlaps(one, other), [[1, 1 / 3, 0], [0, 0, 0]])
    assert overlaps(one, other[:0]).shape == (2, 0)


def test_sheet():
    red, blue = scene(100, 200), scene(50, 50)
    red[:], blue[:] = (200, 0, 0), (0, 0, 200)
    sheet = side_by_side([[("one", red), ("two", blue)], [("three", blue)]], width=120, gap=6)
    assert sheet.shape[1] == 2 * 126 + 6
    assert (sheet == (200, 0, 0)).all(axis=2).sum() == 120 * 60
    assert (sheet == (0, 0, 200)).all(axis=2).sum() == 2 * 120 * 120
    titled = side_by_side([[("one", red), ("two", blue)], [("three", blue)]], 120, 6, ["first", "second"])
    assert titled.shape[0] > sheet.shape[0] and titled.shape[1] == sheet.shape[1]
    for name in ("caption " * 40, ""):
        assert side_by_side([[(name, red)]], 120, 6).shape == (sheet[: 6 + 22 + 60 + 6].shape[0], 132, 3)
    with pytest.raises(ValueError, match="titles"):
        side_by_side([[("one", red)]], title=["a", "b"])
    with pytest.raises(ValueError, match="0 rows"):
        side_by_side([])


def test_other_images_are_refused():
    truth, found = Truth([], [], 240, 350), Detections([], [], [])
    for image in (scene().astype(np.float32), scene()[..., 0], np.zeros((240, 350, 4), np.uint8)):
        with pytest.raises(ValueError, match="uint8 H W 3"):
            draw(image, truth, found, CLASSES)
    with pytest.raises(ValueError, match="boxes for one of"):
        draw(scene(100, 100), truth, found, CLASSES)
