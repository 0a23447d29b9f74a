"""The procedural scenes: reproducible bytes, exact boxes, and the physics that makes fusion worthwhile."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from fusion.scenes import CLASSES, MIN_BOX_SIDE, Scene, render, render_with_masks

SMALL = (240, 320)


@pytest.fixture(scope="module")
def scenes() -> list[tuple[Scene, np.ndarray]]:
    return [render_with_masks(11, index, *SMALL) for index in range(60)]


def digest(scene: Scene) -> str:
    parts = (scene.visible, scene.infrared, scene.depth, scene.boxes)
    return hashlib.sha256(b"".join(p.tobytes() for p in parts) + repr((scene.classes, scene.time)).encode()).hexdigest()


def test_same_arguments_same_bytes_whatever_the_threads():
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        one = [digest(render(3, index, 300, 400)) for index in range(3)]
        cv2.setNumThreads(4)
        four = [digest(render(3, index, 300, 400)) for index in range(3)]
    finally:
        cv2.setNumThreads(threads)
    assert one == four


def test_same_bytes_in_another_process():
    code = (
        "import sys; import tests.fusion.scenes.test_scenes as t; "
        "print(t.digest(t.render(5, 2, 128, 160)), t.digest(t.render(5, 1, 128, 160)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == [digest(render(5, 2, 128, 160)), digest(render(5, 1, 128, 160))]


def test_other_seed_or_index_is_another_scene():
    seen = {digest(render(seed, index, 64, 64)) for seed in (0, 1, 12) for index in (0, 1, 2, 21)}
    assert len(seen) == 12  # (1, 21) and (12, 1) are not mixed up either


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (121, 83), (240, 320), (96, 512), (300, 64)])
def test_any_size(size: tuple[int, int]):
    for index in range(4):
        scene, masks = render_with_masks(2, index, *size)
        assert scene.visible.shape == (*size, 3) and scene.visible.dtype == np.uint8
        assert scene.infrared.shape == size and scene.infrared.dtype == np.uint8
        assert scene.depth.shape == size and scene.depth.dtype == np.float32
        assert masks.shape == size
        assert scene.boxes.shape == (len(scene.classes), 4) and scene.boxes.dtype == np.float32
        assert scene.visible.std() > 4 and scene.infrared.std() > 4


@pytest.mark.parametrize("size", [(63, 640), (480, 0), (-1, 64)])
def test_bad_size(size: tuple[int, int]):
    with pytest.raises(ValueError, match="at least 64"):
        render(0, 0, *size)


def test_boxes_are_the_extent_of_the_silhouettes(scenes):
    for scene, masks in scenes:
        assert masks.max() == len(scene.boxes)
        for number, (box, name) in enumerate(zip(scene.boxes, scene.classes, strict=True), start=1):
            rows, columns = np.nonzero(masks == number)
            assert tuple(box) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert box[0] >= 0 and box[1] >= 0 and box[2] <= SMALL[1] and box[3] <= SMALL[0]
            assert box[2] - box[0] >= MIN_BOX_SIDE and box[3] - box[1] >= MIN_BOX_SIDE
            assert name in CLASSES


def test_layout_does_not_depend_on_the_size():
    matched = total = 0
    for index in range(12):
        small, large = render(4, index, 240, 320), render(4, index, 480, 640)
        assert small.time == large.time
        for box, name in zip(small.boxes * 2, small.classes, strict=True):
            total += 1
            same = [b for b, n in zip(large.boxes, large.classes, strict=True) if n == name]
            matched += any(np.abs(b - box).max() <= 8 for b in same)
    assert total > 20 and matched > 0.9 * total


def test_every_class_time_and_nearly_every_scene_has_objects(scenes):
    times = [scene.time for scene, _ in scenes]
    assert set(times) == {"day", "dusk", "night"}
    assert 0.25 < times.count("night") / len(times) < 0.6
    names = [name for scene, _ in scenes for name in scene.classes]
    assert {name for name in names if names.count(name) >= 10} == set(CLASSES)
    counts = [len(scene.classes) for scene, _ in scenes]
    assert np.mean([count > 0 for count in counts]) > 0.9
    assert 2 <= np.mean(counts) <= 8
    heights = [box[3] - box[1] for scene, _ in scenes for box in scene.boxes]
    assert np.percentile(heights, 90) > 2.5 * np.percentile(heights, 15)  # near ones and far ones


def contrast(picture: np.ndarray, inside: np.ndarray) -> float:
    """|mean inside - mean in a ring around| in grey levels."""
    ring = cv2.dilate(inside.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool) & ~inside
    return abs(float(picture[inside].mean()) - float(picture[ring].mean()))


def people(scenes: list[tuple[Scene, np.ndarray]], time: str) -> tuple[list[float], list[float]]:
    visible, infrared = [], []
    for scene, masks in scenes:
        if scene.time != time:
            continue
        grey = cv2.cvtColor(scene.visible, cv2.COLOR_RGB2GRAY).astype(np.float32)
        for number, name in enumerate(scene.classes, start=1):
            if name == "person":
                visible.append(contrast(grey, masks == number))
                infrared.append(contrast(scene.infrared.astype(np.float32), masks == number))
    return visible, infrared


def test_people_at_night_are_dim_in_visible_and_bright_in_infrared(scenes):
    visible, infrared = people(scenes, "night")
    assert len(visible) > 15
    assert np.mean(infrared) > 4 * np.mean(visible)
    assert np.mean(infrared) > 60


def test_people_by_day_show_in_both(scenes):
    visible, infrared = people(scenes, "day")
    assert np.mean(visible) > 15
    assert np.mean(infrared) > 30


def test_night_is_dark_and_has_lights(scenes):
    day = [scene.visible.mean() for scene, _ in scenes if scene.time == "day"]
    night = [scene.visible.mean() for scene, _ in scenes if scene.time == "night"]
    assert np.mean(day) > 2 * np.mean(night)
    assert np.mean([scene.visible.max() > 200 for scene, _ in scenes if scene.time == "night"]) > 0.8


def test_visible_has_more_fine_texture_than_infrared(scenes):
    def edges(picture: np.ndarray) -> float:
        return float(np.abs(cv2.Laplacian(picture.astype(np.float32), cv2.CV_32F)).mean())

    day = [scene for scene, _ in scenes if scene.time == "day"]
    grey = [edges(cv2.cvtColor(scene.visible, cv2.COLOR_RGB2GRAY)) for scene in day]
    assert np.mean(grey) > 1.5 * np.mean([edges(scene.infrared) for scene in day])


def test_depth_grows_up_the_picture_and_with_distance(scenes):
    for scene, _ in scenes:
        assert scene.depth.min() >= 0 and scene.depth.max() <= 1
        assert np.isfinite(scene.depth).all()
        assert scene.depth[-8:].mean() < scene.depth[: SMALL[0] // 2].mean()
    median = np.median([scene.depth for scene, _ in scenes], axis=0).mean(axis=1)
    assert (
        np.diff(median[SMALL[0] // 2 :]) < 1e-4
    ).all()  # over many scenes the lower half is ground, nearer and nearer


def test_an_object_is_nearer_than_the_ground_behind_it(scenes):
    nearer = [
        scene.depth[masks == number].mean()
        <= scene.depth[max(int(box[1]) - 2, 0), int(box[0]) : int(box[2])].mean() + 1e-3
        for scene, masks in scenes
        for number, box in enumerate(scene.boxes, start=1)
    ]
    assert np.mean(nearer) > 0.85  # the rest stand behind a post or a tree


def test_larger_boxes_of_people_stand_lower(scenes):
    """Perspective: within a scene, of two whole people the taller box has the lower feet."""
    agree = []
    for scene, _ in scenes:
        whole = [
            b
            for b, n in zip(scene.boxes, scene.classes, strict=True)
            if n == "person" and b[3] < SMALL[0] - 1 and b[1] > 1
        ]
        for i, a in enumerate(whole):
            agree += [(a[3] - b[3]) * ((a[3] - a[1]) - (b[3] - b[1])) > 0 for b in whole[:i] if abs(a[3] - b[3]) > 12]
    assert len(agree) > 10 and np.mean(agree) > 0.85
