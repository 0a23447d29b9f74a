"""Synthetic and enhanced vision of a procedural scene: registered but for the error of the pose."""

import numpy as np
import pytest

from fusion import scenes
from fusion.scenes import combined_vision
from fusion.scenes.combined_vision import HEIGHT, PITCH, ROLL, YAW, PoseError, enhanced_vision, synthetic_vision

SIZE = (240, 320)
NONE = PoseError(0, 0, 0, 0)


def shift(first: np.ndarray, second: np.ndarray, reach: int = 9) -> tuple[int, int]:
    """Return the (down, right) by which `second` lies from `first`, grey (H, W), by the largest correlation."""
    first, second = (image[40:200, 40:280].astype(float) for image in (first, second))
    core = first[reach:-reach, reach:-reach]
    scores = {}
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            part = second[reach + down :, reach + right :][: core.shape[0], : core.shape[1]]
            scores[down, right] = np.corrcoef(core.ravel(), part.ravel())[0, 1]
    return max(scores, key=scores.__getitem__)


@pytest.mark.parametrize(
    ("error", "expected"),
    [(NONE, (0, 0)), (PoseError(YAW, 0, 0, 0), (0, 1)), (PoseError(0, -PITCH, 0, 0), (-1, 0))],
)
def test_an_error_of_the_pose_shifts_the_picture(error, expected):
    right, wrong = (synthetic_vision(3, 1, *SIZE, e).mean(2) for e in (NONE, error))
    down, across = shift(right, wrong)
    assert (np.sign(down), np.sign(across)) == expected
    assert max(abs(down), abs(across)) <= 6


def test_roll_turns_and_height_moves_near_ground():
    level = synthetic_vision(3, 1, *SIZE, NONE).astype(int)
    for error in (PoseError(0, 0, ROLL, 0), PoseError(0, 0, 0, HEIGHT)):
        moved = np.abs(synthetic_vision(3, 1, *SIZE, error) - level).max(2) > 30
        assert 0.002 < moved.mean() < 0.3


def test_without_an_error_the_sky_of_the_database_is_that_of_the_scene(monkeypatch):
    monkeypatch.setattr(combined_vision, "IN_DATABASE", (*combined_vision.IN_DATABASE, "bin"))
    scene = scenes.render(3, 4, *SIZE)
    blue = synthetic_vision(3, 4, *SIZE, NONE).astype(int)
    sky = (blue[..., 2] - blue[..., 0]) > 50
    assert (sky == (scene.depth > 0.999)).mean() > 0.97


def test_fog_takes_contrast_far_more_than_near():
    kept = []
    for index in range(4):
        scene = scenes.render(5, index, *SIZE)
        seen = enhanced_vision(scene, 5, index)
        assert (seen == enhanced_vision(scene, 5, index)).all() and seen.dtype == np.uint8
        far = (scene.depth > 0.3) & (scene.depth < 1)
        kept.append(
            [np.std(seen[m].astype(float)) / np.std(scene.infrared[m]) for m in (~far & (scene.depth < 0.2), far)]
        )
    near, far = np.median(kept, axis=0)
    assert far < near <= 1.1
