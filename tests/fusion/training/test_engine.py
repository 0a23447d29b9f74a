"""Training: it learns, it goes on exactly where it stopped, and it stops at numbers that are not finite."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace

import pytest
import torch

from fusion.errors import UserError
from fusion.seeds import derive_torch_seed
from fusion.training.configs import FuseLoss, OptimConfig, RestoreLoss
from fusion.training.engine import Engine, learning_rate, loss_terms
from fusion.training.recipes import Recipe
from tests.helpers.tiny_models import SMALL

OPTIM = OptimConfig(lr=4e-3, warmup_fraction=0.1, max_grad_norm=1.0)
RESTORE = Recipe(
    "small", "tgecnet", SMALL, RestoreLoss(gradient=0.1, balance=0.01), OPTIM, epochs=3, batch_size=4, seed=1
)
FUSE = replace(RESTORE, model=replace(SMALL, stage="fuse"), loss=FuseLoss(gradient=1.0))


def waves(count, side, generator):
    """Smooth clean images in 0.1..0.9."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    a, b, c = torch.rand(3, count, 1, 1, 1, generator=generator)
    return 0.5 + 0.4 * torch.sin(2 * math.pi * (2 * a * x + 2 * b * y + c))


def noisy_batches(count, side=32, size=4, seed=5):
    g = torch.Generator().manual_seed(seed)
    cleans = [waves(size, side, g) for _ in range(count)]
    return [{"clean": clean, "degraded": clean + 0.1 * torch.randn(clean.shape, generator=g)} for clean in cleans]


def fuse_batches(count, side=16, size=2, seed=5):
    visible, infrared = noisy_batches(count, side, size, seed), noisy_batches(count, side, size, seed + 1)
    return [
        {
            "visible": v["clean"],
            "infrared": i["clean"],
            "degraded_visible": v["degraded"],
            "degraded_infrared": i["degraded"],
        }
        for v, i in zip(visible, infrared, strict=True)
    ]


def test_six_workers_train_a_batch_of_four_at_the_rate_for_six():
    engine = Engine(replace(RESTORE, optim=OptimConfig(lr=1e-3)), 3, workers=6)
    assert engine.effective_batch_size == 6
    engine.set_learning_rate(0.0)
    assert engine.optimiser.param_groups[0]["lr"] == pytest.approx(1e-3 * math.sqrt(1.5))
    engine = Engine(replace(RESTORE, optim=OptimConfig(lr=1e-3)), 3, workers=2)
    engine.set_learning_rate(0.0)
    assert engine.effective_batch_size == 4 and engine.optimiser.param_groups[0]["lr"] == pytest.approx(1e-3)


