"""Crops: aligned, seeded, inside the image; batches: nothing lost, nothing twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from fusion.data.corpus import Sample
from fusion.errors import UserError
from fusion.training.configs import CropConfig
from fusion.training.crops import crop_boxes, crops, training_batches, validation_batches
from fusion.training.stages import STAGES

NOISE, STRIPES, BOTH = "noise", "stripes", "haze+stripes"
OFFSETS = {"visible": 0, "infrared": 64, "degraded_visible": 128, "degraded_infrared": 192}


def sample(height=24, width=40, degradation=NOISE, key="a", seed=0) -> Sample:
    """Random images in 0..63 plus an offset that tells the image: equal places differ by the offsets alone."""
    base = np.random.default_rng(seed).integers(0, 64, (height, width), dtype=np.uint8)
    grey = {name: base + np.uint8(offset) for name, offset in OFFSETS.items()}
    pixels = {name: np.repeat(g[..., None], 3, axis=2) if name.endswith("visible") else g for name, g in grey.items()}
    level = "+".join("2" for _ in degradation.split("+"))
    return Sample(key, "train", "test", degradation, level, "{}", **pixels, boxes=np.zeros((0, 4)), classes=())


def config(**changes) -> CropConfig:
    return CropConfig(**{"size": 8, "per_image": 6, "identity_probability": 0.0, "shuffle_buffer": 4} | changes)


def taken(piece) -> tuple[str, np.ndarray]:
    """The image that a crop shows, and its values without the offset."""
    values = np.rint(piece * 255).astype(int)
    (name,) = [name for name, offset in OFFSETS.items() if ((values - offset) // 64 == 0).all()]
    return name, values - OFFSETS[name]


def looks(base: np.ndarray) -> dict[bytes, tuple]:
    """Every 8 x 8 window of an image under every flip -> (top, left, down, across)."""
    found = {}
    for top in range(base.shape[0] - 7):
        for left in range(base.shape[1] - 7):
            window = base[top : top + 8, left : left + 8]
            for down in (False, True):
                for across in (False, True):
                    flipped = window[:: -1 if down else 1, :: -1 if across else 1]
                    found[np.ascontiguousarray(flipped, int).tobytes()] = (top, left, down, across)
    return found


# crops


def test_roles_are_cut_at_the_same_place_and_flipped_together():
    for i in range(5):
        for crop in crops(sample(seed=i, key=str(i)), "fuse", config(), seed=1, epoch=0):
            assert list(crop) == ["visible", "infrared", "degraded_visible", "degraded_infrared"]
            shown = {role: taken(piece) for role, piece in crop.items()}
            for role, (name, values) in shown.items():
                assert name == role
                assert np.array_equal(values, shown["visible"][1])
        for crop in crops(sample(seed=i, key=str(i)), "restore", config(), seed=1, epoch=0):
            (clean, one), (degraded, other) = taken(crop["clean"]), taken(crop["degraded"])
            assert (clean, degraded) == ("visible", "degraded_visible")
            assert np.array_equal(one, other)


def test_every_crop_is_a_window_of_the_image_and_all_places_and_flips_occur():
    whole = sample(height=10, width=12)
    known = looks(whole.visible[..., 0])
    drawn = Counter()
    for epoch in range(60):
        for crop in crops(whole, "fuse", config(), seed=0, epoch=epoch):
            piece = crop["visible"]
            assert piece.shape == (8, 8)
            assert piece.dtype == np.float32
            assert piece.flags.c_contiguous
            drawn[known[taken(piece)[1].tobytes()]] += 1
    assert len(drawn) == 3 * 5 * 4  # all tops, lefts and flips
    assert max(drawn.values()) < 25  # of 360 draws over 60 places


def test_without_flips_nothing_is_flipped():
    whole = sample()
    known = looks(whole.visible[..., 0])
    for epoch in range(10):
        for crop in crops(whole, "fuse", config(flips=False), seed=0, epoch=epoch):
            assert known[taken(crop["visible"])[1].tobytes()][2:] == (False, False)


def test_crops_depend_on_seed_epoch_and_sample_alone():
    def make(seed=1, epoch=2, **changes):
        return [crop["visible"] for crop in crops(sample(**changes), "fuse", config(), seed, epoch)]

    assert np.array_equal(make(), make())
    others = [make(seed=2), make(epoch=3), make(key="b"), make(degradation="noise+stripes")]
    assert not any(np.array_equal(make(), other) for other in others)


def test_luma_of_colour():
    one = sample()
    colour = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    coloured = Sample(**vars(one) | {"visible": colour, "infrared": one.infrared[:8, :8]})
    piece = crops(coloured, "fuse", config(flips=False), 0, 0)[0]["visible"]
    expected = (0.299 * colour[..., 0] + 0.587 * colour[..., 1] + 0.114 * colour[..., 2]) / 255
    np.testing.assert_allclose(piece, expected, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(5, 40), (24, 6), (5, 6), (3, 20), (1, 1), (8, 8)])
def test_small_images_are_padded(height, width):
    whole = sample(height, width)
    down, right = max(8 - height, 0), max(8 - width, 0)
    reflects = down < min(height, 8) and right < min(width, 8)
    for crop in crops(whole, "fuse", config(flips=False), 0, 0):
        values = {role: taken(piece)[1] for role, piece in crop.items()}
        assert all(np.array_equal(v, values["visible"]) and v.shape == (8, 8) for v in values.values())
        inner = values["visible"][: min(height, 8), : min(width, 8)]
        expected = np.pad(inner, ((0, down), (0, right)), mode="reflect" if reflects else "edge")
        assert np.array_equal(values["visible"], expected)
        inside = looks(np.pad(whole.visible[..., 0], ((0, down), (0, right)), mode="reflect" if reflects else "edge"))
        assert values["visible"].tobytes() in inside


# which images


@pytest.mark.parametrize(("degradation", "degraded"), [(NOISE, "visible"), (STRIPES, "infrared")])
def test_identity_probability_is_how_often_the_other_modality_is_seen(degradation, degraded):
    other = {"visible": "infrared", "infrared": "visible"}[degraded]

    def seen(share):
        rng = np.random.default_rng(0)
        return Counter(
            STAGES["restore"].inputs(sample(degradation=degradation), rng, share)["clean"] for _ in range(1000)
        )

    assert seen(0.0) == {degraded: 1000}
    assert seen(1.0) == {other: 1000}
    assert 150 < seen(0.2)[other] < 250


@pytest.mark.parametrize("degradation", [BOTH, "clean"])
def test_where_both_or_none_are_degraded_both_are_seen(degradation):
    rng = np.random.default_rng(0)
    seen = Counter(STAGES["restore"].inputs(sample(degradation=degradation), rng, 1.0)["degraded"] for _ in range(1000))
    assert set(seen) == {"degraded_visible", "degraded_infrared"}
    assert min(seen.values()) > 400


def test_roles_of_one_draw_belong_together_and_validation_takes_the_degraded_one():
    for degradation, expected in ((NOISE, "visible"), (STRIPES, "infrared"), (BOTH, "visible"), ("clean", "visible")):
        roles = STAGES["restore"].inputs(sample(degradation=degradation), None, 1.0)
        assert roles == {"clean": expected, "degraded": f"degraded_{expected}"}
    rng = np.random.default_rng(0)
    for _ in range(20):
        roles = STAGES["restore"].inputs(sample(degradation=BOTH), rng, 0.5)
        assert roles["degraded"] == f"degraded_{roles['clean']}"


def test_the_share_reaches_the_crops():
    for share, name in ((0.0, "visible"), (1.0, "infrared")):
        for crop in crops(sample(), "restore", config(identity_probability=share), 0, 0):
            assert taken(crop["clean"])[0] == name
            assert taken(crop["degraded"])[0] == f"degraded_{name}"


# batches


def rows_of(batches) -> list[bytes]:
    return [
        torch.stack([batch[role][i] for role in batch]).numpy().tobytes()
        for batch in batches
        for i in range(len(batch["visible"]))
    ]


@pytest.mark.parametrize("shuffle", [1, 3, 17, 1000])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 30])
def test_shuffling_loses_nothing_and_repeats_nothing(shuffle, batch_size):
    samples = [sample(key=str(i), seed=i) for i in range(5)]
    settings = config(shuffle_buffer=shuffle)
    all_crops = [crop for one in samples for crop in crops(one, "fuse", settings, 3, 1)]
    expected = [np.stack(list(crop.values()))[:, None].tobytes() for crop in all_crops]
    assert len(set(expected)) == 30
    batches = list(training_batches(samples, "fuse", settings, batch_size, 3, 1))
    assert len(batches) == 30 // batch_size
    assert all(tensor.shape == (batch_size, 1, 8, 8) for batch in batches for tensor in batch.values())
    got = rows_of(batches)
    assert len(got) == 30 // batch_size * batch_size
    assert not Counter(got) - Counter(expected)


def test_batches_mix_images_as_far_as_the_shuffle_reaches_and_follow_the_seed():
    samples = [sample(key=str(i), seed=i) for i in range(8)]

    def order(shuffle, seed=0, epoch=0):
        """Where each row of the batches was in the unshuffled order."""
        straight = [crop for one in samples for crop in crops(one, "fuse", config(), seed, epoch)]
        places = {np.stack(list(crop.values()))[:, None].tobytes(): i for i, crop in enumerate(straight)}
        return [
            places[row]
            for row in rows_of(training_batches(samples, "fuse", config(shuffle_buffer=shuffle), 4, seed, epoch))
        ]

    def moved(places):
        return np.abs(np.array(places) - np.arange(48)).mean()

    assert sorted(order(1000)) == list(range(48))
    assert moved(order(1000)) > 8  # 16 on average for a perfect shuffle of 48
    assert 0 < moved(order(1)) < 4
    assert order(1000) == order(1000)
    assert order(1000, epoch=1) != order(1000)
    assert order(1000, seed=1) != order(1000)


def test_batches_come_while_samples_are_read():
    read = []

    def source():
        for i in range(50):
            read.append(i)
            yield sample(key=str(i), seed=i)

    next(training_batches(source(), "fuse", config(shuffle_buffer=8), 4, 0, 0))
    assert len(read) <= 3  # 12 crops: 8 held back and a batch


def test_no_samples_no_batches():
    assert list(training_batches([], "fuse", config(), 4, 0, 0)) == []


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [
        (40, 50, 256, (40, 48)),
        (40, 50, 32, (32, 32)),
        (40, 50, 30, (24, 24)),
        (5, 50, 32, (5, 32)),
        (5, 7, 32, (5, 7)),
        (40, 50, 4, (4, 4)),
    ],
)
def test_validation_sizes_and_place(height, width, size, expected):
    whole = sample(height, width)
    (batch,) = validation_batches([whole], "fuse", size)
    assert all(tensor.shape == (1, 1, *expected) for tensor in batch.values())
    top, left = (height - expected[0]) // 2, (width - expected[1]) // 2
    window = whole.infrared[top : top + expected[0], left : left + expected[1]]
    assert np.array_equal(np.rint(batch["infrared"][0, 0].numpy() * 255), window)


def test_validation_restores_the_degraded_modality():
    samples = [sample(), sample(degradation=STRIPES)]
    batches = list(validation_batches(samples, "restore", 16))
    assert [taken(batch["degraded"].numpy())[0] for batch in batches] == ["degraded_visible", "degraded_infrared"]
    assert [taken(batch["clean"].numpy())[0] for batch in batches] == ["visible", "infrared"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size": 0}, "crops.size"),
        ({"size": 12}, "crops.size"),
        ({"size": -8}, "crops.size"),
        ({"per_image": 0}, "crops.per_image"),
        ({"shuffle_buffer": 0}, "crops.shuffle_buffer"),
        ({"identity_probability": 1.1}, "crops.identity_probability"),
        ({"identity_probability": -0.1}, "crops.identity_probability"),
    ],
)
def test_impossible_settings_are_named(changes, named):
    with pytest.raises(UserError, match=named):
        config(**changes)


# boxes and colour: what MoE-Fusion's detectors learn from

CLASSES = ("person", "car")


def painted(boxes, classes, height=60, width=80) -> Sample:
    """Boxes with whole coordinates, each filled with a brightness of its own on black; red is twice as dark as blue."""
    picture = np.zeros((height, width, 3), np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        picture[y1:y2, x1:x2] = (50 + 20 * i, 75 + 20 * i, 100 + 20 * i)
    grey = picture[..., 0].copy()
    images = {"visible": picture, "infrared": grey, "degraded_visible": picture, "degraded_infrared": grey}
    found = np.asarray(boxes, np.float32).reshape(-1, 4)
    return Sample("p", "train", "test", "clean", "0", "{}", **images, boxes=found, classes=tuple(classes))


def joint(whole: Sample, epochs=20, seed=0, **changes) -> list[dict[str, np.ndarray]]:
    settings = CropConfig(**{"size": 32, "per_image": 4, "classes": CLASSES} | changes)
    return [crop for epoch in range(epochs) for crop in crops(whole, "moefusion-joint", settings, seed, epoch)]


def test_painted_rectangles_stay_in_their_boxes():
    boxes = [(3, 5, 20, 30), (40, 10, 70, 22), (30, 40, 50, 58)]
    whole = painted(boxes, ("person", "Car", "people"))
    seen = Counter()
    for crop in joint(whole):
        assert list(crop) == ["visible", "infrared", "mask", "colour", "boxes"]
        assert crop["boxes"].shape[1:] == (5,)
        red = np.rint(crop["colour"][0] * 255).astype(int)
        rest = {50 + 20 * i for i in range(3)}
        for x1, y1, x2, y2, place in crop["boxes"]:
            inside = np.unique(red[int(y1) : int(y2), int(x1) : int(x2)])
            assert (x1, y1, x2, y2) == (int(x1), int(y1), int(x2), int(y2))
            assert len(inside) == 1 and inside[0] > 0  # filled
            number = (inside[0] - 50) // 20
            assert place == (0, 1, 0)[number]
            rows, columns = np.nonzero(red == inside[0])
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x1, y1, x2, y2)  # and no larger
            rest -= {int(inside[0])}
            seen[int(number)] += 1
        for value in rest:  # what has no box is hardly there
            i = (value - 50) // 20
            whole_area = (boxes[i][2] - boxes[i][0]) * (boxes[i][3] - boxes[i][1])
            rows, columns = np.nonzero(red == value)
            sliver = len(rows) and min(np.ptp(rows), np.ptp(columns)) + 1 < 2
            assert len(rows) <= 0.3 * whole_area or sliver
    assert min(seen.values()) > 8 and len(seen) == 3


def test_flips_alone_mirror_the_boxes():
    """A crop of the whole image: each box comes in four places."""
    whole = painted([(2, 4, 12, 30)], ("car",), 32, 32)
    found = {tuple(crop["boxes"][0]) for crop in joint(whole)}
    assert found == {(2, 4, 12, 30, 1), (20, 4, 30, 30, 1), (2, 2, 12, 28, 1), (20, 2, 30, 28, 1)}
    assert {tuple(crop["boxes"][0]) for crop in joint(whole, flips=False)} == {(2, 4, 12, 30, 1)}


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10)),
        ((-6.75, 0, 3.25, 10), (0, 0, 3.25, 10)),  # 32.5 % of it
        ((-7.25, 0, 2.75, 10), None),  # 27.5 %
        ((28, 28, 36, 36), None),  # a quarter
        ((26, 26, 36, 36), (26, 26, 32, 32)),
        ((30.5, 0, 33, 10), None),  # more than half, but under two pixels wide
        ((30, 0, 34, 10), (30, 0, 32, 10)),
        ((5, 5, 6, 20), None),
        ((-5, -5, 50, 50), (0, 0, 32, 32)),  # 34 % of it
        ((-5, -5, 60, 60), None),
        ((40, 0, 50, 10), None),
        ((5, 5, 5, 20), None),
    ],
)
def test_slivers_are_dropped(box, kept):
    given = np.array([[*box, 1]], np.float32) + np.array([100, 200, 100, 200, 0], np.float32)
    found = crop_boxes(given, top=200, left=100, size=(32, 32), down=False, across=False)
    assert found.tolist() == ([] if kept is None else [[*kept, 1]])
    assert found.shape[1] == 5
    turned = crop_boxes(given, top=200, left=100, size=(32, 32), down=True, across=True)
    expected = [] if kept is None else [[32 - kept[2], 32 - kept[3], 32 - kept[0], 32 - kept[1], 1]]
    assert turned.tolist() == expected


def test_a_whole_image_is_scaled_with_its_boxes():
    """30 x 40 to 48 x 32: each side by its own factor, nothing cut off, for every role alike."""
    given = sample(height=30, width=40)
    given = replace(given, boxes=np.array([(4, 3, 20, 15)], np.float32), classes=("car",))
    (crop,) = crops(given, "moefusion-joint", config(per_image=1, flips=False, resize=(48, 32), classes=("car",)), 1, 0)
    assert {role: piece.shape for role, piece in crop.items() if role != "boxes"} == {
        "visible": (48, 32),
        "infrared": (48, 32),
        "mask": (48, 32),
        "colour": (3, 48, 32),
    }
    np.testing.assert_allclose(crop["boxes"], [(4 * 0.8, 3 * 1.6, 20 * 0.8, 15 * 1.6, 0)], rtol=1e-6)
    assert crop["mask"][12, 10] == 1 and crop["mask"][40, 25] == 0
    for role in ("visible", "infrared"):
        assert crop[role].mean() * 255 == pytest.approx(getattr(given, role).mean(), abs=1.0)


def test_a_whole_image_keeps_its_pixels_at_its_own_size():
    given = sample(height=24, width=40)
    (crop,) = crops(given, "fuse", config(per_image=1, flips=False, resize=(24, 40)), seed=1, epoch=0)
    np.testing.assert_array_equal(np.rint(crop["infrared"] * 255), given.infrared)


@pytest.mark.parametrize("wrong", [{"resize": (0, 48)}, {"resize": (30, 48)}, {"resize": (24, 48), "per_image": 2}])
def test_a_resize_that_cannot_be_is_refused(wrong):
    with pytest.raises(UserError, match=r"crops\.(resize|per_image)"):
        config(**({"per_image": 1} | wrong))


def test_classes_are_places_in_the_list_and_unknown_ones_are_left_out():
    boxes = [(2, 2, 12, 12), (14, 2, 24, 12), (2, 14, 12, 24), (14, 14, 24, 24)]
    whole = painted(boxes, ("Pedestrian", "bus", "car", "bike"), 32, 32)

    def found(classes):
        crop = joint(whole, epochs=1, flips=False, per_image=1, classes=classes)[0]
        assert crop["mask"].sum() == 400  # the loss of fusion takes all of them
        return crop["boxes"].tolist()

    assert found(("person", "car")) == [[2, 2, 12, 12, 0], [2, 14, 12, 24, 1]]
    assert found(("bicycle", "bus", "person")) == [[2, 2, 12, 12, 2], [14, 2, 24, 12, 1], [14, 14, 24, 24, 0]]
    assert found(()) == found(("truck",)) == []


def test_small_images_have_boxes_where_they_are():
    whole = painted([(2, 4, 12, 18)], ("car",), 20, 24)
    for crop in joint(whole):
        ((x1, y1, x2, y2, place),) = crop["boxes"].astype(int)
        assert place == 1 and (x2 - x1, y2 - y1) == (10, 14)
        assert (crop["colour"][:, y1:y2, x1:x2] > 0).all()
        assert crop["colour"].shape == (3, 32, 32) and crop["mask"].shape == (32, 32)
    assert joint(whole, 1, flips=False)[0]["boxes"].tolist() == [[2, 4, 12, 18, 1]]


def test_boxes_of_a_batch_are_padded_with_rows_that_are_none():
    many = painted([(2, 2, 12, 12), (14, 2, 24, 12), (2, 14, 12, 24)], ("car", "person", "car"), 32, 32)
    one, none = painted([(2, 2, 12, 12)], ("person",), 32, 32), painted([], (), 32, 32)
    settings = CropConfig(size=32, per_image=1, flips=False, shuffle_buffer=1, classes=CLASSES)

    def batch(*rows):
        (made,) = training_batches(rows, "moefusion-joint", settings, len(rows), 0, 0)
        return made["boxes"]

    found = batch(many, none, one)
    assert found.shape == (3, 3, 5) and found.dtype == torch.float32
    by_count = {int((boxes[:, 4] >= 0).sum()): boxes for boxes in found}
    assert by_count[3].tolist() == [[2, 2, 12, 12, 1], [14, 2, 24, 12, 0], [2, 14, 12, 24, 1]]
    assert by_count[1].tolist() == [[2, 2, 12, 12, 0], *[[-1] * 5] * 2]
    assert by_count[0].tolist() == [[-1] * 5] * 3
    assert batch(none, none).shape == (2, 0, 5)


def test_colour_is_rgb_and_lies_on_the_luma():
    colour = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    whole = Sample(**vars(painted([], ())) | {"visible": colour})
    for crop in joint(whole, 5):
        assert crop["colour"].shape == (3, 32, 32) and crop["colour"].dtype == np.float32
        assert crop["colour"].flags.c_contiguous
        expected = 0.299 * crop["colour"][0] + 0.587 * crop["colour"][1] + 0.114 * crop["colour"][2]
        np.testing.assert_allclose(crop["visible"], expected, atol=1e-6)
    plain = joint(whole, 1, flips=False)[0]["colour"]
    levels = np.rint(plain * 255).astype(np.uint8).transpose(1, 2, 0)
    assert any(
        np.array_equal(levels, colour[top : top + 32, left : left + 32]) for top in range(29) for left in range(49)
    )


def test_joint_crops_are_those_of_moefusion_and_more():
    whole = painted([(3, 5, 20, 30)], ("car",))
    settings = CropConfig(size=32, per_image=4, classes=CLASSES)
    for plain, more in zip(crops(whole, "moefusion", settings, 1, 2), joint(whole, 3, 1)[8:], strict=True):
        assert all(np.array_equal(plane, more[role]) for role, plane in plain.items())


def test_boxes_are_the_attention_where_that_is_asked_for():
    boxes = {"boxes": np.array([[2, 2, 20, 20]], np.float32), "classes": ("car",)}
    whole = replace(sample(), **boxes)
    for crop in crops(whole, "moefusion", config(box_attention=True), seed=0, epoch=0):
        assert np.array_equal(crop["attention"], crop["mask"])
    assert "attention" not in crops(whole, "moefusion", config(), seed=0, epoch=0)[0]
    (batch,) = validation_batches([whole], "moefusion", 24, box_attention=True)
    assert torch.equal(batch["attention"], batch["mask"]) and 0 < batch["attention"].mean() < 1
    assert "attention" not in next(validation_batches([whole], "moefusion", 24))


def test_validation_batches_have_colour_but_no_boxes():
    whole = painted([(3, 5, 20, 30)], ("car",))
    (batch,) = validation_batches([whole], "moefusion-joint", 48)
    assert {role: tuple(tensor.shape) for role, tensor in batch.items()} == {
        **dict.fromkeys(("visible", "infrared", "mask"), (1, 1, 48, 48)),
        "colour": (1, 3, 48, 48),
    }
    window = whole.visible[6:54, 16:64]
    assert np.array_equal(np.rint(batch["colour"][0].numpy() * 255).transpose(1, 2, 0), window)
    assert np.array_equal(np.rint(batch["infrared"][0, 0].numpy() * 255), whole.infrared[6:54, 16:64])
