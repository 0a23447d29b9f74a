"""MoE-Fusion's detectors: the exchange of one level by hand, maps of any size, both modalities in both maps."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from detection.faster_rcnn.recipes import PAPER, SMALL, TINY
from detection.moefusion.attention import DUAL_DETECTORS, MODALITIES, Attention, DualDetector, Exchange, prepare
from detection.moefusion.recipes import DualDetectorConfig
from fusion import checkpoint
from fusion.config import from_dict, to_dict
from fusion.errors import UserError

CONFIG = DualDetectorConfig(replace(TINY, proposals=40, rois_per_image=16))
PER_LEVEL = replace(CONFIG, exchange="per_level")
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def dual_detector(config=CONFIG, seed=0) -> DualDetector:
    torch.manual_seed(seed)
    return DualDetector(config)


@pytest.fixture(scope="module")
def random_detectors() -> DualDetector:
    return dual_detector().eval()


def pair(height, width, count=1, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, height, width, generator=g), torch.rand(count, 1, height, width, generator=g)


@torch.no_grad()
def maps(model: DualDetector, visible, infrared) -> torch.Tensor:
    return model(visible, infrared).attention


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# sizes


@pytest.mark.parametrize(
    ("config", "exchange", "total"),
    [(PAPER, 197_636, 82_922_698), (SMALL, 12_548, 12_066_762), (TINY, 836, 9_920_650)],
    ids=["paper", "small", "tiny"],
)
def test_parameters_by_hand(config, exchange, total):
    c, h = config.channels, config.channels // 2
    attention = c * h + 2 * h + h + 2  # a 1x1 convolution without bias and a normalisation, twice
    with torch.device("meta"):
        model = DualDetector(DualDetectorConfig(config))
    assert count(Attention(c)) == attention
    assert len(model.exchange) == 1
    assert count(model.exchange) == (2 * c * c + c) + 2 * attention == exchange
    assert count(model) == count(model.visible) + count(model.infrared) + exchange == total


@pytest.mark.parametrize(
    ("config", "exchange", "total"),
    [(PAPER, 989_470, 83_714_532), (TINY, 4_270, 9_924_084)],
    ids=["paper", "tiny"],
)
def test_parameters_of_a_set_for_each_level_by_hand(config, exchange, total):
    c, h = config.channels, config.channels // 2
    attention = (c * h + h) + 2 * h + (h + 1) + 2
    with torch.device("meta"):
        model = DualDetector(DualDetectorConfig(config, exchange="per_level"))
    assert count(model.exchange) == 5 * ((2 * c * c + c) + 2 * attention) == exchange
    assert count(model) == total


def test_an_unknown_exchange_is_named():
    with pytest.raises(UserError, match=r"detectors\.exchange is 'both'; it must be one of shared, per_level"):
        DualDetectorConfig(exchange="both")


def test_weights_start_as_in_the_files():
    torch.manual_seed(0)
    found = Exchange(64)
    convs = [layer for layer in found.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convs) == 5
    assert torch.cat([conv.weight.detach().flatten() for conv in convs]).std().item() == pytest.approx(0.01, rel=0.05)
    assert [conv.bias is not None for conv in convs] == [True, False, False, False, False]
    assert not found.shared.bias.any()


def test_the_papers_layers():
    level = Exchange(256)
    assert level.shared.weight.shape == (256, 512, 1, 1)
    convs = [layer for layer in level.infrared.layers if isinstance(layer, nn.Conv2d)]
    assert [tuple(layer.weight.shape) for layer in convs] == [(128, 256, 1, 1), (1, 128, 1, 1)]
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.BatchNorm2d, nn.Sigmoid]
    assert [type(layer) for layer in level.visible.layers] == kinds


@pytest.mark.parametrize("as_published", [True, False])
def test_a_level_by_hand(as_published):
    torch.manual_seed(0)
    level = Exchange(6, as_published)
    norms = [layer for layer in level.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 4
    for norm in norms:
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 1.5)
    visible, infrared = torch.rand(2, 2, 6, 4, 5) - 0.5
    with torch.no_grad():
        found = level.eval()(visible, infrared)

    def conv(layer, x):
        product = np.einsum("oc,bchw->bohw", layer.weight[..., 0, 0].detach(), x)
        return product if layer.bias is None else product + layer.bias.detach().numpy()[:, None, None]

    def normal(layer, x):
        mean, var, scale, shift = (
            values.detach().numpy()[:, None, None]
            for values in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
        )
        return (x - mean) / np.sqrt(var + 1e-5) * scale + shift

    f = {"visible": visible.numpy(), "infrared": infrared.numpy()}
    m = np.maximum(conv(level.shared, np.concatenate([f["visible"], f["infrared"]], 1)), 0)
    assert 0 < (m > 0).mean() < 1
    attention = []
    for place, name in enumerate(MODALITIES):
        first, norm, _, second, last, _ = getattr(level, name).layers
        x = f[name] + m
        hidden = np.maximum(normal(norm, conv(first, x)), 0)
        attention.append(1 / (1 + np.exp(-normal(last, conv(second, hidden)))))
        np.testing.assert_allclose(found[place], x + x * attention[-1], atol=1e-5)
    np.testing.assert_allclose(found[2], np.concatenate(attention, 1), atol=1e-5)


# maps


@pytest.mark.parametrize("size", [(155, 177), (64, 96), (96, 64), (33, 100), (5, 7), (1, 1)])
def test_maps_have_the_size_of_the_images(random_detectors, size):
    found = maps(random_detectors, *pair(*size, count=2))
    assert (found.shape, found.dtype) == ((2, 2, *size), torch.float32)
    assert (found >= 0).all() and (found <= 1).all()
    assert min(size) == 1 or found.std() > 0


def test_maps_lie_on_the_pixels():
    """A map that is a ramp over the cells of the finest level is a ramp over the pixels, each cell four of them."""
    model = dual_detector(PER_LEVEL).eval()

    class Ramp(nn.Module):
        def forward(self, x):
            return ((torch.arange(x.shape[-1]) + 0.5) / 100).expand(len(x), 1, *x.shape[-2:])

    model.exchange[0].visible = Ramp()
    found = maps(model, *pair(70, 90))[0, 0]
    expected = (torch.arange(90) + 0.5) / 4 / 100
    np.testing.assert_allclose(found[:, 2:].numpy(), expected[2:].expand(70, -1).numpy(), atol=1e-6)


def test_the_visible_map_is_first():
    model = dual_detector().eval()
    before = maps(model, *pair(64, 64))
    norm = model.exchange[0].visible.layers[4]
    nn.init.zeros_(norm.weight)
    nn.init.constant_(norm.bias, 3.0)
    after = maps(model, *pair(64, 64))
    assert torch.equal(after[:, 1], before[:, 1])
    np.testing.assert_allclose(after[:, 0], 1 / (1 + np.exp(-3.0)), atol=1e-6)


def test_both_maps_depend_on_both_images():
    model = dual_detector().eval()
    nn.init.normal_(model.exchange[0].shared.weight, std=0.3)  # it starts with next to nothing
    visible, infrared = pair(64, 96)
    before = maps(model, visible, infrared)
    brighter, warmer = visible.clone(), infrared.clone()
    brighter[..., 20:40, 30:60] = 1
    warmer[..., 20:40, 30:60] = 1
    for changed in (maps(model, brighter, infrared), maps(model, visible, warmer)):
        difference = (changed - before).abs().amax((0, 2, 3))
        assert (difference > 1e-4).all()


def test_only_the_finest_level_gives_maps():
    model = dual_detector(PER_LEVEL).eval()
    before = maps(model, *pair(64, 64))
    for level in model.exchange[1:]:
        nn.init.zeros_(level.shared.weight)
        nn.init.constant_(level.visible.layers[0].weight, 0.3)
    assert torch.equal(maps(model, *pair(64, 64)), before)


def test_all_levels_go_through_the_one_set():
    model = dual_detector().eval()
    seen = []
    model.exchange[0].register_forward_hook(lambda _, given, out: seen.append((given, out)))
    visible, infrared = pair(64, 64)
    with torch.no_grad():
        found = model(visible, infrared)
    assert [tuple(given[0].shape[-2:]) for given, _ in seen] == [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
    grown = nn.functional.interpolate(seen[0][1][2], (64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found.attention, grown)


def test_padding_is_the_mean_colour_and_nothing_else(random_detectors):
    """Padded by hand with the mean to whole strides: the same maps where the image is."""
    visible, infrared = pair(50, 75, count=2)
    both = [visible, infrared.expand(-1, 3, -1, -1)]
    grown = [MEAN[:, None, None].expand(2, 3, 64, 96).clone() for _ in both]
    for whole, image in zip(grown, both, strict=True):
        whole[..., :50, :75] = image
    np.testing.assert_allclose(
        maps(random_detectors, visible, infrared), maps(random_detectors, *grown)[..., :50, :75], atol=1e-5
    )
    batch = prepare(random_detectors.visible, visible)
    assert batch.tensors.shape == (2, 3, 64, 96) and batch.image_sizes == [(50, 75)] * 2
    assert (batch.tensors[..., 50:, :] == 0).all() and (batch.tensors[..., 75:] == 0).all()
    expected = (visible - MEAN[:, None, None]) / STD[:, None, None]
    np.testing.assert_allclose(batch.tensors[..., :50, :75], expected, atol=1e-6)
    assert prepare(random_detectors.visible, pair(64, 96)[0]).tensors.shape == (1, 3, 64, 96)  # nothing to pad


def test_images_of_a_batch_do_not_see_each_other(random_detectors):
    visible, infrared = pair(64, 64, count=3)
    together = maps(random_detectors, visible, infrared)
    alone = torch.cat([maps(random_detectors, visible[i : i + 1], infrared[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


# detectors


@torch.no_grad()
def test_without_exchange_they_are_torchvisions_faster_rcnn():
    model = dual_detector(
        DualDetectorConfig(replace(TINY, size=96, max_size=128))
    ).eval()  # which leaves 96 x 128 as it is
    for level in model.exchange:
        nn.init.zeros_(level.shared.weight)
        nn.init.zeros_(level.shared.bias)
        for name in MODALITIES:
            nn.init.zeros_(getattr(level, name).layers[4].weight)
            nn.init.constant_(getattr(level, name).layers[4].bias, -100.0)
    visible, infrared = pair(96, 128, count=2)
    found = model(visible, infrared, boxes=True)
    assert found.losses == {} and set(found.boxes) == set(MODALITIES)
    for name, images in (("visible", visible), ("infrared", infrared.expand(-1, 3, -1, -1))):
        for ours, theirs in zip(found.boxes[name], getattr(model, name)(list(images)), strict=True):
            assert len(ours["boxes"]) > 10
            for key in ("boxes", "scores", "labels"):
                np.testing.assert_allclose(ours[key], theirs[key], atol=1e-4)


def test_boxes_lie_in_the_image_not_in_the_padding(random_detectors):
    with torch.no_grad():
        found = random_detectors(*pair(50, 75), boxes=True)
    for name in MODALITIES:
        (one,) = found.boxes[name]
        assert len(one["boxes"]) and (one["boxes"] >= 0).all()
        assert (one["boxes"][:, 2:] <= torch.tensor([75, 50])).all()


BOX = {"boxes": torch.tensor([[10.0, 20.0, 50.0, 70.0]]), "labels": torch.tensor([2])}
NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("targets", [(BOX, BOX), (BOX, NONE), (NONE, NONE)], ids=["boxes", "one without", "none"])
def test_losses_are_finite_and_reach_every_parameter_that_learns(targets, frozen):
    """Also what parallel training needs, which waits for all gradients: of every level's exchange, too."""
    model = dual_detector()
    model.frozen = frozen
    found = model.train()(*pair(72, 72, count=2), list(targets))
    kinds = ("classifier", "box_reg", "objectness", "rpn_box_reg")
    assert set(found.losses) == {f"{name}_{kind}" for name in MODALITIES for kind in kinds}
    assert all(value.isfinite() and value.requires_grad for value in found.losses.values())
    assert found.attention.shape == (2, 2, 72, 72)
    sum(found.losses.values()).backward()
    assert not {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    still = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert still == (set(MODALITIES) if frozen else set())


@pytest.mark.parametrize("config", [CONFIG, PER_LEVEL], ids=["shared", "per level"])
def test_every_level_learns_to_exchange_and_attend(config):
    model = dual_detector(config).train()
    for name in MODALITIES:
        getattr(model, name).rpn.fg_bg_sampler.batch_size_per_image = 10_000  # anchors of every level are drawn
    sum(model(*pair(96, 96, count=2), [BOX, NONE]).losses.values()).backward()
    for level in model.exchange:
        for layer in (level.shared, level.visible.layers[0], level.infrared.layers[3]):
            assert layer.weight.grad.abs().max() > 0


def test_each_detectors_loss_reaches_the_other_through_the_exchange():
    model = dual_detector().train()
    found = model(*pair(96, 96, count=2), [BOX, BOX])
    sum(value for name, value in found.losses.items() if name.startswith("visible")).backward()
    assert model.infrared.backbone.body.conv1.weight.grad.abs().max() > 0
    assert model.infrared.roi_heads.box_head.fc6.weight.grad is None
    assert model.exchange[0].infrared.layers[0].weight.grad is None


def test_evaluation_draws_nothing_and_finds_no_boxes_unasked(random_detectors):
    visible, infrared = pair(64, 64)
    with torch.no_grad():
        one, other = random_detectors(visible, infrared), random_detectors(visible, infrared)
    assert torch.equal(one.attention, other.attention)
    assert (one.losses, one.boxes) == ({}, {})


def test_what_is_frozen_stays_frozen_in_both():
    model = dual_detector()
    model.frozen = True
    model.train().eval()
    model.train()
    for name in MODALITIES:
        trunk = getattr(model, name).backbone.body
        assert trunk.training and not trunk.bn1.training and not trunk.layer3[0].bn1.training
        assert not trunk.layer1[0].conv1.weight.requires_grad and trunk.layer2[0].conv1.weight.requires_grad
    assert all(level.visible.layers[1].training for level in model.exchange)


def test_an_old_checkpoint_has_a_set_for_each_level(tmp_path):
    """One that was written before the field `exchange`."""
    model = dual_detector(PER_LEVEL).eval()
    checkpoint.save(tmp_path, "detectors", model, recipe={}, state={"frozen": False})
    about = json.loads((tmp_path / "config.json").read_text())
    del about["config"]["exchange"]
    (tmp_path / "config.json").write_text(json.dumps(about))
    loaded = checkpoint.load(tmp_path, models=DUAL_DETECTORS).model
    assert loaded.config == PER_LEVEL
    assert torch.equal(maps(loaded, *pair(40, 50)), maps(model, *pair(40, 50)))


def test_a_checkpoint_rebuilds_them(random_detectors, tmp_path):
    checkpoint.save(tmp_path, "detectors", random_detectors, recipe={}, state={"frozen": False})
    loaded = checkpoint.load(tmp_path, models=DUAL_DETECTORS).model
    assert loaded.config == CONFIG and not loaded.training
    assert torch.equal(maps(loaded, *pair(40, 50)), maps(random_detectors, *pair(40, 50)))


def test_its_config_survives_json():
    assert from_dict(DualDetectorConfig, json.loads(json.dumps(to_dict(CONFIG)))) == CONFIG
