"""The detection table: intervals from the draws they claim, pairing, methods that lack images, ranks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from detection.average_precision import Matches, ap, match, voc_ap50
from detection.boxes import Detections, Truth
from detection.protocol import MEASURES, Estimate, compare, image_draws, mean_of_present
from detection.tables import ranked_table, ranked_voc_table, scores_table
from fusion.errors import UserError

CLASSES = ("bicycle", "car", "person")


def truths(images: int, seed: int = 0) -> list[Truth]:
    rng = np.random.default_rng(seed)
    scenes = []
    for _ in range(images):
        count = int(rng.integers(1, 8))
        corner = np.stack([60 * np.arange(count), rng.integers(0, 100, count)], axis=1)
        boxes = np.concatenate([corner, corner + rng.integers(20, 50, (count, 2))], axis=1)
        scenes.append(Truth(boxes, rng.choice(3, count, p=[0.1, 0.6, 0.3]), 200, 600))
    return scenes


def detector(scenes: list[Truth], skill: float, seed: int = 0) -> list[Detections]:
    """Finds this share of the boxes, a little beside, and as many wrong ones as it misses."""
    rng = np.random.default_rng([seed, 7])
    results = []
    for scene in scenes:
        found = rng.random(len(scene.boxes)) < skill
        boxes = scene.boxes + rng.normal(0, 2, scene.boxes.shape) + np.where(found, 0, 300)[:, None]
        scores = np.where(found, rng.uniform(0.3, 1, len(boxes)), rng.uniform(0, 0.7, len(boxes)))
        results.append(Detections(boxes, scores, scene.classes))
    return results


def matches(skills: dict[str, float], images: int = 30) -> dict[str, Matches]:
    scenes = truths(images)
    keys = [f"image-{number:03}" for number in range(images)]
    return {name: match(scenes, detector(scenes, skill), CLASSES, keys) for name, skill in skills.items()}


@pytest.fixture(scope="module")
def three() -> dict[str, Matches]:
    return matches({"poor": 0.5, "good": 0.8, "middling": 0.65})


def test_values_and_intervals_are_those_of_the_draws(three):
    result = compare(three, resamples=200, seed=3)
    draws = image_draws(30, 200, 3)
    assert [one.method for one in result.scores] == ["poor", "good", "middling"]
    for one in result.scores:
        found = ap(three[one.method], draws)
        whole = ap(three[one.method])
        assert [estimate.value for estimate in one.ap50] == whole[0].tolist()
        assert one.map50.value == pytest.approx(whole[0].mean(), abs=1e-15)
        assert one.map50_95.value == pytest.approx(whole.mean(), abs=1e-15)
        assert (one.map50.low, one.map50.high) == pytest.approx(
            tuple(np.quantile(np.nanmean(found[1:, 0], axis=1), [0.025, 0.975])), abs=1e-14
        )
        assert (one.map50_95.low, one.map50_95.high) == pytest.approx(
            tuple(np.quantile(np.nanmean(found[1:].mean(axis=1), axis=1), [0.025, 0.975])), abs=1e-14
        )
        assert (one.ap50[1].low, one.ap50[1].high) == pytest.approx(
            tuple(np.nanquantile(found[1:, 0, 1], [0.025, 0.975])), abs=1e-14
        )
        assert one.map50.low < one.map50.value < one.map50.high
        curves = voc_ap50(three[one.method], draws)
        for place, curve in enumerate((one.voc2007, one.voc)):
            assert [estimate.value for estimate in curve.ap50] == curves[0, place].tolist()
            assert curve.map50.value == pytest.approx(curves[0, place].mean(), abs=1e-15)
            assert (curve.map50.low, curve.map50.high) == pytest.approx(
                tuple(np.quantile(np.nanmean(curves[1:, place], axis=1), [0.025, 0.975])), abs=1e-14
            )
        assert one.images == 30
        assert one.boxes == tuple(int(side.positives.sum()) for side in three[one.method].found)
        assert sum(one.boxes) == sum(len(scene.boxes) for scene in truths(30)) == sum(one.detections)


def test_draws():
    draws = image_draws(43, 1000, 0)
    assert draws.shape == (1001, 43)
    assert (draws[0] == 1).all()
    assert (draws.sum(axis=1) == 43).all()
    np.testing.assert_allclose(draws[1:].mean(axis=0), 1, atol=0.15)
    assert draws[1:].var() == pytest.approx(1 - 1 / 43, rel=0.03)
    np.testing.assert_array_equal(draws, image_draws(43, 1000, 0))
    assert (draws[1:] != image_draws(43, 1000, 1)[1:]).any()
    np.testing.assert_array_equal(image_draws(43, 10, 0), draws[:11])
    assert image_draws(0, 3, 0).shape == (4, 0)


def test_differences_are_paired(three):
    result = compare(three, resamples=300)
    assert result.best == "good"
    assert [(one.measure, one.first, one.second) for one in result.differences] == [
        (measure, "good", other) for other in ("poor", "middling") for measure in MEASURES
    ]
    draws = image_draws(30, 300, 0)
    mean = {name: mean_of_present(ap(found, draws)[:, 0]) for name, found in three.items()}
    for one in result.differences[::2]:
        values = mean["good"] - mean[one.second]
        assert one.difference.value == pytest.approx(values[0], abs=1e-14)
        assert (one.difference.low, one.difference.high) == pytest.approx(
            tuple(np.quantile(values[1:], [0.025, 0.975])), abs=1e-14
        )
        assert one.above_zero == np.mean(values[1:] > 0)
        assert one.p == pytest.approx(2 * (1 + (values[1:] <= 0).sum()) / 301)
        assert one.images == 30
        # Paired: narrower than of independent draws.
        apart = np.std(mean["good"][1:] - np.random.default_rng(0).permutation(mean[one.second][1:]))
        assert np.std(values[1:]) < apart
    assert result.differences[0].above_zero == 1
    assert result.differences[0].p == pytest.approx(2 / 301)


def test_all_pairs(three):
    result = compare(three, resamples=50, pairs="all")
    pairs = [(one.first, one.second) for one in result.differences if one.measure == "map50"]
    assert pairs == [("poor", "good"), ("poor", "middling"), ("good", "middling")]
    worse = result.differences[0]
    assert worse.difference.value < 0 and worse.above_zero == 0 and worse.p == pytest.approx(2 / 51)


def test_equal_methods_do_not_differ(three):
    result = compare({"one": three["good"], "same": three["good"]}, resamples=40)
    assert result.best == "one"
    for one in result.differences:
        assert one.difference == Estimate(0, 0, 0)
        assert (one.above_zero, one.p) == (0, 1)


def test_order_does_not_matter(three):
    backwards = {name: found.select(found.keys[::-1]) for name, found in reversed(three.items())}
    one, other = compare(three, 60, pairs="all"), compare(backwards, 60, pairs="all")
    assert one.scores == other.scores[::-1]
    assert one.best == other.best
    alone = compare({"poor": three["poor"]}, 60)
    assert alone.scores == one.scores[:1]
    assert alone.differences == ()
    assert compare(three, 60, seed=1).scores != one.scores


def test_a_method_that_lacks_images(three):
    keys = three["good"].keys
    short = {
        "whole": three["poor"],
        "short": three["good"].select(keys[5:]),
        "other": three["middling"].select(keys[:9]),
    }
    result = compare(short, 80, pairs="all")
    assert [one.images for one in result.scores] == [30, 25, 9]
    assert result.best == "whole"  # not among those with fewer images
    assert [one.images for one in result.differences[::2]] == [25, 9, 4]
    common = {name: three[ours].select(keys[5:]) for name, ours in (("whole", "poor"), ("short", "good"))}
    expected = compare(common, 80, pairs="all")
    assert result.differences[:2] == expected.differences
    assert result.scores[1] == expected.scores[1]
    nothing = compare({"a": three["poor"].select(keys[:3]), "b": three["poor"].select(keys[3:])}, 20).differences[0]
    assert nothing.images == 0
    assert all(map(math.isnan, (nothing.difference.value, nothing.difference.low, nothing.above_zero, nothing.p)))


def test_a_rare_class_is_left_out_of_the_draws_without_it():
    box, other = [0, 0, 20, 20], [30, 30, 60, 60]
    scenes = [Truth([box, other], [1, 2], 99, 99)] + [Truth([box], [1], 99, 99)] * 4
    found = [Detections([box], [0.9], [1])] * 5  # all cars, never the person
    result = compare({"method": match(scenes, found, CLASSES)}, 500).scores[0]
    assert result.map50.value == pytest.approx(0.5)
    assert (result.map50.low, result.map50.high) == pytest.approx((0.5, 1.0))
    assert math.isnan(result.ap50[0].value) and math.isnan(result.ap50[0].low)
    assert result.ap50[1].value == pytest.approx(1)
    assert (result.ap50[2].value, result.ap50[2].low, result.ap50[2].high) == (0, 0, 0)


def test_no_boxes_at_all():
    found = match([Truth([], [], 9, 9)] * 3, [Detections([[0, 0, 5, 5]], [0.5], [1])] * 3, CLASSES)
    result = compare({"a": found, "b": found}, 10)
    assert result.best is None and result.differences == ()
    assert math.isnan(result.scores[0].map50.value) and math.isnan(result.scores[0].map50.high)
    assert result.scores[0].detections == (0, 3, 0)
    assert {cell.text for row in ranked_table(scores_table(result.scores)).rows for cell in row.cells} == {"n/a"}


def test_more_images_make_narrower_intervals():
    few, many = (compare(matches({"m": 0.7}, images), 400).scores[0].map50 for images in (25, 400))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.4)


def test_what_does_not_fit_together_is_refused(three):
    with pytest.raises(ValueError, match="at least one"):
        compare({})
    with pytest.raises(ValueError, match="at least one"):
        compare(three, resamples=0)
    with pytest.raises(ValueError, match="class lists"):
        compare({"a": three["poor"], "b": replace(three["good"], classes=("x", "y", "z"))})
    scenes = truths(30)
    scenes[4] = Truth([], [], 99, 99)
    changed = match(scenes, detector(scenes, 0.5), CLASSES, three["poor"].keys)
    with pytest.raises(
        UserError, match=r"image image-004 has \[.*\] boxes of bicycle, car, person for poor, but .* for b"
    ):
        compare({"poor": three["poor"], "b": changed})


def test_table(three):
    result = compare(three, resamples=50)
    frame = scores_table(result.scores)
    names = [*(f"ap50_{name}" for name in CLASSES), *MEASURES]
    for curve in ("voc2007", "voc"):
        names += [*(f"{curve}_ap50_{name}" for name in CLASSES), f"{curve}_map50"]
    numbers = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    boxes = ["boxes", "detections", *(f"boxes_{name}" for name in CLASSES)]
    assert list(frame.columns) == ["method", "images", *numbers, *boxes]
    assert frame["boxes"].tolist() == frame[boxes[2:]].sum(axis=1).tolist()
    assert frame["method"].tolist() == ["poor", "good", "middling"]
    row = frame.iloc[1]
    good = result.scores[1]
    assert row["map50_high"] == good.map50.high
    assert row["map50_95_low"] == good.map50_95.low
    assert row["ap50_car"] == good.ap50[1].value
    assert (row["voc2007_ap50_car"], row["voc_ap50_car"]) == (good.voc2007.ap50[1].value, good.voc.ap50[1].value)
    assert (row["voc2007_map50_low"], row["voc_map50_high"]) == (good.voc2007.map50.low, good.voc.map50.high)
    assert (row["images"], row["boxes"], row["detections"]) == (30, sum(good.boxes), sum(good.detections))


def test_marks(three):
    result = compare({**three, "twin": three["good"], "short": three["good"].select(three["good"].keys[:20])}, 50)
    printed = ranked_table(scores_table(result.scores))
    assert [column.label for column in printed.columns] == [*(f"AP50 {name}" for name in CLASSES), *MEASURES.values()]
    assert {column.arrow for column in printed.columns} == {"↑"}
    ranks = {row.method: row.cells[3].rank for row in printed.rows}
    assert ranks == {"good": 1, "twin": 1, "middling": 3, "poor": 0, "short": 0}
    assert {row.method: row.cells[3].short for row in printed.rows}["short"]
    assert printed.uneven and printed.images == 30
    good = printed.rows[1]
    estimate = result.scores[1].map50
    assert good.cells[3].text == f"{estimate.value:.4f}"
    expected = (
        f"95 % interval {estimate.low:.4f} to {estimate.high:.4f}, 30 images, {sum(result.scores[1].boxes)} boxes"
    )
    assert good.cells[3].detail == expected
    assert good.cells[0].detail.endswith(f"30 images, {result.scores[1].boxes[0]} boxes")
    voc = ranked_voc_table(scores_table(result.scores))
    labels = [f"{name}, {points}" for points in ("11 points", "all points") for name in ("AP50 car", "mAP50")]
    assert [
        column.label for column in voc.columns if "bicycle" not in column.label and "person" not in column.label
    ] == labels
    assert voc.rows[1].cells[7].text == f"{result.scores[1].voc.map50.value:.4f}"
    assert voc.rows[1].cells[5].detail.endswith(f"30 images, {result.scores[1].boxes[1]} boxes")
    assert ranked_voc_table(scores_table(result.scores).drop(columns="voc_map50")) is None  # of an earlier version
    with pytest.raises(UserError, match="scored twice: good"):
        ranked_table(scores_table([result.scores[1]] * 2))
    with pytest.raises(UserError, match="no method"):
        ranked_table(scores_table([]))


def test_mean_of_present():
    values = np.array([[0.5, np.nan, 1.0], [np.nan] * 3, [0.0, 0.0, 0.3]])
    np.testing.assert_allclose(mean_of_present(values), [0.75, np.nan, 0.1])


def test_images_of_one_group_are_drawn_together():
    """A set of images and the same set three times, grouped: the same values, and the same intervals."""
    scenes = truths(20)
    found = detector(scenes, 0.6)
    once = match(scenes, found, CLASSES, [f"i{n:02}" for n in range(20)])
    keys = [f"{level}/i{n:02}" for level in "123" for n in range(20)]
    thrice = match(scenes * 3, found * 3, CLASSES, keys)
    one = compare({"m": once}, 200).scores[0].map50
    grouped = compare({"m": thrice}, 200, group=lambda key: key.rpartition("/")[2]).scores[0].map50
    alone = compare({"m": thrice}, 200).scores[0].map50
    assert grouped.value == pytest.approx(one.value, abs=0.02)  # ties of scores fall elsewhere
    assert (grouped.high - grouped.low) / (one.high - one.low) == pytest.approx(1, abs=0.15)
    assert (alone.high - alone.low) / (one.high - one.low) < 0.8