def weights(engine):
    return {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def differ(one, other):
    return any(not torch.equal(one[name], other[name]) for name in one)


# learning


@pytest.fixture(scope="module")
def trained():
    """A small network after some 50 steps on noise, and what it reported."""
    torch.set_num_threads(1)
    data = noisy_batches(16)
    engine = Engine(RESTORE, batches_per_epoch=16)
    before = engine.validate(data[:2])
    epochs = [engine.train_epoch(data) for _ in range(3)]
    return engine, epochs, before


def test_training_lowers_the_loss(trained):
    _, epochs, _ = trained
    losses = [numbers["loss"] for numbers in epochs]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.5 * losses[0]


def test_training_beats_the_degraded_input_on_images_never_seen(trained):
    engine, _, _ = trained
    numbers = engine.validate(noisy_batches(2, seed=77))
    assert 19 < numbers["psnr_input"] < 21.5  # sigma 25.5 of 255 is 20 dB
    assert numbers["psnr"] > numbers["psnr_input"] + 4


def test_what_an_epoch_reports(trained):
    _, epochs, before = trained
    for numbers in epochs:
        assert set(numbers) == {"loss", "l1", "balance", "gradient", "images", "steps", "data_time_s", "step_time_s"}
        assert numbers["images"] == 64
        assert numbers["steps"] == 16
        weighted = numbers["l1"] + 0.1 * numbers["gradient"] + 0.01 * numbers["balance"]
        assert numbers["loss"] == pytest.approx(weighted, rel=1e-4)
        assert numbers["step_time_s"] > 0.1
    assert set(before) == {"psnr", "ssim", "psnr_input"}


def test_waiting_and_working_are_timed_apart():
    def slow():
        for batch in fuse_batches(2):
            time.sleep(0.2)
            yield batch

    start = time.perf_counter()
    numbers = Engine(FUSE, 2).train_epoch(slow())
    assert 0.4 <= numbers["data_time_s"] < 2
    assert 0 < numbers["step_time_s"] < time.perf_counter() - start - 0.39


def test_an_epoch_without_batches_reports_no_steps():
    engine = Engine(RESTORE, 1)
    numbers = engine.train_epoch([])
    assert numbers["steps"] == numbers["images"] == 0
    assert engine.epoch == 1


def test_fusing_trains_the_head_and_reports_its_metrics():
    engine = Engine(FUSE, 4)
    data = fuse_batches(4)
    before = weights(engine)
    first, second = engine.train_epoch(data), engine.train_epoch(data)
    assert second["loss"] < first["loss"]
    assert set(first) >= {"visible", "infrared", "maximum", "balance", "gradient"}
    changed = {name.split(".")[0] for name, tensor in weights(engine).items() if not torch.equal(tensor, before[name])}
    assert changed == {"fusion"}
    assert set(engine.validate(fuse_batches(1, side=48))) == {"qabf", "vif", "en"}


def test_terms_compare_with_the_clean_images_of_the_stage():
    engine = Engine(RESTORE, 1)
    engine.model.eval()
    (batch,) = noisy_batches(1, side=16)
    with torch.no_grad():
        found = loss_terms("restore", engine.network, batch)
        expected = (engine.model(batch["degraded"]).image - batch["clean"]).abs().mean()
    torch.testing.assert_close(found["l1"], expected)
    fuser = Engine(FUSE, 1)
    fuser.model.eval()
    (batch,) = fuse_batches(1)
    with torch.no_grad():
        found = loss_terms("fuse", fuser.network, batch)
        image = fuser.model(batch["degraded_visible"], batch["degraded_infrared"]).image
    for name in ("visible", "infrared"):
        torch.testing.assert_close(found[name], (image - batch[name]).abs().mean())


# validation


def test_validation_counts_images_not_batches(trained):
    engine, _, _ = trained
    data = noisy_batches(2, side=24)
    parts = [{role: tensor[:1] for role, tensor in data[0].items()}, {r: t[1:] for r, t in data[0].items()}, data[1]]
    whole, split = engine.validate(data), engine.validate(parts)
    assert whole == pytest.approx(split, rel=1e-4)
    single = [engine.validate([{r: t[i : i + 1] for r, t in batch.items()}]) for batch in data for i in range(4)]
    for name in whole:
        assert whole[name] == pytest.approx(sum(numbers[name] for numbers in single) / 8, rel=1e-4)


def test_validation_rounds_to_eight_bits_and_leaves_out_what_is_infinite():
    engine = Engine(RESTORE, 1)
    torch.nn.init.zeros_(engine.model.restoration.output.weight)  # the network hands its input on
    clean = torch.full((3, 1, 16, 16), 100 / 255)
    degraded = clean.clone()
    degraded[0] += 10 / 255
    degraded[1] += 1.0  # clipped to 255
    degraded[2] += 0.4 / 255  # rounds to the clean value: infinite PSNR
    numbers = engine.validate([{"clean": clean, "degraded": degraded}])
    expected = (20 * math.log10(255 / 10) + 20 * math.log10(255 / 155)) / 2
    assert numbers["psnr"] == pytest.approx(expected)
    assert numbers["psnr_input"] == pytest.approx(expected)


def test_validation_neither_draws_noise_nor_trains(trained):
    engine, _, _ = trained
    data = noisy_batches(1, side=16)
    before = weights(engine)
    assert engine.validate(data) == engine.validate(data)
    assert_equal(weights(engine), before)
    assert not engine.model.training


# going on


def run(recipe, data, epochs, folder=None, stop=None):
    """Train; with `stop`, save after that many epochs and go on in a new engine."""
    engine = Engine(recipe, len(data))
    for epoch in range(epochs):
        if epoch == stop:
            engine.save(folder, {"note": "kept"})
            engine = Engine(replace(recipe), len(data))
            torch.manual_seed(123)  # what else was drawn in between must not matter
            engine.resume(folder)
            assert engine.epoch == stop
        engine.train_epoch(data)
    return engine


@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.parametrize("recipe", [RESTORE, FUSE], ids=["restore", "fuse"])
def test_a_resumed_run_ends_bit_for_bit_like_an_undisturbed_one(tmp_path, recipe, stop):
    data = noisy_batches(2, side=16, size=2) if recipe is RESTORE else fuse_batches(2)
    straight, resumed = run(recipe, data, 3), run(recipe, data, 3, tmp_path, stop)
    assert_equal(weights(straight), weights(resumed))
    names = [name for name, p in straight.model.named_parameters() if p.requires_grad]
    for one, other in zip(*(e.optimiser.param_groups[0]["params"] for e in (straight, resumed)), strict=True):
        assert_equal(straight.optimiser.state[one], resumed.optimiser.state[other])
    assert len(straight.optimiser.state) == len(names)
    assert straight.epoch == resumed.epoch == 3


def test_a_save_changes_nothing_and_holds_the_epoch(tmp_path):
    data = noisy_batches(1, side=16, size=2)
    engine = run(RESTORE, data, 1)
    before = weights(engine)
    engine.save(tmp_path / "a" / "b", {"history": [1]})
    assert_equal(weights(engine), before)
    assert (tmp_path / "a" / "b" / "state.json").read_text().split() == '{ "epoch": 1, "history": [ 1 ] }'.split()


def test_gate_noise_depends_on_seed_epoch_step_and_worker():
    data = noisy_batches(1, side=16, size=2)

    def after(seed=0, rank=0, epoch=0):
        engine = Engine(replace(RESTORE, seed=seed, optim=OptimConfig(lr=1e-3)), 1, rank=rank)
        engine.model.load_state_dict(start)
        engine.epoch = epoch
        return engine.train_epoch(data)["loss"]

    start = Engine(RESTORE, 1).model.state_dict()
    assert after() == after()
    assert len({after(), after(seed=1), after(rank=1), after(epoch=1)}) == 4


def test_weights_come_from_the_recipes_seed_whatever_was_drawn_before():
    torch.manual_seed(1)
    one = weights(Engine(RESTORE, 1))
    torch.manual_seed(2)
    assert_equal(one, weights(Engine(RESTORE, 1)))
    assert_equal(one, weights(Engine(RESTORE, 1, rank=3)))
    assert differ(one, weights(Engine(replace(RESTORE, seed=2), 1)))


def test_stage_two_starts_from_stage_one(tmp_path, trained):
    engine, _, _ = trained
    engine.save(tmp_path, {})
    fuser = Engine(FUSE, 1)
    head = {name: t.clone() for name, t in fuser.model.fusion.state_dict().items()}
    fuser.start_from(tmp_path)
    assert_equal(fuser.model.restoration.state_dict(), engine.model.restoration.state_dict())
    assert_equal(fuser.model.fusion.state_dict(), head)
    image = noisy_batches(1, side=16)[0]["degraded"]
    with torch.no_grad():
        assert torch.equal(fuser.model.eval()(image).image, engine.model.eval()(image).image)
    fuser.train_epoch(fuse_batches(1))
    assert_equal(fuser.model.restoration.state_dict(), engine.model.restoration.state_dict())


# the pace


def test_learning_rate_by_hand():
    optim = OptimConfig(lr=2.0, final_lr_ratio=0.1, warmup_fraction=0.2)
    assert learning_rate(optim, 0.0) == 0
    assert learning_rate(optim, 0.1) == pytest.approx(1.0)
    assert learning_rate(optim, 0.2) == pytest.approx(2.0)
    assert learning_rate(optim, 0.6) == pytest.approx(1.1)  # half-way: the mean of 2 and 0.2
    assert learning_rate(optim, 0.4) == pytest.approx(0.2 + 1.8 * (1 + math.sqrt(0.5)) / 2)
    assert learning_rate(optim, 1.0) == pytest.approx(0.2)
    assert learning_rate(optim, 1.5) == pytest.approx(0.2)


def test_learning_rate_without_warm_up_starts_at_its_greatest():
    optim = OptimConfig(lr=2.0, final_lr_ratio=0.1)
    assert learning_rate(optim, 0.0) == 2.0
    rates = [learning_rate(optim, i / 50) for i in range(51)]
    assert all(a > b for a, b in itertools.pairwise(rates))


def test_every_step_has_its_rate():
    data = noisy_batches(2, side=16, size=1)
    engine = Engine(RESTORE, 2)
    rates, steps = [], []

    def on_step(step, latest):
        steps.append(step)
        rates.append(engine.optimiser.param_groups[0]["lr"])
        assert set(latest) == {"loss", "l1", "balance", "gradient"}

    for _ in range(3):
        engine.train_epoch([*data, *data], on_step)  # two batches more than promised
    expected = [learning_rate(OPTIM, (epoch + step / 2) / 3) for epoch in range(3) for step in (0.5, 1.5, 2, 2)]
    assert rates == pytest.approx(expected)
    assert steps == [1, 2, 3, 4] * 3


def test_the_gradient_is_clipped():
    (batch,) = noisy_batches(1, side=16, size=2)
    norms = {}
    for clip in (0.0, 0.01):
        engine = Engine(replace(RESTORE, optim=replace(OPTIM, max_grad_norm=clip)), 1)
        engine.train_epoch([batch])
        grads = [p.grad for p in engine.model.parameters()]
        norms[clip] = torch.stack([grad.norm() for grad in grads]).norm().item()
    assert norms[0.0] > 0.1
    assert norms[0.01] == pytest.approx(0.01, rel=1e-3)


# trouble


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_batch_that_is_not_finite_stops_the_run_before_the_weights_change(bad):
    good, broken = noisy_batches(2, side=16, size=2)
    broken["degraded"][1, 0, 3, 4] = bad
    engine = Engine(RESTORE, 2)
    seen = []
    with pytest.raises(UserError, match=r"not finite.*l1"):
        engine.train_epoch([good, broken], lambda step, latest: seen.append(weights(engine)))
    assert len(seen) == 1
    assert_equal(weights(engine), seen[0])
    assert engine.epoch == 0


# several workers


def test_sums_over_workers_make_means():
    """Two workers that do the same: the means stay, the counts double."""

    def double(numbers):
        return {name: 2 * value for name, value in numbers.items()}

    data = noisy_batches(2, side=16, size=2)
    alone, both = Engine(RESTORE, 2), Engine(RESTORE, 2, reduce=double)
    one, two = alone.train_epoch(data), both.train_epoch(data)
    assert two["images"] == 2 * one["images"] == 8
    assert two["steps"] == 2 * one["steps"] == 4
    for name in ("loss", "l1", "balance", "gradient"):
        assert one[name] == pytest.approx(two[name])
    assert both.validate(data) == pytest.approx(alone.validate(data))


def test_the_wrapped_network_is_called_and_wrapped_once(tmp_path):
    wrapped = []

    class Wrapper(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network, self.calls = network, 0
            wrapped.append(self)

        def forward(self, *given):
            self.calls += 1
            return self.network(*given)

    data = noisy_batches(2, side=16, size=1)
    engine = Engine(RESTORE, 2, wrap=Wrapper)
    assert not wrapped  # weights are loaded first
    engine.train_epoch(data)
    engine.train_epoch(data)
    assert [w.calls for w in wrapped] == [4]
    engine.save(tmp_path, {})
    Engine(RESTORE, 2).resume(tmp_path)  # names without the wrapper's


def test_torch_seeds_have_63_bits():
    seeds = [derive_torch_seed("a", i) for i in range(200)]
    assert max(seeds) < 2**63
    assert max(seeds) > 2**62
    assert len(set(seeds)) == 200


# what other engines change


def test_milestones_by_hand():
    optim = OptimConfig(lr=2.0, milestones=(4, 6), warmup_fraction=0.1, final_lr_ratio=0.5)
    rates = {progress: learning_rate(optim, progress, epochs=8) for progress in (0.05, 0.1, 0.49, 0.5, 0.74, 0.75, 1.0)}
    expected = {0.05: 1.0, 0.1: 2.0, 0.49: 2.0, 0.5: 0.2, 0.74: 0.2, 0.75: 0.02, 1.0: 0.02}
    assert rates == pytest.approx(expected)


def test_milestones_are_epochs_of_a_run():
    optim = OptimConfig(lr=1e-3, milestones=(1, 2))
    engine = Engine(replace(RESTORE, optim=optim), 2)
    rates = []
    for _ in range(3):
        engine.train_epoch(
            noisy_batches(2, side=16, size=1), lambda *_: rates.append(engine.optimiser.param_groups[0]["lr"])
        )
    assert rates == pytest.approx([1e-3] * 2 + [1e-4] * 2 + [1e-5] * 2)


def test_the_rate_is_set_in_every_group():
    engine = Engine(RESTORE, 1)
    engine.optimiser.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 7.0})
    engine.set_learning_rate(0.5)
    assert [group["lr"] for group in engine.optimiser.param_groups] == [learning_rate(OPTIM, 0.5)] * 2


