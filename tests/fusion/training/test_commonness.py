"""Unique and common parts of networks: exact sums, of the images that the networks make."""

import pytest
import torch

from fusion.errors import UserError
from fusion.training.commonness import Parts, add, decompose, dot, fold_norms
from tests.helpers.aenets import apart, pair, trained

BLOCKS = ("gcb", "cnn", "inception", "plain")


def networks(block: str = "gcb") -> tuple[Parts, dict[str, torch.nn.Module]]:
    tasks = {"a": trained(block, seed=2), "b": trained(block, seed=3)}
    return decompose(trained(block, seed=0), trained(block, seed=1), tasks), tasks


def load(weights) -> torch.nn.Module:
    model = fold_norms(trained())
    model.load_state_dict(weights, strict=False)
    return model


@pytest.mark.parametrize("block", BLOCKS)
def test_folded_norms_give_the_same_image(block):
    model = trained(block)
    images = pair(2, (24, 20))
    folded = fold_norms(model)
    assert apart(folded(*images).image, model(*images).image) < 1e-5
    assert apart(fold_norms(folded)(*images).image, folded(*images).image) < 1e-6
    assert {name for name, _ in folded.named_buffers()} == {name for name, _ in model.named_buffers()}


def test_unique_and_common_add_up_to_the_network_of_the_task():
    parts, tasks = networks()
    images = pair(2, (24, 20))
    for task, model in tasks.items():
        assert dot(parts.unique[task], parts.common) == pytest.approx(0, abs=1e-3 * dot(parts.common, parts.common))
        assert apart(load(parts.unique_and_common(task, 1.0))(*images).image, model(*images).image) < 1e-4
        common_only = add(parts.start, (parts.beta[task], parts.common))
        for name, value in parts.unique_and_common(task, 0.0).items():
            torch.testing.assert_close(value, common_only[name])


def test_transfer_adds_what_the_other_task_has_of_its_own():
    parts, _ = networks()
    own, moved = parts.unique_and_common("a", 1.0), parts.transfer("a", "b", 0.5)
    assert all(torch.equal(value, own[name]) for name, value in parts.transfer("a", "b", 0.0).items())
    difference = add(moved, (-1.0, own))
    for name, value in parts.unique["b"].items():
        torch.testing.assert_close(difference[name], value / 2, rtol=1e-4, atol=1e-5)


def test_a_network_that_stays_common_has_beta_1_and_nothing_unique():
    start, mixed = trained(seed=0), trained(seed=1)
    parts = decompose(start, mixed, {"same": mixed, "nothing": start})
    assert parts.beta == pytest.approx({"same": 1.0, "nothing": 0.0})
    assert parts.unique_share("same") == pytest.approx(0, abs=1e-6)
    assert parts.similarity("same", "nothing") == pytest.approx(0, abs=1e-6)


def test_shares_and_similarities():
    parts, _ = networks()
    assert 0 < parts.unique_share("a") < 1
    assert parts.similarity("a", "a") == pytest.approx(1)
    assert parts.similarity("a", "b") == pytest.approx(parts.similarity("b", "a"))


def test_nothing_learnt_is_told():
    with pytest.raises(UserError, match="as it was at its start"):
        decompose(trained(seed=0), trained(seed=0), {"a": trained(seed=1)})
