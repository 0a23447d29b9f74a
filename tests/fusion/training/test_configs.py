"""The batch that workers share, and the learning rate for it."""

from __future__ import annotations

import pytest

from fusion.errors import UserError
from fusion.training.configs import OptimConfig, scale_for_batch, worker_batch_size


@pytest.mark.parametrize(
    ("batch_size", "workers", "each"),
    [(4, 1, 4), (4, 2, 2), (4, 6, 1), (16, 6, 3), (42, 6, 7), (60, 6, 10), (42, 5, 9), (4, 64, 1)],
)
def test_a_batch_is_shared_or_rounded_up(batch_size, workers, each):
    assert worker_batch_size(batch_size, workers) == each
    assert batch_size <= each * workers < batch_size + workers


def test_the_rate_grows_with_the_root_of_the_batch_where_nothing_else_is_said():
    assert scale_for_batch(OptimConfig(), 4, 4) == 1
    assert scale_for_batch(OptimConfig(), 4, 16) == 2
    assert scale_for_batch(OptimConfig(batch_scaling="linear"), 4, 6) == 1.5
    assert scale_for_batch(OptimConfig(batch_scaling="none"), 4, 6) == 1


def test_an_unknown_scaling_is_refused():
    with pytest.raises(UserError, match=r"optim.batch_scaling is 'cubic'.*none, sqrt, linear"):
        OptimConfig(batch_scaling="cubic")
