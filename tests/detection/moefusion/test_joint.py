"""MoE-Fusion and its detectors in one engine: gradients that never meet, one checkpoint, attention that matters."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from detection.faster_rcnn.recipes import TINY
from detection.moefusion.attention import DUAL_DETECTORS, MODALITIES
from detection.moefusion.joint import JointEngine, attention_maps, targets
from detection.moefusion.recipes import RECIPES, DualDetectorConfig, JointRecipe
from fusion import checkpoint, inference, scenes
from fusion.config import from_dict, to_dict
from fusion.data.corpus import Sample
from fusion.errors import UserError
from fusion.models.configs import MoEFusionConfig, TGECNetConfig
from fusion.training.configs import CropConfig, MoEFusionLoss, OptimConfig, ValidationConfig
from fusion.training.crops import training_batches, validation_batches
from fusion.training.engine import learning_rate

CLASSES = ("person", "car")
DETECTOR = replace(TINY, classes=CLASSES, channels=8, box_head_dim=16, proposals=20, rois_per_image=16)
RECIPE = JointRecipe(
    "joint",
    "moefusion",
    MoEFusionConfig(width=4, decoder_widths=(8, 6, 4), grid=(3, 4)),
    MoEFusionLoss(),
    OptimConfig(lr=2e-3, max_grad_norm=1.0),
    CropConfig(size=72, per_image=1, shuffle_buffer=4, classes=CLASSES),
    ValidationConfig(rows=2, size=80),
    epochs=3,
    batch_size=2,
    seed=5,
    detectors=DualDetectorConfig(DETECTOR),
    detectors_optim=OptimConfig(lr=1e-3, max_grad_norm=5.0),
    weights="none",
)


def batch(seed=0, count=2, boxes=(2, 1), side=72) -> dict[str, torch.Tensor]:
    """A batch as `fusion.training.crops` makes it, with that many boxes in each image."""
    g = torch.Generator().manual_seed(seed)
    found = torch.full((count, max(boxes), 5), -1.0)
    for i, n in enumerate(boxes):
        for j in range(n):
            found[i, j] = torch.tensor([4.0 + 30 * j, 8, 28 + 30 * j, 50, j % 2])
    images = {name: torch.rand(count, 1, side, side, generator=g) for name in ("visible", "infrared")}
    mask = (torch.rand(count, 1, side, side, generator=g) > 0.7).float()
    return images | {"mask": mask, "colour": torch.rand(count, 3, side, side, generator=g), "boxes": found}


def state(network) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one, other) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items())


def trained(recipe=RECIPE, data=None, epochs=1) -> JointEngine:
    data = [batch(0), batch(1)] if data is None else data
    engine = JointEngine(recipe, len(data))
    for _ in range(epochs):
        engine.train_epoch(data)
    return engine


@pytest.fixture(scope="module")
def plain() -> JointEngine:
    """Two steps of the recipe as it is."""
    return trained()


# gradients that never meet


@pytest.mark.parametrize(
    "loss", [MoEFusionLoss(gradient=40.0), MoEFusionLoss(pixel=0.0, load_global=5.0)], ids=["alpha", "other"]
)
def test_fusions_loss_teaches_the_detectors_nothing(plain, loss):
    other = trained(replace(RECIPE, loss=loss))
    assert not same(state(plain.model), state(other.model))
    assert same(state(plain.detectors), state(other.detectors))


def test_fusions_rate_and_network_teach_the_detectors_nothing(plain):
    other = trained(replace(RECIPE, optim=OptimConfig(lr=1e-4)))
    assert same(state(plain.detectors), state(other.detectors))


def test_the_detectors_loss_teaches_fusion_nothing():
    """In the first step their attention does not depend on what they learn in it."""
    one, other = (
        trained(replace(RECIPE, detectors_optim=OptimConfig(lr=lr, weight_decay=decay)), [batch()])
        for lr, decay in ((1e-3, 0.0), (1e-2, 0.1))
    )
    assert not same(state(one.detectors), state(other.detectors))
    assert same(state(one.model), state(other.model))


def test_but_fusion_sees_their_attention():
    """From the second step on."""
    one, other = (trained(replace(RECIPE, detectors_optim=OptimConfig(lr=lr))) for lr in (1e-3, 1e-2))
    assert not same(state(one.model), state(other.model))


def test_the_optimisers_share_nothing_and_leave_nothing_out(plain):
    theirs, ours = (
        {id(p) for group in optimiser.param_groups for p in group["params"]}
        for optimiser in (plain.detectors_optimiser, plain.optimiser)
    )
    assert not theirs & ours
    assert theirs == {id(p) for p in plain.detectors.parameters()}
    assert ours == {id(p) for p in plain.model.parameters()}


def test_no_gradient_of_one_reaches_the_other():
    """Each loss alone, through the very attention that a step hands over."""
    engine = JointEngine(RECIPE, 1)
    seen = {}

    def spy(optimiser, network, other):
        real = optimiser.step

        def step(*given, **named):
            assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
            seen[network] = [None if p.grad is None else p.grad.clone() for p in other.parameters()]
            return real(*given, **named)

        optimiser.step = step

    spy(engine.detectors_optimiser, engine.detectors, engine.model)
    spy(engine.optimiser, engine.model, engine.detectors)
    engine.detectors.train()
    engine.step(batch())
    after_detectors = seen[engine.detectors]
    assert all(gradient is None for gradient in after_detectors)  # fusion's had not been computed
    before = seen[engine.model]
    now = [p.grad for p in engine.detectors.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, now, strict=True))


def test_the_attention_that_fusion_gets_is_detached():
    engine = JointEngine(RECIPE, 1)
    given = []
    engine.model.register_forward_pre_hook(lambda module, inputs: given.append(inputs))
    engine.train_epoch([batch()])
    ((visible, infrared, attention),) = given
    assert attention.shape == (2, 2, 72, 72) and not attention.requires_grad and attention.grad_fn is None
    assert torch.equal(visible, batch()["visible"]) and torch.equal(infrared, batch()["infrared"])
    assert (attention > 0).all() and (attention < 1).all()


# a step


@pytest.mark.parametrize("boxes", [(2, 1), (1, 0), (0, 0)], ids=["boxes", "one without", "none"])
def test_losses_are_finite_and_every_parameter_learns(boxes):
    """Also what parallel training needs, which waits for all gradients."""
    engine = JointEngine(RECIPE, 1)
    before = state(engine.detectors)
    numbers = engine.train_epoch([batch(boxes=boxes)])
    terms = {"pixel", "gradient", "load_foreground", "load_background", "load_global", "loss", "detectors"}
    kinds = ("classifier", "box_reg", "objectness", "rpn_box_reg")
    single = {f"detectors_{name}_{kind}" for name in MODALITIES for kind in kinds}
    assert set(numbers) == terms | single | {"images", "steps", "data_time_s", "step_time_s"}
    assert all(math.isfinite(value) for value in numbers.values())
    assert numbers["detectors"] == pytest.approx(sum(numbers[name] for name in single), rel=1e-4)
    assert numbers["images"] == 2
    for network in (engine.detectors, engine.model):
        assert not [name for name, p in network.named_parameters() if p.grad is None]
    assert not same(before, state(engine.detectors))
    if boxes == (0, 0):
        assert numbers["detectors_visible_box_reg"] == numbers["detectors_infrared_rpn_box_reg"] == 0


def test_targets_are_the_boxes_without_the_padding():
    one, other, none = targets(batch(boxes=(2, 1, 0), count=3)["boxes"])
    assert one["boxes"].tolist() == [[4, 8, 28, 50], [34, 8, 58, 50]]
    assert one["labels"].tolist() == [1, 2] and other["labels"].tolist() == [1]
    assert (none["boxes"].shape, none["labels"].shape) == ((0, 4), (0,))
    assert (none["boxes"].dtype, none["labels"].dtype) == (torch.float32, torch.int64)
    assert targets(torch.zeros(2, 0, 5))[1]["boxes"].shape == (0, 4)


def test_it_learns():
    engine = JointEngine(replace(RECIPE, epochs=10, optim=OptimConfig(lr=5e-3, max_grad_norm=1.0)), 1)
    numbers = [engine.train_epoch([batch()]) for _ in range(10)]
    assert numbers[-1]["loss"] < 0.95 * numbers[0]["loss"]
    assert numbers[-1]["detectors"] < 0.8 * numbers[0]["detectors"]


def test_rates_of_both():
    optim, theirs = OptimConfig(lr=2e-3, milestones=(1, 2)), OptimConfig(lr=1e-3, warmup_fraction=0.5)
    engine = JointEngine(replace(RECIPE, optim=optim, detectors_optim=theirs), 1)
    for epoch in range(3):
        engine.set_learning_rate((epoch + 0.5) / 3)
        assert engine.optimiser.param_groups[0]["lr"] == pytest.approx(2e-3 * 0.1**epoch)
        expected = learning_rate(theirs, (epoch + 0.5) / 3, 3)
        assert engine.detectors_optimiser.param_groups[0]["lr"] == expected > 0
    assert engine.set_learning_rate(0.25) is None
    assert engine.detectors_optimiser.param_groups[0]["lr"] == pytest.approx(5e-4)


def test_detectors_that_are_not_finite_stop_the_run_before_anything_changes():
    engine = JointEngine(RECIPE, 1)
    engine.detectors.visible.roi_heads.box_predictor.cls_score.bias.data[0] = math.nan
    before = state(engine.model), {name: p.clone() for name, p in engine.detectors.named_parameters()}
    with pytest.raises(UserError, match=r"detectors' loss.*visible_classifier nan.*detectors_optim\.lr"):
        engine.train_epoch([batch()])
    assert same(state(engine.model), before[0])
    for name, p in engine.detectors.named_parameters():
        assert torch.equal(p.nan_to_num(), before[1][name].nan_to_num())


def test_both_networks_are_wrapped_once_and_of_what_learns():
    """Parallel training waits for gradients of what required them when it was wrapped."""
    seen = []

    def wrap(network):
        seen.append((network, {name for name, p in network.named_parameters() if p.requires_grad}))
        return network

    engine = JointEngine(RECIPE, 2, wrap=wrap)
    assert not seen
    engine.detectors.frozen = True
    engine.train_epoch([batch(0), batch(1)])
    assert [network for network, _ in seen] == [engine.detectors, engine.model]
    for network, learns in seen:
        assert learns == {name for name, p in network.named_parameters() if p.grad is not None}
    assert "visible.backbone.body.conv1.weight" not in seen[0][1]


@pytest.mark.parametrize("frozen", [False, True])
def test_parallel_training_gets_all_the_gradients_it_waits_for(alone, frozen):
    """Boxes or none, step after step: else it stops, or never would. One worker trains as without the wrapper."""
    data = [batch(0), batch(1, boxes=(0, 0)), batch(2, boxes=(1, 0))]

    def run(**given):
        engine = JointEngine(RECIPE, 3, **given)
        engine.detectors.frozen = frozen
        engine.train_epoch(data)
        return engine

    wrapped, plain = run(wrap=torch.nn.parallel.DistributedDataParallel), run()
    assert same(state(wrapped.detectors), state(plain.detectors)) and same(state(wrapped.model), state(plain.model))


def test_its_first_weights_and_notes_follow_the_recipe():
    one, other = JointEngine(RECIPE, 1), JointEngine(RECIPE, 1, rank=1)
    assert same(state(one.detectors), state(other.detectors)) and same(state(one.model), state(other.model))
    assert not same(state(one.detectors), state(JointEngine(replace(RECIPE, seed=6), 1).detectors))
    assert not torch.equal(
        one.detectors.visible.backbone.body.conv1.weight, one.detectors.infrared.backbone.body.conv1.weight
    )
    assert one.notes == ("detectors: backbone from random weights",)
    assert one.stage == "moefusion-joint" and not one.detectors.frozen


def test_both_backbones_start_from_the_file(tmp_path):
    source = JointEngine(RECIPE, 1).detectors.visible.backbone.body
    with torch.no_grad():
        source.conv1.weight.fill_(0.25)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    engine = JointEngine(replace(RECIPE, weights=str(tmp_path / "weights.pth")), 1)
    for name in MODALITIES:
        assert (getattr(engine.detectors, name).backbone.body.conv1.weight == 0.25).all()
    assert engine.detectors.frozen and "weights.pth" in engine.notes[0]
    engine.train_epoch([batch()])
    assert (engine.detectors.visible.backbone.body.conv1.weight == 0.25).all()
    assert (engine.detectors.infrared.backbone.body.layer3[0].conv1.weight != source.layer3[0].conv1.weight).any()


# validation


def test_validation_uses_attention_and_changes_nothing(plain):
    data = [{name: t for name, t in batch(7).items() if name != "boxes"}]
    before = state(plain.detectors), state(plain.model)
    numbers = plain.validate(data)
    assert set(numbers) == {"qabf", "vif", "en"}
    assert plain.validate(data) == numbers
    assert (
        not plain.detectors.training and same(before[0], state(plain.detectors)) and same(before[1], state(plain.model))
    )
    last = [getattr(plain.detectors.exchange[0], name).layers[4].bias for name in MODALITIES]
    with torch.no_grad():
        for bias in last:
            bias += 8.0
    changed = plain.validate(data)
    plain.detectors.load_state_dict(before[0])  # others use it, too
    assert changed != numbers
    assert plain.validate(data) == numbers


def test_training_goes_on_after_a_validation_as_without_one():
    data = [batch(0), batch(1)]
    held_out = [{name: t for name, t in batch(7).items() if name != "boxes"}]
    engine = JointEngine(RECIPE, 2)
    for _ in range(2):
        engine.train_epoch(data)
        engine.validate(held_out)
    assert same(state(engine.detectors), state(trained(epochs=2).detectors))


# going on


@pytest.mark.parametrize("frozen", [False, True])
def test_a_resumed_run_ends_bit_for_bit_like_an_undisturbed_one(tmp_path, frozen):
    data = [batch(0), batch(1)]

    def run(stop=None):
        engine = JointEngine(RECIPE, 2)
        engine.detectors.frozen = frozen
        for epoch in range(3):
            if epoch == stop:
                engine.save(tmp_path, {"history": [1]})
                engine = JointEngine(replace(RECIPE), 2)
                torch.manual_seed(99)  # what else was drawn in between must not matter
                engine.resume(tmp_path)
                assert (engine.epoch, engine.detectors.frozen) == (stop, frozen)
            engine.train_epoch(data)
        return engine

    straight, resumed = run(), run(stop=1)
    assert same(state(straight.model), state(resumed.model))
    assert same(state(straight.detectors), state(resumed.detectors))
    for optimiser in ("optimiser", "detectors_optimiser"):
        ours, theirs = (getattr(engine, optimiser) for engine in (straight, resumed))
        assert len(ours.state) == len(theirs.state) > 10
        for one, other in zip(*(o.param_groups[0]["params"] for o in (ours, theirs)), strict=True):
            assert (one in ours.state) == (other in theirs.state)
            assert one not in ours.state or same(ours.state[one], theirs.state[other])


def test_a_checkpoint_holds_both(plain, tmp_path):
    plain.save(tmp_path, {"history": [1]})
    loaded = checkpoint.load(tmp_path, expect="moefusion")
    assert loaded.state == {"epoch": 1, "history": [1]}
    assert from_dict(JointRecipe, loaded.recipe) == RECIPE
    inner = checkpoint.part(tmp_path, "detectors")
    assert inner == tmp_path / "detectors"
    found = checkpoint.load(inner, models=DUAL_DETECTORS)
    assert found.model.config == RECIPE.detectors
    assert same(state(plain.model), state(loaded.model)) and same(state(plain.detectors), state(found.model))
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {*checkpoint.ALL_FILES, "optimiser.safetensors", "detectors/optimiser.safetensors"}


def test_an_interrupted_save_is_no_checkpoint(plain, tmp_path, monkeypatch):
    plain.save(tmp_path, {})

    def full(*given, **named):
        raise OSError("no space left")

    monkeypatch.setattr("fusion.checkpoint.save_file", full)
    with pytest.raises(OSError, match="no space"):
        plain.save(tmp_path, {})
    with pytest.raises(UserError, match=r"state\.json is missing"):
        checkpoint.load(tmp_path)


# recipes


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_survive_json(name):
    recipe = RECIPES[name]()
    assert recipe.name == name and RECIPES[name].__doc__
    found = from_dict(JointRecipe, json.loads(json.dumps(to_dict(recipe))))
    assert found == recipe and isinstance(found.model, MoEFusionConfig) and isinstance(found.loss, MoEFusionLoss)


def test_the_papers_recipe():
    recipe = RECIPES["moefusion-detectors"]()
    assert (recipe.epochs, recipe.batch_size, recipe.loss.gradient) == (24, 4, 10.0)
    assert (recipe.model.experts, recipe.model.top_k) == (4, 2)
    assert recipe.crops.classes == recipe.detectors.detector.classes == ("person", "bicycle", "car")
    for optim in (recipe.optim, recipe.detectors_optim):
        assert (optim.lr, optim.weight_decay, optim.milestones) == (1e-4, 1e-4, (16, 22))
    assert recipe.weights == "imagenet"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"crops": replace(RECIPE.crops, classes=("person",))}, "must be the same"),
        ({"crops": replace(RECIPE.crops, classes=("car", "person"))}, "must be the same"),
        ({"crops": replace(RECIPE.crops, classes=())}, "must be the same"),
        ({"crops": replace(RECIPE.crops, size=64)}, "at least 72"),
        ({"crops": replace(RECIPE.crops, box_attention=True)}, "without detectors"),
        ({"model": TGECNetConfig(stage="fuse")}, "loss|moefusion"),
    ],
)
def test_impossible_recipes_are_named(changes, named):
    with pytest.raises(UserError, match=named):
        replace(RECIPE, **changes)


@pytest.mark.parametrize("name", ["People", "pedestrian", "Car"])
def test_classes_go_by_their_standard_names(name):
    """Boxes are compared by them: under another name none would ever be found."""
    classes = (name, "bus")
    with pytest.raises(UserError, match=f"'{name}' are called '(person|car)'"):
        replace(
            RECIPE,
            crops=replace(RECIPE.crops, classes=classes),
            detectors=DualDetectorConfig(replace(DETECTOR, classes=classes)),
        )


# from pairs to a fused image


def samples(count=3) -> list[Sample]:
    made = []
    for i in range(count):
        scene = scenes.render(11, i, 80, 96)
        images = {"visible": scene.visible, "infrared": scene.infrared}
        images |= {f"degraded_{name}": image for name, image in images.items()}
        images |= {"boxes": scene.boxes, "classes": scene.classes}
        made.append(Sample(f"s{i}", "train", "scenes", "clean", "0", "{}", **images))
    return made


def test_from_rows_to_a_fused_image(tmp_path):
    rows = samples(4)
    engine = JointEngine(replace(RECIPE, epochs=1), 2)
    numbers = engine.train_epoch(training_batches(rows, engine.stage, RECIPE.crops, 2, RECIPE.seed, 0))
    assert (numbers["steps"], numbers["images"]) == (2, 4)
    found = engine.validate(validation_batches(rows[:2], engine.stage, RECIPE.validation.size))
    assert all(math.isfinite(value) for value in found.values())
    engine.save(tmp_path, {})
    model = checkpoint.load(tmp_path).model
    detectors = checkpoint.load(checkpoint.part(tmp_path, "detectors"), models=DUAL_DETECTORS).model
    visible, infrared = rows[0].visible[:75, :90], rows[0].infrared[:75, :90]
    attention = attention_maps(detectors, visible, infrared)
    assert attention.shape == (1, 2, 75, 90) and (attention >= 0).all() and (attention <= 1).all()
    fused = inference.fuse(model, visible, infrared, attention)
    assert fused.shape == visible.shape and fused.dtype == np.uint8


def test_attention_changes_a_fused_image(plain):
    (row,) = samples(1)
    model = plain.model.eval()
    first = inference.fuse(model, row.visible, row.infrared)
    half = inference.fuse(model, row.visible, row.infrared, torch.full((1, 1, 1, 1), 0.5))
    assert np.array_equal(first, half)  # what it takes where there is none
    ramp = torch.linspace(0, 1, 96).expand(1, 2, 80, 96)
    steered = inference.fuse(model, row.visible, row.infrared, ramp)
    assert steered.shape == first.shape and not np.array_equal(steered, first)


def test_a_pair_is_attended_as_in_training(plain):
    """Grey and colour, of any size; the network sees what a batch would show it."""
    (row,) = samples(1)
    detectors = plain.detectors.eval()
    colour = torch.from_numpy(row.visible.copy()).permute(2, 0, 1)[None].float() / 255
    grey = torch.from_numpy(row.infrared.copy())[None, None].float() / 255
    with torch.no_grad():
        expected = detectors(colour, grey).attention
    np.testing.assert_allclose(attention_maps(detectors, row.visible, row.infrared), expected, atol=1e-6)
    one = attention_maps(detectors, row.visible[..., 0], row.infrared)
    other = attention_maps(detectors, np.repeat(row.visible[..., :1], 3, 2), row.infrared)
    assert torch.equal(one, other)
    assert attention_maps(detectors, row.visible[:7, :5], row.infrared[:7, :5]).shape == (1, 2, 7, 5)
