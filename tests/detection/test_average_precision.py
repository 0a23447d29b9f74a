"""AP: to the last digit that of COCOeval, with repeated images too, and that of YOLO's own code within its known
differences."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.average_precision import THRESHOLDS, Matches, ap, match, voc_ap50
from detection.boxes import Detections, Truth
from detection.interpolation import RECALLS
from detection.yolo.offline import import_ultralytics

CLASSES = ("bicycle", "car", "person")


class PlainIgnore(COCOeval):
    """COCOeval in which `ignore` is not overwritten by `iscrowd`."""

    def _prepare(self):
        super()._prepare()
        for boxes in self._gts.values():
            for box in boxes:
                box["ignore"] = box["plain"]


def coco_ap(truths, detections, crowds=False, repeats=None, recalls=RECALLS):
    """AP (T, C) by pycocotools from end to end, over the images physically repeated, copies side by side."""
    repeats = [1] * len(truths) if repeats is None else repeats
    chosen = [image for image, times in enumerate(repeats) for _ in range(times)]
    boxes, found = [], []
    for number, image in enumerate(chosen, 1):
        truth = truths[image]
        for (x1, y1, x2, y2), place, ignore in zip(truth.boxes.astype(float), truth.classes, truth.ignore, strict=True):
            box = {
                "id": len(boxes) + 1,
                "image_id": number,
                "category_id": int(place),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }
            boxes.append({**box, "area": 1.0, "iscrowd": int(ignore and crowds), "plain": int(ignore)})
        side = detections[image]
        for (x1, y1, x2, y2), score, place in zip(side.boxes.astype(float), side.scores, side.classes, strict=True):
            box = {"image_id": number, "category_id": int(place), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            found.append({**box, "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        labels = COCO()
        labels.dataset = {
            "images": [{"id": number} for number in range(1, len(chosen) + 1)],
            "categories": [{"id": place, "name": name} for place, name in enumerate(CLASSES)],
            "annotations": boxes,
        }
        labels.createIndex()
        if found:
            results = labels.loadRes(found)
        else:
            results = COCO()
            results.dataset = {**labels.dataset, "annotations": []}
            results.createIndex()
        run = (COCOeval if crowds else PlainIgnore)(labels, results, "bbox")
        run.params.recThrs = recalls
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, -1]  # T, R, C; all areas; 100 detections
    return np.where((precision < 0).all(axis=1), np.nan, precision.mean(axis=1))


def scene(rng, images=6, boxes=8, extra=6, ties=False, ignored=0.0, empty=0.2, jitter=6.0, inverted=False):
    """Random boxes, and detections which are those boxes moved, some missing, and others out of the blue."""
    truths, detections = [], []
    for _ in range(images):
        count = 0 if rng.random() < empty else int(rng.integers(0, boxes + 1))
        corner = rng.uniform(0, 200, (count, 2))
        own = np.concatenate([corner, corner + rng.uniform(8, 60, (count, 2))], axis=1)
        classes = rng.integers(0, 3, count)
        truths.append(Truth(own, classes, 260, 260, rng.random(count) < ignored))
        picked = rng.integers(0, count, int(rng.integers(0, 2 * count + 1))) if count else np.zeros(0, int)
        moved = own[picked] + rng.normal(0, jitter * rng.random(), (len(picked), 4))
        if not inverted:
            moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        blue = rng.uniform(0, 200, (0 if rng.random() < empty else int(rng.integers(0, extra + 1)), 2))
        blue = np.concatenate([blue, blue + rng.uniform(8, 60, blue.shape)], axis=1)
        names = np.concatenate([classes[picked], rng.integers(0, 3, len(blue))])
        scores = rng.random(len(names))
        scores = np.round(scores * 3) / 3 if ties else scores
        detections.append(Detections(np.concatenate([moved, blue]), scores, names))
    return truths, detections


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_it_is_the_ap_of_pycocotools(crowds, ties, ignored):
    rng = np.random.default_rng([crowds, ties, int(10 * ignored)])
    seen = set()
    for _ in range(25):
        truths, detections = scene(rng, ties=ties, ignored=ignored)
        expected = coco_ap(truths, detections, crowds)
        found = ap(match(truths, detections, CLASSES, crowds=crowds))
        assert found.shape == (10, 3)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
        seen |= {round(value, 6) for value in expected.reshape(-1) if np.isfinite(value)}
    assert len(seen) > 100  # not all 0 and 1


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_weights_are_images_repeated(crowds, ties):
    rng = np.random.default_rng([5, crowds, ties])
    differs = 0
    for _ in range(12):
        truths, detections = scene(rng, ties=ties, ignored=0.15)
        weights = rng.integers(0, 4, (4, len(truths)))
        matches = match(truths, detections, CLASSES, crowds=crowds)
        found = ap(matches, weights)
        assert found.shape == (4, 10, 3)
        for row, times in zip(found, weights, strict=True):
            expected = coco_ap(truths, detections, crowds, times)
            np.testing.assert_allclose(row, expected, rtol=0, atol=1e-14)
            # Equal scores are written out as often as the most frequent copy asks for: another order of adding up.
            np.testing.assert_allclose(ap(matches, times), row, rtol=0, atol=1e-15 if ties else 0)
            differs += not np.array_equal(ap(matches), row, equal_nan=True)
    assert differs > 30


def test_equal_scores_within_a_repeated_image_keep_their_turns():
    """Three times (hit, miss): hit miss hit miss hit miss, and not three hits first."""
    box, away = [0, 0, 10, 10], [50, 50, 60, 60]
    truths = [Truth([box], [1], 99, 99)]
    detections = [Detections([box, away], [0.5, 0.5], [1, 1])]
    found = ap(match(truths, detections, CLASSES), np.array([3]))
    np.testing.assert_allclose(found[0, 1], (34 + 33 * 2 / 3 + 34 * 3 / 5) / 101, rtol=0, atol=1e-15)
    np.testing.assert_allclose(found, coco_ap(truths, detections, repeats=[3]), rtol=0, atol=1e-14)


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_it_is_the_ap_of_pycocotools_for_any_seed(seed, ties, crowds, images):
    rng = np.random.default_rng(seed)
    truths, detections = scene(rng, images, ties=ties, ignored=0.2, empty=0.4, jitter=15, inverted=crowds)
    times = rng.integers(0, 3, images)
    matches = match(truths, detections, CLASSES, crowds=crowds)
    np.testing.assert_allclose(ap(matches), coco_ap(truths, detections, crowds), rtol=0, atol=1e-14)
    if times.any():
        np.testing.assert_allclose(ap(matches, times), coco_ap(truths, detections, crowds, times), rtol=0, atol=1e-14)


@pytest.mark.parametrize("ties", [False, True])
def test_a_hundred_detections_of_a_class_count(ties):
    rng = np.random.default_rng(8)
    truths, detections = scene(rng, images=3, boxes=30, extra=900, ties=ties, empty=0)
    assert min(np.bincount(side.classes, minlength=3).min() for side in detections) > 100
    matches = match(truths, detections, CLASSES)
    assert all(len(found.scores) == 300 for found in matches.found)
    np.testing.assert_allclose(ap(matches), coco_ap(truths, detections), rtol=0, atol=1e-14)
    times = np.array([2, 0, 3])
    np.testing.assert_allclose(ap(matches, times), coco_ap(truths, detections, repeats=times), rtol=0, atol=1e-14)


def nothing(images):
    return [Detections([], [], [])] * images


def test_classes_without_boxes_or_detections():
    box = [10, 10, 40, 40]
    truths = [Truth([box, box], [0, 2], 99, 99, [False, True]), Truth([], [], 99, 99)]
    found = ap(match(truths, [Detections([box], [0.5], [1])] * 2, CLASSES))
    assert (found[:, 0] == 0).all()  # one box, not found
    assert np.isnan(found[:, 1:]).all()  # detections only; a box to be ignored only
    np.testing.assert_array_equal(found, coco_ap(truths, [Detections([box], [0.5], [1])] * 2))
    np.testing.assert_array_equal(ap(match(truths, nothing(2), CLASSES)), coco_ap(truths, nothing(2)))
    matches = match(truths, nothing(2), CLASSES)
    assert np.isnan(ap(matches, np.array([[0, 5], [0, 0]]))).all()
    assert np.isnan(ap(match([], [], CLASSES))).all()


def test_by_hand():
    """Two cars in two images: hit at 0.9, miss at 0.8, hit at 0.7 -> (51 * 1 + 50 * 2/3) / 101."""
    one, two, away = [0, 0, 100, 100], [20, 20, 80, 90], [200, 200, 220, 220]
    truths = [Truth([one], [1], 300, 300), Truth([two], [1], 300, 300)]
    detections = [Detections([away, one], [0.8, 0.9], [1, 1]), Detections([[20, 20, 80, 62]], [0.7], [1])]
    found = ap(match(truths, detections, CLASSES))[:, 1]
    np.testing.assert_allclose(found[:3], (51 + 50 * 2 / 3) / 101, rtol=0, atol=1e-15)  # the second IoU is 0.6
    np.testing.assert_allclose(found[3:], 51 / 101, rtol=0, atol=1e-15)
    np.testing.assert_allclose(THRESHOLDS[[0, 2, 9]], [0.5, 0.6, 0.95])


ELEVEN = np.array([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])  # as written, not as multiples of 0.1


def sequence(text, boxes, scores=None):
    """One image with `boxes` boxes, and its detections by falling score: "+" finds the next box, "-" none, "=" again
    the one before."""
    own = [[20 * i, 0, 20 * i + 9, 9] for i in range(boxes)]
    found, next_box = [], 0
    for number, sign in enumerate(text):
        next_box += sign == "+"
        found.append(own[next_box - 1] if sign in "+=" else [20 * number, 500, 20 * number + 9, 509])
    scores = np.linspace(0.9, 0.1, len(text)) if scores is None else scores
    zeros = np.zeros(len(text), int)
    return [Truth(own, [0] * boxes, 999, 999)], [Detections(found, scores, zeros) if text else Detections([], [], [])]


@pytest.mark.parametrize(
    ("text", "boxes", "eleven", "all_points"),
    [
        ("+-+", 2, (6 * 1 + 5 * 2 / 3) / 11, (1 + 2 / 3) / 2),  # recalls 0 .. 0.5 at 1, 0.6 .. 1 at 2/3
        ("++++", 4, 1, 1),
        ("+++", 10, 4 / 11, 0.3),  # a recall of 0.3 is reached, though 3 * 0.1 is above it in floats
        ("+", 3, 4 / 11, 1 / 3),  # 0, 0.1, 0.2, 0.3
        ("-+", 1, 1 / 2, 1 / 2),
        ("--", 1, 0, 0),
        ("", 2, 0, 0),  # nothing found
        ("+=+", 2, (6 * 1 + 5 * 2 / 3) / 11, (1 + 2 / 3) / 2),  # a second detection of a box is false
        ("+--++", 3, (4 * 1 + 7 * 3 / 5) / 11, (1 + 3 / 5 + 3 / 5) / 3),  # 2 of 4 is below 3 of 5 behind it
    ],
)
def test_voc_by_hand(text, boxes, eleven, all_points):
    truths, detections = sequence(text, boxes)
    found = voc_ap50(match(truths, detections, CLASSES))
    np.testing.assert_allclose(found[:, 0], [eleven, all_points], rtol=0, atol=1e-14)
    assert np.isnan(found[:, 1:]).all()  # no boxes


def test_voc_with_equal_scores_takes_them_in_their_order():
    for text, expected in (("+-+", (1 + 2 / 3) / 2), ("-++", 2 / 3), ("++-", 1)):
        truths, detections = sequence(text, 2, scores=[0.5, 0.5, 0.5])
        assert voc_ap50(match(truths, detections, CLASSES))[1, 0] == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_voc_is_pycocotools_with_other_recalls(ties, ignored):
    """With 11 recalls, and with every recall that can be reached, of which the mean is the integral."""
    rng = np.random.default_rng([ties, int(10 * ignored), 11])
    tiny = 1e-12  # recalls in floats: 3/10 must reach 0.3
    for trial in range(12):
        truths, detections = scene(rng, ties=ties, ignored=ignored)
        times = rng.integers(0, 3, len(truths)) if trial % 2 else np.ones(len(truths), int)
        matches = match(truths, detections, CLASSES)
        found = voc_ap50(matches, times)
        eleven = coco_ap(truths, detections, repeats=times, recalls=ELEVEN - tiny)[0] if times.any() else np.nan
        np.testing.assert_allclose(found[0], eleven, rtol=0, atol=1e-13)
        for place, one in enumerate(matches.found):
            positives = int(one.positives @ times)
            if positives:
                recalls = np.arange(1, positives + 1) / positives - tiny
                expected = coco_ap(truths, detections, repeats=times, recalls=recalls)[0, place]
                assert found[1, place] == pytest.approx(expected, abs=1e-13)
        many = voc_ap50(matches, np.stack([times, np.ones(len(truths), int)]))
        np.testing.assert_allclose(many[0], found, rtol=0, atol=1e-15 if ties else 0)
        assert many.shape == (2, 2, 3)


def development_kit(truths, detections, place):
    """AP of one class by 11 and by all points, with VOC's own matching, as its development kit describes it."""
    found = []  # score, hit: None for an ignored one
    for truth, side in zip(truths, detections, strict=True):
        own = truth.classes == place
        boxes, difficult, taken = truth.boxes[own].astype(float), truth.ignore[own], set()
        mine = np.flatnonzero(side.classes == place)
        for index in mine[np.argsort(-side.scores[mine], kind="stable")]:
            best, overlap = -1, 0.5
            for number, (x1, y1, x2, y2) in enumerate(boxes):
                a1, b1, a2, b2 = side.boxes[index].astype(float)
                width, height = max(0, min(x2, a2) - max(x1, a1)), max(0, min(y2, b2) - max(y1, b1))
                union = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - width * height
                if width * height / union >= overlap:
                    best, overlap = number, width * height / union
            hit = best >= 0 and best not in taken
            found.append((side.scores[index], None if best >= 0 and difficult[best] else hit))
            taken.add(best)
    hits = [hit for _, hit in sorted(found, key=lambda pair: -pair[0]) if hit is not None]
    positives = sum(int((~truth.ignore[truth.classes == place]).sum()) for truth in truths)
    true = np.cumsum(hits) if hits else np.zeros(0)
    recall, precision = true / positives, true / np.arange(1, len(hits) + 1)
    eleven = [max(precision[recall >= r - 1e-12], default=0) for r in ELEVEN]
    edges = np.r_[0, recall, 1]
    envelope = np.maximum.accumulate(np.r_[0, precision, 0][::-1])[::-1]
    return [np.mean(eleven), np.sum(np.diff(edges) * envelope[1:])]


