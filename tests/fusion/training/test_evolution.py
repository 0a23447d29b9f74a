"""The evolution of labels, without Ray."""

import math

import numpy as np
import pytest
import torch

from fusion import scenes
from fusion.errors import UserError
from fusion.metrics import score
from fusion.training.crops import crops, validation_batches
from fusion.training.evolution import (
    Label,
    LabelledSample,
    OverSharpened,
    check_sharpness,
    evolve,
    from_csv,
    mean_score,
    to_csv,
    wins,
)
from fusion.training.losses import aenet_terms, ssim
from fusion.training.recipes import RECIPES


def test_the_best_result_is_the_label():
    labels = evolve({}, {"a": {"1": 0.5, "2": 0.9, "3": 0.1}, "b": {"1": 0.7, "2": 0.8, "3": 0.1}})
    assert labels == {"1": Label("b", 0.7), "2": Label("a", 0.9), "3": Label("a", 0.1)}
    assert wins(labels.values()) == {"a": 2, "b": 1}


def test_a_newcomer_replaces_only_what_it_beats():
    old = {"1": Label("a", 0.5), "2": Label("b", 0.9)}
    labels = evolve(old, {"new": {"1": 0.6, "2": 0.9, "3": 0.2}})
    assert labels == {"1": Label("new", 0.6), "2": Label("b", 0.9), "3": Label("new", 0.2)}
    assert old == {"1": Label("a", 0.5), "2": Label("b", 0.9)}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_never_wins(bad):
    assert evolve({}, {"a": {"1": bad}}) == {}
    assert evolve({"1": Label("b", -3.0)}, {"a": {"1": bad}}) == {"1": Label("b", -3.0)}


def images(*planes: np.ndarray) -> list[torch.Tensor]:
    return [torch.tensor(np.clip(plane, 0, 255).astype(np.uint8))[None, None] for plane in planes]


def test_no_honest_sum_of_two_images_is_refused_as_too_sharp():
    scene = scenes.render(2, 0, 96, 112)
    first, second = scene.visible.mean(-1) / 2, scene.infrared / 2.0
    for one, other in ((1, 1), (1, 0), (0, 1), (0.5, 0.5), (1, -1)):
        check_sharpness(*images(one * first + other * second + (other < 0) * 127, first, second), 2.0)
    check_sharpness(*images(first + first, first, first), 2.0)  # the most that a sum gives
    flat = np.full((96, 112), 9.0)
    check_sharpness(*images(flat, flat, flat), 2.0)


def test_a_result_sharper_than_both_images_together_is_no_label():
    scene = scenes.render(2, 0, 96, 112)
    first, second = scene.visible.mean(-1), scene.infrared.astype(float)
    wrecked = 127 + 8 * (first - first.mean()) - 7 * (second - second.mean())
    with pytest.raises(
        OverSharpened, match=r"^\d+\.?\d* times as sharp as both images together, over --max-sharpness 2$"
    ):
        check_sharpness(*images(wrecked, first, second), 2.0)
    check_sharpness(*images(wrecked, first, second), 0)
    flat = np.full((96, 112), 9.0)
    with pytest.raises(OverSharpened, match="infinitely many times"):
        check_sharpness(*images(wrecked, flat, flat), 2.0)


def test_labels_survive_csv_to_the_last_digit():
    labels = {"a,b": Label('x"y', 1 / 3), "c": Label("z", -0.0)}
    assert from_csv(to_csv(labels), "labels.csv") == labels
    for text in ("key,method\n1,a\n", "key,method,score\n1,a,much\n"):
        with pytest.raises(UserError, match=r"labels\.csv is no table of labels"):
            from_csv(text, "labels.csv")


def test_means_leave_out_what_is_no_number():
    assert mean_score([1.0, math.nan, 3.0]) == 2.0
    assert math.isnan(mean_score([math.nan])) and math.isnan(mean_score([]))


def sample(height=96, width=112) -> LabelledSample:
    scene = scenes.render(2, 0, height, width)
    images = (scene.visible, scene.infrared, scene.visible, scene.infrared)
    label = scene.infrared // 2 + 40
    return LabelledSample(
        "k", "train", "s", "clean", "0", "{}", *images, scene.boxes, tuple(scene.classes), label=label
    )


def test_a_label_is_cut_with_its_pair():
    recipe = RECIPES["aenet-tiny"]()
    (crop,) = crops(sample(), "aenet", recipe.crops, 0, 0)
    assert set(crop) == {"visible", "infrared", "label"}
    expected = (np.rint(crop["infrared"] * 255).astype(np.uint8) // 2 + 40) / np.float32(255)
    np.testing.assert_allclose(crop["label"], expected, atol=1e-6)
    (batch,) = validation_batches([sample()], "aenet", 64)
    assert batch["label"].shape == batch["visible"].shape == (1, 1, 64, 64)


def test_the_loss_is_that_of_the_label_or_of_both_sources():
    torch.manual_seed(0)
    fused, first, second, label = torch.rand(4, 2, 1, 24, 24).unbind(0)
    terms = aenet_terms(fused, first, second, label)
    assert terms["l1"] == (fused - label).abs().mean()
    assert terms["ssim"].item() == pytest.approx(1 - ssim(fused, label).item())
    both = aenet_terms(fused, first, second, None)
    assert both["l1"].item() == pytest.approx(
        ((fused - first).abs().mean() + (fused - second).abs().mean()).item() / 2, rel=1e-6
    )
    perfect = aenet_terms(label, first, second, label)
    assert perfect["l1"] == 0 and abs(perfect["ssim"].item()) < 1e-6


def test_ssim_is_that_of_the_metric():
    torch.manual_seed(1)
    a, b = (torch.randint(0, 256, (1, 1, 40, 50)).float() for _ in range(2))
    expected = score(a, b, b, ("ssim",))["ssim"][0]  # the mean over two equal sources
    assert ssim(a / 255, b / 255).item() == pytest.approx(float(expected), abs=2e-5)
