"""Boxes: types and shapes they always have, and class names that are places in one list."""

from __future__ import annotations

import numpy as np
import pytest

from detection.boxes import Detections, Truth, truth


def test_types_and_shapes():
    found = Truth([[1, 2, 3, 4], [5, 6, 7, 8]], [0, 1], 10, 20)
    assert (found.boxes.dtype, found.boxes.shape) == (np.float32, (2, 4))
    assert (found.classes.dtype, found.classes.shape) == (np.int64, (2,))
    assert (found.ignore.dtype, found.ignore.tolist()) == (bool, [False, False])
    assert (found.height, found.width) == (10, 20)
    seen = Detections(np.ones((1, 4), np.float64), [0.25], [2])
    assert (seen.boxes.dtype, seen.scores.dtype, seen.classes.dtype) == (np.float32, np.float32, np.int64)


def test_nothing_is_an_image_too():
    for found in (Truth([], [], 10, 20), Truth(np.zeros((0, 4)), np.zeros(0), 10, 20, np.zeros(0))):
        assert found.boxes.shape == (0, 4)
        assert (found.classes.dtype, found.ignore.dtype) == (np.int64, bool)
    seen = Detections([], [], [])
    assert (seen.boxes.shape, seen.scores.shape, seen.classes.shape) == ((0, 4), (0,), (0,))


def test_ignored_boxes():
    assert Truth([[0, 0, 1, 1]] * 3, [0, 0, 1], 9, 9, [0, 1, 1]).ignore.tolist() == [False, True, True]


def test_lengths_must_agree():
    box = [[0, 0, 1, 1]]
    for wrong in ((box, [0, 1], None), (box, [0], [False, True]), (box * 2, [0], None)):
        with pytest.raises(ValueError, match="differ in length"):
            Truth(*wrong[:2], 9, 9, wrong[2])
    for wrong in ((box, [0.5, 0.4], [0]), (box, [0.5], []), ([], [0.5], [0])):
        with pytest.raises(ValueError, match="differ in length"):
            Detections(*wrong)


def test_names_become_places_and_other_classes_are_left_out():
    boxes = np.arange(16).reshape(4, 4)
    found = truth(boxes, ["Car", "People", "lamp", "bike"], ("bicycle", "car", "person"), 30, 40)
    assert found.classes.tolist() == [1, 2, 0]
    np.testing.assert_array_equal(found.boxes, boxes[[0, 1, 3]])
    assert (found.height, found.width, found.ignore.any()) == (30, 40, False)


def test_names_by_an_own_table():
    found = truth([[0, 0, 1, 1]] * 2, ["van", "people"], ("car", "person"), 9, 9, {"van": "car"})
    assert found.classes.tolist() == [0]


def test_an_image_without_boxes():
    found = truth([], [], ("car",), 9, 9)
    assert found.boxes.shape == (0, 4) and found.classes.shape == (0,)