def test_voc_where_boxes_do_not_overlap_is_that_of_the_development_kit():
    """There the two ways of matching agree."""
    rng = np.random.default_rng(12)
    for _ in range(20):
        truths, detections = [], []
        for _ in range(5):
            count = int(rng.integers(1, 8))
            corner = np.stack([80 * np.arange(count), rng.integers(0, 90, count)], axis=1)
            own = np.concatenate([corner, corner + rng.integers(20, 60, (count, 2))], axis=1).astype(float)
            classes = rng.integers(0, 3, count)
            truths.append(Truth(own, classes, 200, 640))
            picked = rng.integers(0, count, int(rng.integers(0, 2 * count + 1)))  # some boxes twice
            moved = own[picked] + rng.normal(0, 4, (len(picked), 4))
            detections.append(Detections(moved, rng.random(len(picked)), classes[picked]))
        found = voc_ap50(match(truths, detections, CLASSES))
        for place in range(3):
            if any((truth.classes == place).any() for truth in truths):
                np.testing.assert_allclose(found[:, place], development_kit(truths, detections, place), atol=1e-12)


def test_voc_matching_gives_no_second_best_box():
    """What the docstring says: two detections nearest to one box; COCO gives the second one the box beside it."""
    truths = [Truth([[0, 0, 100, 100], [20, 0, 120, 100]], [0, 0], 200, 200)]
    detections = [Detections([[0, 0, 100, 100], [8, 0, 108, 100]], [0.9, 0.8], [0, 0])]
    np.testing.assert_allclose(voc_ap50(match(truths, detections, CLASSES))[:, 0], 1)
    np.testing.assert_allclose(development_kit(truths, detections, 0), [6 / 11, 1 / 2])


