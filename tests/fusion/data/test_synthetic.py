"""Pairs that are drawn: scenes, and the multi-focus, multi-exposure and combined-vision pairs made of them."""

import numpy as np
import pytest

from fusion.data.pairs import find_pairs, read_pair
from fusion.data.synthetic import KINDS, STOPS, draw_pair, is_synthetic, scene_names
from fusion.errors import UserError


def sharpness(image: np.ndarray) -> np.ndarray:
    """Magnitude of the gradient, H W."""
    down, across = np.gradient(image.astype(float))
    return np.hypot(down, across)


@pytest.mark.parametrize("kind", list(KINDS))
def test_pairs_of_every_kind(kind):
    found = find_pairs(f"{kind}:3:96x80:5")
    assert found.layout == kind and len({ref.key for ref in found.refs}) == 3
    for ref in found.refs:
        pair, again = read_pair(ref), read_pair(ref)
        assert pair.visible.shape == (80, 96, 3) and pair.infrared.shape == (80, 96)
        assert pair.visible.dtype == pair.infrared.dtype == np.uint8
        assert (pair.visible == again.visible).all() and (pair.infrared == again.infrared).all()


def test_the_kinds_share_their_scenes():
    boxes = [draw_pair(f"{kind}:1:128x96:2").boxes.tolist() for kind in KINDS]
    assert all(others == boxes[0] for others in boxes)
    names = [scene_names(find_pairs(f"{kind}:2:128x96:2").refs).values() for kind in KINDS]
    assert all(list(name) == ["scene-000000", "scene-000001"] for name in names)


def test_combined_vision_sees_people_by_the_sensor_only():
    gaps = []
    for index in range(5):
        scene, pair = (draw_pair(f"{kind}:{index}:320x240:7") for kind in ("scenes", "combinedvision"))
        for x1, y1, x2, y2 in scene.boxes[np.array(scene.classes) == "person"].astype(int).tolist():
            if (x2 - x1) * (y2 - y1) > 300:
                inside = (slice(y1, y2), slice(x1, x2))
                images = (pair.second[inside].astype(float), pair.first[inside].mean(2))
                gaps.append([np.corrcoef(image.ravel(), scene.second[inside].ravel())[0, 1] for image in images])
    enhanced, synthetic = np.nanmedian(gaps, axis=0)
    assert enhanced > 0.9 and abs(synthetic) < 0.5


def test_each_focus_is_sharp_where_the_other_is_not():
    more = []
    for index in range(4):
        scene, pair = (draw_pair(f"{kind}:{index}:320x240:7") for kind in ("scenes", "multifocus"))
        near = scene.depth < np.median(scene.depth[scene.depth < 1])
        first, second = sharpness(pair.first.mean(2)), sharpness(pair.second)
        more.append((first[near].mean() / second[near].mean(), second[~near].mean() / first[~near].mean()))
    assert np.median(more, axis=0).min() > 1.5


def test_exposures_keep_the_order_of_brightness():
    scene, pair = (draw_pair(f"{kind}:0:160x120:7") for kind in ("scenes", "multiexposure"))
    before = scene.first.mean(2)
    assert pair.first.mean() < before.mean() < pair.second.mean()
    dark = scene.first.astype(float) * 2 ** (-STOPS / 2.2)
    np.testing.assert_allclose(pair.first, dark, atol=0.51)


@pytest.mark.parametrize(
    "bad", ["multifocus:", "multifocus:0", "multiexposure:3:30x40", "scenes:3:96x80:x", "scenes:2000000"]
)
def test_what_cannot_be_drawn_is_told(bad):
    with pytest.raises(UserError, match=bad.partition(":")[0]):
        find_pairs(bad)


def test_folders_are_not_taken_for_drawings():
    assert not is_synthetic("scenes") and not is_synthetic("s3://bucket/scenes:3") and not is_synthetic("/a:b")
    with pytest.raises(ValueError, match="no scene"):
        draw_pair("scenes:1:64x64")
