"""Training without Ray: learns, saves, goes on."""

from dataclasses import replace

import pytest

from fusion import checkpoint
from fusion.errors import UserError
from fusion.models.configs import BlendNetConfig
from fusion.training import local
from fusion.training.recipes import recipe


@pytest.fixture(scope="module")
def samples():
    return local.read_samples(["scenes:6:96x80"])


def tiny(epochs):
    return replace(recipe("blendnet-tiny"), epochs=epochs, batch_size=2)


def test_reads_pairs_and_skips_some(samples):
    assert len(samples) == 6
    assert len({sample.key for sample in samples}) == 6
    kept = local.read_samples(["scenes:6:96x80"], lambda key: key.endswith("0"))
    assert len(kept) == 5


def test_trains_saves_and_goes_on(samples, tmp_path):
    history = local.train(tiny(2), samples, {"kept": samples[:2]}, tmp_path, every=1)
    assert [numbers["epoch"] for numbers in history] == [1, 2]
    assert history[-1]["kept/qabf_smaller"] > 0
    model = checkpoint.load(tmp_path / "checkpoint").model
    assert model.config == BlendNetConfig((8, 12))
    assert local.train(tiny(2), samples, {}, tmp_path) == history  # nothing is left to do
    assert [numbers["epoch"] for numbers in local.train(tiny(3), samples, {}, tmp_path)] == [1, 2, 3]


def test_what_cannot_be_trained(samples, tmp_path):
    with pytest.raises(UserError, match="Give more pairs"):
        local.train(tiny(1), samples[:1], {}, tmp_path)
    local.train(tiny(1), samples, {}, tmp_path)
    with pytest.raises(UserError, match="another network"):
        local.train(replace(tiny(2), model=BlendNetConfig((8,))), samples, {}, tmp_path)