def test_what_ignoring_means():
    large, small, other = [0, 0, 100, 100], [10, 10, 20, 20], [200, 0, 250, 50]
    truths = [Truth([large, other], [0, 0], 300, 300, [True, False])]
    detections = [Detections([large, large, small, other], [0.9, 0.8, 0.7, 0.6], [0, 0, 0, 0])]
    plain, crowds = (match(truths, detections, CLASSES, crowds=crowds) for crowds in (False, True))
    assert plain.found[0].ignored[0].tolist() == [True, False, False, False]  # once, and by the ordinary IoU
    assert crowds.found[0].ignored[0].tolist() == [True, True, True, False]
    assert plain.found[0].positives.tolist() == [1]
    np.testing.assert_allclose(ap(plain)[:, 0], 1 / 3, rtol=0, atol=1e-15)
    np.testing.assert_allclose(ap(crowds)[:, 0], 1, rtol=0, atol=1e-15)


def test_select():
    rng = np.random.default_rng(3)
    truths, detections = scene(rng, ties=True, ignored=0.2)
    keys = tuple("abcdef")
    matches = match(truths, detections, CLASSES, keys)
    chosen = ("e", "a", "d")
    places = [keys.index(key) for key in chosen]
    part = matches.select(chosen)
    direct = match([truths[i] for i in places], [detections[i] for i in places], CLASSES, chosen)
    assert part.keys == chosen
    for ours, theirs in zip(part.found, direct.found, strict=True):
        for name in ("images", "scores", "matched", "ignored", "positives"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
            assert getattr(ours, name).dtype == getattr(theirs, name).dtype
    np.testing.assert_array_equal(
        ap(part), ap(matches, np.array([1, 0, 0, 1, 1, 0])) if not _tied(part) else ap(direct)
    )
    with pytest.raises(KeyError):
        matches.select(["a", "z"])
    with pytest.raises(ValueError, match="twice"):
        matches.select(["a", "a"])


def _tied(matches: Matches) -> bool:
    return any(len(np.unique(found.scores)) < len(found.scores) for found in matches.found)


def test_chunks_do_not_change_the_result(monkeypatch):
    truths, detections = scene(np.random.default_rng(4), ties=True)
    matches = match(truths, detections, CLASSES)
    weights = np.random.default_rng(5).integers(0, 3, (50, len(truths)))
    whole = ap(matches, weights)
    monkeypatch.setattr("detection.average_precision.CHUNK", 100)
    np.testing.assert_array_equal(ap(matches, weights), whole)


def test_wrong_input_is_refused():
    truth, found = Truth([[0, 0, 9, 9]], [0], 9, 9), Detections([[0, 0, 9, 9]], [0.5], [0])
    matches = match([truth], [found], CLASSES)
    for weights in (np.array([1, 1]), np.array([0.5]), np.array([-1]), np.ones((1, 1, 1), int)):
        with pytest.raises(ValueError, match="weights"):
            ap(matches, weights)
    with pytest.raises(ValueError, match="one each an image"):
        match([truth], [], CLASSES)
    with pytest.raises(ValueError, match="same key"):
        match([truth] * 2, [found] * 2, CLASSES, ["a", "a"])
    with pytest.raises(ValueError, match="no classes"):
        match([], [], ())
    with pytest.raises(ValueError, match="class outside"):
        match([truth], [Detections([[0, 0, 9, 9]], [0.5], [3])], CLASSES)
    with pytest.raises(ValueError, match="box of image 0 is not finite"):
        match([Truth([[0, 0, np.nan, 9]], [0], 9, 9)], [found], CLASSES)
    with pytest.raises(ValueError, match="score of image 0 is not finite"):
        match([truth], [Detections([[0, 0, 9, 9]], [np.nan], [0])], CLASSES)


def test_it_prints_nothing(capsys):
    truths, detections = scene(np.random.default_rng(1))
    match(truths, detections, CLASSES)
    assert capsys.readouterr() == ("", "")


def yolo_ap(truths, detections):
    """YOLO's own scoring: its AP (T, C), and hits (N, T), scores and classes of all detections."""
    from ultralytics.engine.validator import BaseValidator
    from ultralytics.utils.metrics import ap_per_class, box_iou

    matcher = BaseValidator.__new__(BaseValidator)
    matcher.iouv = torch.linspace(0.5, 0.95, 10)
    hits, scores, found, wanted = [], [], [], []
    for truth, side in zip(truths, detections, strict=True):
        order = np.argsort(-side.scores, kind="stable")
        classes, own = torch.from_numpy(side.classes[order]), torch.from_numpy(truth.classes)
        iou = box_iou(torch.from_numpy(truth.boxes), torch.from_numpy(side.boxes[order]))
        hits.append(matcher.match_predictions(classes, own, iou).numpy() if len(own) else np.zeros((len(order), 10)))
        scores.append(side.scores[order])
        found.append(side.classes[order])
        wanted.append(truth.classes)
    hits, scores, found, wanted = (np.concatenate(parts) for parts in (hits, scores, found, wanted))
    part = ap_per_class(hits.astype(bool), scores, found, wanted)
    table = np.full((10, 3), np.nan)
    table[:, part[6]] = part[5].T
    return table, hits.astype(bool), scores, found


@pytest.fixture(scope="module")
def yolo(tmp_path_factory):
    """`yolo_ap` in a process of its own: where ultralytics keeps its settings is fixed at its first import."""
    folder = tmp_path_factory.mktemp("yolo")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), import_ultralytics, (folder,)) as pool:
        yield lambda truths, detections: pool.submit(yolo_ap, truths, detections).result()


