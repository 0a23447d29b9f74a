"""The loss of BlendNet: what it asks for, and that it can be trained on."""

import numpy as np
import pytest
import torch

from fusion.training.keep_both import detail_kept, edges_kept, keep_both_terms, soft_minimum, tone_error


def texture(seed, frequency):
    """A smooth pattern (1, 1, 64, 64) in 0.1..0.9."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:64, 0:64]
    waves = np.sin(frequency * x + rng.uniform(0, 6)) * np.cos(frequency * y + rng.uniform(0, 6))
    return torch.tensor(0.5 + 0.4 * waves, dtype=torch.float32)[None, None]


@pytest.fixture
def pair():
    """Two images with structure in different places."""
    visible, infrared = texture(1, 0.7), texture(2, 0.4)
    visible[..., 32:] = 0.5
    infrared[..., :32] = 0.5
    return visible, infrared


def joined(visible, infrared):
    return torch.cat([visible[..., :32], infrared[..., 32:]], -1)


def test_what_is_kept_is_one_for_a_copy_and_nothing_for_a_flat_image(pair):
    sources = torch.cat(pair, 1)
    flat = torch.full_like(pair[0], 0.5)
    for kept in (edges_kept, detail_kept):
        copy = kept(pair[0], sources)[0]
        assert copy[0] > 0.95
        assert copy[1] < 0.35
        assert (kept(flat, sources)[0] < 0.1).all()


def test_an_image_with_both_beats_copies_and_the_average(pair):
    ways = {"both": joined(*pair), "visible": pair[0], "infrared": pair[1], "average": sum(pair) / 2}
    losses = {name: keep_both_terms(image, *pair) for name, image in ways.items()}
    for term in ("edges", "detail"):
        assert min(losses, key=lambda name: float(losses[name][term])) == "both"


def test_soft_minimum_leans_to_the_smaller():
    values = torch.tensor([[0.9, 0.1], [0.4, 0.4]])
    least = soft_minimum(values)
    assert 0.1 <= least[0] < 0.2
    assert least[1] == pytest.approx(0.4)


def test_tone_is_best_at_the_bright_side_of_the_middle_and_dear_outside():
    sources = torch.full((1, 2, 64, 64), 0.2)
    sources[:, 1] = 0.6
    errors = {level: float(tone_error(torch.full((1, 1, 64, 64), level), sources)) for level in (0.48, 0.25, 0.1, 0.9)}
    assert errors[0.48] == pytest.approx(0, abs=1e-5)
    assert errors[0.25] == pytest.approx(0.2 * 0.23, abs=1e-5)
    assert errors[0.1] == pytest.approx(0.1 + 0.2 * 0.38, abs=1e-5)
    assert errors[0.9] == pytest.approx(0.3 + 0.2 * 0.42, abs=1e-5)


def test_values_beyond_the_range_cost(pair):
    image = joined(*pair)
    assert keep_both_terms(image, *pair)["range"] == 0
    assert keep_both_terms(image + 1, *pair)["range"] == pytest.approx(0.5, abs=0.01)


def test_gradients_are_finite_on_flat_and_black_pairs(pair):
    for visible, infrared in (pair, (torch.zeros(1, 1, 64, 64),) * 2, (torch.ones(1, 1, 64, 64),) * 2):
        image = ((visible + infrared) / 2).requires_grad_()
        sum(keep_both_terms(image, visible, infrared).values()).backward()
        assert torch.isfinite(image.grad).all()
