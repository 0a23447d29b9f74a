"""Loss terms against values worked by hand."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch

from fusion.errors import UserError
from fusion.losses import FuseLoss, RestoreLoss, fuse_terms, restore_terms, sobel, total


def image(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)[None, None]


RAMP = image([[0, 1, 2, 3]] * 3)
ZERO, BALANCE = torch.zeros(1, 1, 3, 4), torch.tensor(0.5)


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


@pytest.mark.parametrize("kind", [RestoreLoss, FuseLoss])
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


def test_terms_and_weights_have_the_same_names():
    assert list(restore_terms(RAMP, ZERO, BALANCE)) == [field.name for field in fields(RestoreLoss)]
    assert list(fuse_terms(RAMP, ZERO, ZERO, BALANCE)) == [field.name for field in fields(FuseLoss)]


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