def their_ap(hits, positives):
    """AP as YOLO's code integrates it, from hits (N,) by falling score."""
    if not len(hits):
        return 0.0
    true = np.cumsum(hits)
    recall, precision = true / positives, true / np.arange(1, len(hits) + 1)
    recall = np.r_[0, recall, recall[-1], 1]
    envelope = np.maximum.accumulate(np.r_[1, precision, 0, 0][::-1])[::-1]
    return np.trapezoid(np.interp(RECALLS, recall, envelope), RECALLS)


def test_it_differs_from_the_ap_of_yolo_as_the_docstring_says(yolo):
    rng = np.random.default_rng(9)
    lowest, highest = np.inf, -np.inf
    for trial in range(40):
        size = {"images": 40, "boxes": 12} if trial % 2 else {}
        truths, detections = scene(rng, **size)
        matches = match(truths, detections, CLASSES)
        theirs, hits, scores, found = yolo(truths, detections)
        ours = ap(matches)
        np.testing.assert_array_equal(np.isnan(theirs), np.isnan(ours))
        for place in range(3):
            positives = int(matches.found[place].positives.sum())
            if not positives:
                continue
            # The same hits, and so only the integration differs.
            order = np.argsort(-matches.found[place].scores)
            own, other = matches.found[place].matched[:, order], hits[found == place]
            np.testing.assert_array_equal(own, other[np.argsort(-scores[found == place])].T)
            integrated = [their_ap(row, positives) for row in own]
            np.testing.assert_allclose(theirs[:, place], integrated, rtol=0, atol=1e-12)
            difference = theirs[:, place] - ours[:, place]
            assert (difference >= -0.015).all()
            assert (difference <= 0.005).all()
            lowest, highest = min(lowest, difference.min()), max(highest, difference.max())
    assert lowest < -0.009
    assert highest > 0.001


