"""Training Faster R-CNN: it learns, goes on where it stopped, and its batches do not depend on the workers."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from detection.average_precision import ap, match
from detection.boxes import Truth
from detection.faster_rcnn.model import DETECTORS, detect
from detection.faster_rcnn.recipes import RECIPES, TINY, DetectorRecipe
from detection.faster_rcnn.train import DetectorEngine, Example, augment, batches, collate
from fusion import checkpoint
from fusion.config import from_dict, to_dict
from fusion.errors import UserError
from fusion.training.configs import OptimConfig
from fusion.training.engine import learning_rate

MODEL = replace(TINY, classes=("person", "car"), size=80, proposals=40, rois_per_image=16)
RECIPE = DetectorRecipe(
    "tiny",
    MODEL,
    OptimConfig(lr=2e-3, warmup_fraction=0.1, max_grad_norm=10.0),
    epochs=3,
    batch_size=2,
    weights="none",
    seed=3,
)


def example(key: str, height=64, width=80, boxes=None, grey=False) -> Example:
    """Bright rectangles (class 0) and dark ones (class 1) on noise, each filling its box."""
    rng = np.random.default_rng([ord(letter) for letter in key])
    image = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
    if boxes is None:
        x1, y1 = rng.integers(4, width // 2 - 24), rng.integers(4, height - 34)
        boxes = [(x1, y1, x1 + 20, y1 + 30), (x1 + width // 2, y1, x1 + width // 2 + 20, y1 + 30)]
    for place, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2] = 20 if place % 2 else 240
    classes = [place % 2 for place in range(len(boxes))]
    return Example(key, image[..., 0] if grey else image, Truth(boxes, classes, height, width))


NAMES = [f"image {i}" for i in range(8)]


def made(engine_epoch=0, names=NAMES, recipe=RECIPE, rank=0, size=1, read=example) -> list[dict]:
    return list(batches(names, read, recipe, engine_epoch, rank, size))


# batches


def bright(image) -> list[int]:
    """The box of what is bright in an image."""
    rows, columns = np.nonzero((image > 200).all(-1))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_painted_rectangle_stays_in_its_box():
    recipe = replace(RECIPE, brightness_jitter=0.0)
    flipped = 0
    for epoch in range(12):
        _, image, truth = example("a")
        key, turned, found = augment(Example("a", image, truth), recipe, epoch)
        assert key == "a" and turned.shape == image.shape and turned.dtype == np.uint8
        assert (found.height, found.width) == (64, 80)
        assert bright(turned) == found.boxes[0].tolist()
        np.testing.assert_array_equal(found.classes, truth.classes)
        flipped += found.boxes[0].tolist() != truth.boxes[0].tolist()
        assert np.array_equal(turned, image) or np.array_equal(turned, image[:, ::-1])
    assert 2 <= flipped <= 10


def test_light_changes_and_boxes_are_clean_after_it():
    recipe = replace(RECIPE, brightness_jitter=0.5, flips=False)
    _, image, truth = example("a")
    means = []
    for epoch in range(20):
        _, turned, found = augment(Example("a", image, truth), recipe, epoch)
        assert found is truth
        means.append(float(turned.mean()))
        spread = turned[0].astype(float).std() / image[0].std()
        assert 0 < spread < 1.6
    assert max(means) - min(means) > 40 and min(means) < image.mean() < max(means)
    _, same, _ = augment(Example("a", image, truth), replace(recipe, brightness_jitter=0.0), 5)
    assert np.array_equal(same, image)


def test_draws_are_named_by_seed_epoch_and_image():
    def look(key="a", epoch=0, seed=0):
        _, image, truth = example("a")
        return augment(Example(key, image, truth), replace(RECIPE, seed=seed), epoch)[1].tobytes()

    assert look() == look()
    assert len({look(), look(key="b"), look(epoch=1), look(seed=1)}) == 4


def test_images_without_boxes_and_grey_ones():
    for epoch in range(4):
        _, image, truth = augment(example("a", boxes=[], grey=True), RECIPE, epoch)
        assert truth.boxes.shape == (0, 4) and image.shape == (64, 80)
    batch = collate([example("a", boxes=[], grey=True), example("b", height=40, width=50, boxes=[(1, 2, 30, 35)])])
    assert [tuple(image.shape) for image in batch["images"]] == [(3, 64, 80), (3, 40, 50)]
    assert [tuple(target["boxes"].shape) for target in batch["targets"]] == [(0, 4), (1, 4)]
    assert batch["targets"][1]["labels"].tolist() == [1]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_workers_share_the_same_batches(size):
    recipe = replace(RECIPE, batch_size=4)
    names = [f"image {i}" for i in range(11)]
    whole = made(names=names, recipe=recipe, engine_epoch=1)
    parts = [made(names=names, recipe=recipe, engine_epoch=1, rank=rank, size=size) for rank in range(size)]
    assert len(whole) == 2 and {len(part) for part in parts} == {2}
    for step, batch in enumerate(whole):
        together = [image for part in parts for image in part[step]["images"]]
        assert len(together) == 4
        assert all(torch.equal(one, other) for one, other in zip(batch["images"], together, strict=True))
        found = [target for part in parts for target in part[step]["targets"]]
        for one, other in zip(batch["targets"], found, strict=True):
            assert torch.equal(one["boxes"], other["boxes"]) and torch.equal(one["labels"], other["labels"])


def test_an_epoch_sees_every_image_at_most_once_in_an_order_of_its_own():
    def order(epoch, seed=0):
        seen = []

        def read(name):
            seen.append(name)
            return example(name, boxes=[])

        list(batches(NAMES, read, replace(RECIPE, batch_size=3, seed=seed), epoch))
        return seen

    assert len(order(0)) == 6 and len(set(order(0))) == 6
    assert order(0) == order(0)
    assert len({tuple(order(0)), tuple(order(1)), tuple(order(0, seed=1))}) == 3
    assert len({name for epoch in range(10) for name in order(epoch)}) == 8


def test_too_few_images_for_a_batch_are_told():
    with pytest.raises(UserError, match=r"1 images.*batch of 2"):
        made(names=NAMES[:1])


# learning


def ap50(engine, examples) -> float:
    found = detect(engine.model.eval(), [image for _, image, _ in examples])
    table = ap(match([truth for _, _, truth in examples], found, MODEL.classes))
    return float(np.nanmean(table[0]))


def test_it_learns_to_find_bright_and_dark_rectangles():
    """On images of another size than it works at, so that boxes go through the scaling and back."""
    names = [f"image {i}" for i in range(4)]
    optim = OptimConfig(lr=2e-3, warmup_fraction=0.05, max_grad_norm=10.0)
    recipe = replace(RECIPE, model=replace(MODEL, size=56), brightness_jitter=0.0, batch_size=4, epochs=45, optim=optim)
    engine = DetectorEngine(recipe, 1)
    examples = [example(name, height=48) for name in names]
    read = dict(zip(names, examples, strict=True)).__getitem__
    before = ap50(engine, examples)
    losses = []
    for epoch in range(recipe.epochs):
        losses.append(engine.train_epoch(batches(names, read, recipe, epoch))["loss"])
    after = ap50(engine, examples)
    assert before < 0.1
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert after > 0.5, after


def test_what_an_epoch_reports():
    engine = DetectorEngine(RECIPE, 4)
    ticks = []
    numbers = engine.train_epoch(made(), lambda step, latest: ticks.append((step, set(latest))))
    terms = {"loss", "classifier", "box_reg", "objectness", "rpn_box_reg"}
    assert set(numbers) == {*terms, "images", "steps", "data_time_s", "step_time_s"}
    assert (numbers["images"], numbers["steps"]) == (8, 4)
    assert numbers["loss"] == pytest.approx(sum(numbers[name] for name in terms - {"loss"}), rel=1e-4)
    assert ticks == [(step, terms) for step in (1, 2, 3, 4)]
    assert engine.notes == ("backbone from random weights",)


def test_batches_without_a_box_are_learnt_from():
    def read(name):
        return example(name, boxes=[])

    engine = DetectorEngine(RECIPE, 4)
    before = weights(engine)
    numbers = engine.train_epoch(made(read=read))
    assert numbers["box_reg"] == numbers["rpn_box_reg"] == 0
    assert all(math.isfinite(value) for value in numbers.values())
    assert differ(before, weights(engine))


def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_change():
    engine = DetectorEngine(RECIPE, 1)
    (batch, *_) = made()
    engine.model.net.roi_heads.box_predictor.cls_score.bias.data[0] = math.nan
    before = {name: value for name, value in weights(engine).items() if "running" not in name and "num_b" not in name}
    with pytest.raises(UserError, match=r"not finite.*classifier nan.*optim\.lr"):
        engine.train_epoch([batch])
    after = weights(engine)
    assert all(torch.equal(value, after[name]) for name, value in before.items() if "cls_score" not in name)


def test_boxes_are_not_rounded_by_mixed_precision():
    """bfloat16 has 8 bits: 541.3 would become 540. The step runs without autocast even where `bf16` is set."""
    engine = DetectorEngine(RECIPE, 1)
    engine.bf16 = True
    seen = []
    anchors = engine.model.net.rpn.anchor_generator
    anchors.register_forward_hook(lambda module, given, found: seen.append(found[0].dtype))
    engine.train_epoch(made()[:1])
    assert seen == [torch.float32]


# going on


def weights(engine) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in engine.model.state_dict().items()}


def differ(one, other) -> bool:
    return any(not torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("frozen", [False, True])
def test_a_resumed_run_ends_bit_for_bit_like_an_undisturbed_one(tmp_path, frozen):
    names = NAMES[:4]

    def run(stop=None):
        engine = DetectorEngine(RECIPE, 2)
        engine.model.frozen = frozen
        for epoch in range(3):
            if epoch == stop:
                engine.save(tmp_path, {"history": [1]})
                engine = DetectorEngine(replace(RECIPE), 2)
                torch.manual_seed(99)  # what else was drawn in between must not matter
                engine.resume(tmp_path)
                assert (engine.epoch, engine.model.frozen) == (stop, frozen)
            engine.train_epoch(made(epoch, names))
        return engine

    straight, resumed = run(), run(stop=2)
    assert not differ(weights(straight), weights(resumed))
    parameters = [dict(engine.model.named_parameters()) for engine in (straight, resumed)]
    assert len(straight.optimiser.state) == len(resumed.optimiser.state) > 10
    for name, one in parameters[0].items():
        ours, theirs = straight.optimiser.state.get(one), resumed.optimiser.state.get(parameters[1][name])
        assert (ours is None) == (theirs is None) == (frozen and not one.requires_grad)
        assert ours is None or all(torch.equal(ours[key], theirs[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_a_checkpoint_is_a_detector(tmp_path):
    engine = DetectorEngine(RECIPE, 1)
    engine.train_epoch(made()[:1])
    engine.save(tmp_path, {"history": []})
    loaded = checkpoint.load(tmp_path, expect="faster-rcnn", models=DETECTORS)
    assert loaded.model.config == MODEL
    assert loaded.state == {"epoch": 1, "history": [], "frozen": False}
    assert from_dict(DetectorRecipe, loaded.recipe) == RECIPE
    assert not differ(weights(engine), loaded.model.state_dict())


def test_starting_from_another_detector(tmp_path):
    engine = DetectorEngine(RECIPE, 1)
    engine.model.frozen = True
    engine.save(tmp_path, {})
    other = DetectorEngine(replace(RECIPE, seed=8), 1)
    assert differ(weights(engine), weights(other))
    other.start_from(tmp_path)
    assert not differ(weights(engine), weights(other))
    assert other.model.frozen and other.epoch == 0 and not other.optimiser.state
    third = DetectorEngine(replace(RECIPE, model=replace(MODEL, classes=("a", "b", "c"))), 1)
    with pytest.raises(UserError, match=r"do not fit this model.*box_predictor"):
        third.start_from(tmp_path)


def test_frozen_weights_stay_through_an_epoch():
    engine = DetectorEngine(replace(RECIPE, optim=OptimConfig(lr=1e-3, weight_decay=0.1)), 2)
    engine.model.frozen = True
    before = weights(engine)
    engine.train_epoch(made()[:2])
    after = weights(engine)
    same = {name for name in before if torch.equal(before[name], after[name])}
    for name in before:
        inner = name.removeprefix("net.backbone.body.")
        norm = inner.rpartition(".")[0].endswith(("bn1", "bn2", "downsample.1"))
        assert (name in same) == (inner != name and (norm or inner.startswith(("conv1", "layer1")))), name


def test_the_wrapped_network_is_made_of_what_learns():
    """Parallel training waits for gradients of what required them when it was wrapped."""
    seen = []

    def wrap(network):
        seen.append({name for name, p in network.named_parameters() if p.requires_grad})
        return network

    engine = DetectorEngine(RECIPE, 1, wrap=wrap)
    engine.model.frozen = True
    engine.train_epoch(made()[:1])
    (learns,) = seen
    assert learns == {name for name, p in engine.model.named_parameters() if p.grad is not None}
    assert "net.backbone.body.conv1.weight" not in learns


@pytest.mark.parametrize("frozen", [False, True])
def test_parallel_training_gets_all_the_gradients_it_waits_for(alone, frozen):
    """Boxes or none, step after step: else it stops, or never would. One worker trains as without the wrapper."""

    def read(name):
        return example(name, boxes=None if name.endswith(("1", "2")) else [])

    def run(**given):
        engine = DetectorEngine(RECIPE, 4, **given)
        engine.model.frozen = frozen
        engine.train_epoch(made(read=read))
        return weights(engine)

    assert not differ(run(wrap=torch.nn.parallel.DistributedDataParallel), run())


def test_every_step_has_its_rate():
    optim = OptimConfig(lr=1e-3, milestones=(1, 2))
    engine = DetectorEngine(replace(RECIPE, optim=optim), 2)
    rates = []
    for epoch in range(3):
        engine.train_epoch(made(epoch)[:2], lambda step, latest: rates.append(engine.optimiser.param_groups[0]["lr"]))
    assert rates == pytest.approx([1e-3] * 2 + [1e-4] * 2 + [1e-5] * 2)
    assert rates[2] == learning_rate(optim, (1 + 0.25) / 3, 3)


# recipes


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_survive_json(name):
    recipe = RECIPES[name]()
    assert recipe.name == name and RECIPES[name].__doc__
    assert from_dict(DetectorRecipe, json.loads(json.dumps(to_dict(recipe)))) == recipe
    assert recipe.model_name in DETECTORS


def test_the_papers_recipe():
    recipe = RECIPES["faster-rcnn"]()
    assert (recipe.epochs, recipe.batch_size, recipe.weights) == (24, 4, "imagenet")
    assert (recipe.optim.lr, recipe.optim.milestones, recipe.optim.weight_decay) == (1e-4, (16, 22), 1e-4)
    assert (recipe.model.size, recipe.model.max_size, recipe.model.backbone) == (480, 640, "resnet50")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"brightness_jitter": 1.0}, "brightness_jitter"),
        ({"brightness_jitter": -1.0}, "0..1"),
    ],
)
def test_impossible_recipes_are_named(changes, named):
    with pytest.raises(UserError, match=named):
        replace(RECIPE, **changes)
