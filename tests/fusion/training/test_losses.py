"""Loss terms against values worked by hand."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch

from fusion.errors import UserError
from fusion.training.configs import FuseLoss, MoEFusionLoss, RestoreLoss
from fusion.training.crops import box_mask
from fusion.training.losses import fuse_terms, moefusion_terms, restore_terms, sobel, total


def image(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)[None, None]


RAMP = image([[0, 1, 2, 3]] * 3)
ZERO, BALANCE = torch.zeros(1, 1, 3, 4), torch.tensor(0.5)
LOADS = {"foreground": torch.tensor(0.1), "background": torch.tensor(0.2), "global": torch.tensor(0.4)}


def test_sobel_of_ramps():
    across = [[4, 8, 8, 4]] * 3  # (1 + 2 + 1) x the difference of the neighbours; half at the replicated border
    assert sobel(RAMP).tolist() == image(across).tolist()
    assert sobel(-RAMP).tolist() == image(across).tolist()
    assert sobel(RAMP.mT).tolist() == image(across).mT.tolist()
    both = sobel(RAMP[..., :3] + RAMP[..., :3].mT)
    assert both[0, 0, 1, 1] == 16
    assert (sobel(torch.full((2, 1, 5, 4), 0.7)).abs() < 1e-6).all()


def test_sobel_of_a_dot():
    dot = torch.zeros(1, 1, 5, 5)
    dot[0, 0, 2, 2] = 1
    ring = [[0, 0, 0, 0, 0], [0, 2, 2, 2, 0], [0, 2, 0, 2, 0], [0, 2, 2, 2, 0], [0, 0, 0, 0, 0]]
    assert sobel(dot).tolist() == image(ring).tolist()


def test_sobel_keeps_type_and_images_apart():
    batch = torch.rand(3, 1, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out = sobel(batch)
    assert out.dtype == torch.float64
    assert torch.equal(sobel(batch[1:2])[0], out[1])


def test_restore_terms():
    terms = restore_terms(RAMP, ZERO, BALANCE)
    assert {name: value.item() for name, value in terms.items()} == {"l1": 1.5, "balance": 0.5, "gradient": 6.0}
    same = restore_terms(RAMP, RAMP, BALANCE)
    assert same["l1"] == same["gradient"] == 0


def test_fuse_terms():
    """fused 1; visible 0 and infrared 3 in the left half, 2 and 0 in the right half."""
    fused = torch.ones(1, 1, 4, 4)
    visible = image([[0, 0, 2, 2]] * 4)
    infrared = image([[3, 3, 0, 0]] * 4)
    terms = fuse_terms(fused, visible, infrared, BALANCE)
    assert terms["visible"] == pytest.approx(1.0)  # 1, 1
    assert terms["infrared"] == pytest.approx(1.5)  # 2, 1
    assert terms["maximum"] == pytest.approx(1.5)  # |1 - 3|, |1 - 2|
    assert terms["gradient"] == pytest.approx(6.0)  # two of four columns have the infrared edge of 3 x 4
    assert terms["balance"] == 0.5


def test_the_gradient_target_is_the_greater_edge_of_either_image():
    visible, infrared = torch.zeros(1, 1, 6, 6), torch.zeros(1, 1, 6, 6)
    visible[..., 3:] = 0.2
    infrared[..., 4:, :] = 0.3
    terms = fuse_terms(torch.zeros(1, 1, 6, 6), visible, infrared, BALANCE)
    expected = torch.maximum(sobel(visible), sobel(infrared)).mean()
    assert terms["gradient"] == pytest.approx(expected.item())
    assert expected > sobel(visible).mean()
    assert expected > sobel(infrared).mean()


def boxes(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def test_a_mask_marks_every_pixel_that_a_box_touches():
    mask = box_mask([boxes([1, 0, 3, 2], [3.5, 2.9, 4.1, 3])], (4, 6))
    assert mask.dtype == torch.float32
    assert mask[0, 0].tolist() == [
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_each_image_of_a_batch_has_its_own_boxes_or_none():
    mask = box_mask([boxes([0, 0, 2, 1]), boxes(), torch.zeros(0), boxes([1, 1, 3, 2])], (2, 3))
    assert mask.shape == (4, 1, 2, 3)
    assert mask[:, 0].flatten(1).tolist() == [[1, 1, 0, 0, 0, 0], [0] * 6, [0] * 6, [0, 0, 0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ([-5, -5, 2, 1], 2),  # over the border
        ([-9, -9, 99, 99], 12),
        ([4, 0, 9, 3], 0),  # beyond it
        ([-3, 0, 0, 3], 0),
        ([1, 1, 1, 3], 0),  # no area
        ([3, 2, 1, 0], 0),
        ([1.2, 1.2, 1.3, 1.3], 1),  # within a pixel
        ([math.nan, 0, 2, 2], 0),
    ],
)
def test_boxes_at_and_over_the_edge(box, pixels):
    assert box_mask([boxes(box)], (3, 4)).sum() == pixels


def test_the_pixel_target_is_the_maximum_in_boxes_and_the_mean_outside():
    """fused 0; visible 0.2 and infrared 0.8 everywhere: 0.8 in the box, a quarter of the image, 0.5 outside."""
    visible, infrared = torch.full((1, 1, 4, 4), 0.2), torch.full((1, 1, 4, 4), 0.8)
    mask = box_mask([boxes([0, 0, 2, 2])], (4, 4))
    fused = torch.zeros(1, 1, 4, 4, requires_grad=True)
    terms = moefusion_terms(fused, visible, infrared, mask, LOADS)
    assert terms["pixel"].item() == pytest.approx(0.25 * 0.8 + 0.75 * 0.5)
    assert terms["gradient"].item() == pytest.approx(0, abs=1e-6)
    assert {name: terms[f"load_{name}"] for name in LOADS} == LOADS
    best = torch.where(mask > 0, 0.8, 0.5)
    assert moefusion_terms(best, visible, infrared, mask, LOADS)["pixel"] == pytest.approx(0, abs=1e-6)
    swapped = moefusion_terms(fused, infrared, visible, mask, LOADS)
    assert swapped["pixel"] == terms["pixel"]


def test_without_boxes_all_is_background():
    visible, infrared = torch.rand(2, 1, 5, 6, generator=torch.Generator().manual_seed(0)).chunk(2)
    fused = torch.full_like(visible, 0.3)
    expected = (fused - (visible + infrared) / 2).abs().mean().item()
    for mask in (None, box_mask([boxes()], (5, 6))):
        assert moefusion_terms(fused, visible, infrared, mask, LOADS)["pixel"].item() == pytest.approx(expected)
    everywhere = box_mask([boxes([0, 0, 6, 5])], (5, 6))
    expected = (fused - torch.maximum(visible, infrared)).abs().mean().item()
    assert moefusion_terms(fused, visible, infrared, everywhere, LOADS)["pixel"].item() == pytest.approx(expected)


def test_moefusion_has_the_gradient_term_of_fusing_and_its_loads_by_gate():
    terms = moefusion_terms(ZERO, RAMP, ZERO, None, LOADS)
    assert terms["gradient"] == fuse_terms(ZERO, RAMP, ZERO, BALANCE)["gradient"] == 6
    without = moefusion_terms(ZERO, RAMP, ZERO, None, {"global": LOADS["global"]})
    assert [without[f"load_{name}"].item() for name in LOADS] == [0, 0, pytest.approx(0.4)]
    assert list(without) == list(terms)


@pytest.mark.parametrize("kind", [RestoreLoss, FuseLoss, MoEFusionLoss])
def test_the_total_is_the_weighted_sum(kind):
    names = [field.name for field in fields(kind)]
    terms = {name: torch.tensor(float(i + 1)) for i, name in enumerate(names)}
    for chosen in names:
        weights = kind(**{name: 3.0 if name == chosen else 0.0 for name in names})
        assert total(terms, weights) == pytest.approx(3 * terms[chosen].item())
    expected = sum(getattr(kind(), name) * terms[name].item() for name in names)
    assert total(terms, kind()) == pytest.approx(expected)


def test_the_papers_weights():
    assert RestoreLoss() == RestoreLoss(l1=1, balance=0.1, gradient=10)
    assert FuseLoss() == FuseLoss(visible=1, infrared=1, maximum=1, balance=0.1, gradient=5)
    loads = {"load_foreground": 0.01, "load_background": 0.01, "load_global": 0.02}
    assert MoEFusionLoss() == MoEFusionLoss(pixel=1, gradient=10, **loads)


def test_terms_and_weights_have_the_same_names():
    assert list(restore_terms(RAMP, ZERO, BALANCE)) == [field.name for field in fields(RestoreLoss)]
    assert list(fuse_terms(RAMP, ZERO, ZERO, BALANCE)) == [field.name for field in fields(FuseLoss)]
    assert list(moefusion_terms(RAMP, ZERO, ZERO, None, LOADS)) == [field.name for field in fields(MoEFusionLoss)]


def test_the_total_has_a_gradient_for_every_term():
    restored, balance = RAMP.clone().requires_grad_(), BALANCE.clone().requires_grad_()
    total(restore_terms(restored, ZERO, balance), RestoreLoss()).backward()
    assert balance.grad == pytest.approx(0.1)
    assert restored.grad.abs().max() > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["l1", "balance", "gradient"])
def test_a_loss_that_is_not_finite_stops_and_shows_all_terms(bad, name):
    terms = {"l1": torch.tensor(0.25), "balance": torch.tensor(0.5), "gradient": torch.tensor(0.125)}
    terms[name] = torch.tensor(bad)
    with pytest.raises(UserError) as caught:
        total(terms, RestoreLoss())
    text = str(caught.value)
    assert f"{name} {bad}" in text
    assert all(f"{other} {value.item():.4g}" in text for other, value in terms.items())
    assert "\n" not in text