def one_class(boxes, found):
    """One image with these boxes, and these detections by falling score."""
    return [Truth(boxes, [0] * len(boxes), 999, 999)], [
        Detections(found, np.linspace(0.9, 0.1, len(found)), [0] * len(found))
    ]


@pytest.mark.parametrize(
    ("boxes", "hits", "misses", "coco", "ultralytics"),
    [
        (1, 1, 0, 1, 0.995),  # perfect
        (100, 1, 0, 2 / 101, 0.005),  # recalls 0 and 0.01 against a triangle from 1 to 0
        (73, 72, 0, 99 / 101, 0.985),  # what is found ends between two of the recalls
        (2, 2, 8, (51 + 50 * 0.2) / 101, 0.595),  # 50 values of 1, then 50 of 0.2, then 0
    ],
)
def test_cases_of_the_difference_to_yolo(yolo, boxes, hits, misses, coco, ultralytics):
    """First one hit, then all misses, then the other hits."""
    own = [[9 * i, 0, 9 * i + 8, 8] for i in range(boxes)]
    away = [[9 * i, 500, 9 * i + 8, 508] for i in range(misses)]
    truths, detections = one_class(own, own[:1] + away + own[1:hits])
    ours = ap(match(truths, detections, CLASSES))[0, 0]
    theirs = yolo(truths, detections)[0][0, 0]
    assert ours == pytest.approx(coco, abs=1e-14)
    assert theirs == pytest.approx(ultralytics, abs=1e-12)