def test_an_engine_may_build_step_and_complete_in_its_own_way():
    class Doubled(Engine):
        """Trains on images that are half as bright, validates on what it makes of the batch."""

        def build(self):
            self.notes = ("built here",)
            return super().build()

        def step(self, batch):
            return super().step({name: tensor / 2 for name, tensor in batch.items()})

        def add_attention(self, batch):
            return batch | {"degraded": batch["clean"]}

    data = noisy_batches(2, side=16, size=2)
    halves = [{name: tensor / 2 for name, tensor in batch.items()} for batch in data]
    engine, plain = Doubled(RESTORE, 2), Engine(RESTORE, 2)
    assert (engine.notes, plain.notes) == (("built here",), ())
    engine.train_epoch(data)
    plain.train_epoch(halves)
    assert_equal(weights(engine), weights(plain))
    clean = [batch | {"degraded": batch["clean"]} for batch in data]
    assert engine.validate(data) == plain.validate(clean) != plain.validate(data)


def test_weights_that_do_not_learn_are_not_in_the_optimiser():
    engine = Engine(FUSE, 1)
    held = {id(p) for p in engine.model.parameters() if not p.requires_grad}
    inside = {id(p) for group in engine.optimiser.param_groups for p in group["params"]}
    assert held and inside and not held & inside
    assert len(held) + len(inside) == len(list(engine.model.parameters()))


def test_an_unknown_metric_of_validation_is_refused_before_anything_runs():
    with pytest.raises(UserError, match="unknown metric 'qabff'"):
        Engine(replace(RESTORE, validation=replace(RESTORE.validation, metrics=("qabff",))), 1)
