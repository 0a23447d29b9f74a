"""Brightness and contrast drawn anew."""

import numpy as np

from fusion.training.tone import change_tone


def pair():
    rng = np.random.default_rng(0)
    return {name: rng.random((8, 8), dtype=np.float32) for name in ("visible", "infrared")}


def test_values_stay_in_range_and_order_within_an_image_is_kept_or_turned():
    changed = negated = flat = 0
    for seed in range(300):
        crop, before = pair(), pair()
        change_tone(crop, np.random.default_rng(seed), 1.0)
        assert set(crop) == set(before)
        for image in crop.values():
            assert image.dtype == np.float32
            assert 0 <= image.min() <= image.max() <= 1
        is_flat = crop["infrared"].std() == 0
        flat += is_flat
        changed += not np.array_equal(crop["visible"], before["visible"])
        negated += not is_flat and np.corrcoef(crop["infrared"].ravel(), before["infrared"].ravel())[0, 1] < 0
    assert changed == 300
    assert 10 < negated < 60
    assert 0 < flat < 20


def test_the_same_draws_give_the_same_images():
    first, second = pair(), pair()
    for crop in (first, second):
        change_tone(crop, np.random.default_rng(5), 0.5)
    assert all(np.array_equal(first[name], second[name]) for name in first)
