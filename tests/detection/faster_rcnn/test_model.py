"""Faster R-CNN: sizes by hand and against torchvision, weights to start from, what is frozen, boxes in our terms."""

from __future__ import annotations

import json
import urllib.error
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from detection.boxes import Truth
from detection.faster_rcnn.model import DETECTORS, Detector, build, detect, load_backbone, to_target, to_tensor
from detection.faster_rcnn.recipes import PAPER, SMALL, TINY, FasterRCNNConfig
from fusion import checkpoint
from fusion.config import from_dict, to_dict
from fusion.errors import UserError

SIZE96 = replace(TINY, size=96, proposals=40, rois_per_image=16)


def detector(config=SIZE96, seed=0) -> Detector:
    torch.manual_seed(seed)
    return Detector(config)


@pytest.fixture(scope="module")
def random_detector() -> Detector:
    """Random weights: it finds something nearly everywhere."""
    return detector().eval()


def images(count, height=96, width=96, seed=0, channels=(3,)) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, height, width, *channels), dtype=np.uint8))


# sizes


def conv(inputs, outputs, side, bias=True) -> int:
    return inputs * outputs * side**2 + bias * outputs


def body(blocks, bottleneck) -> int:
    """A ResNet without its last layer: convolutions have no bias, each is followed by a scale and a shift."""
    total, inputs = conv(3, 64, 7, False) + 2 * 64, 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        outputs = 4 * width if bottleneck else width
        for _ in range(count):
            if bottleneck:
                layers = [(inputs, width, 1), (width, width, 3), (width, outputs, 1)]
            else:
                layers = [(inputs, width, 3), (width, width, 3)]
            layers += [(inputs, outputs, 1)] if inputs != outputs else []
            total += sum(conv(*layer, False) + 2 * layer[1] for layer in layers)
            inputs = outputs
    return total


def by_hand(config: FasterRCNNConfig, blocks, bottleneck) -> dict[str, int]:
    c, h, first = config.channels, config.box_head_dim, 256 if bottleneck else 64
    outputs = len(config.classes) + 1
    return {
        "body": body(blocks, bottleneck),
        "fpn": sum(conv(first * 2**stage, c, 1) + conv(c, c, 3) for stage in range(4)),
        "rpn": conv(c, c, 3) + conv(c, 3, 1) + conv(c, 3 * 4, 1),
        "heads": conv(49 * c, h, 1) + conv(h, h, 1) + conv(h, outputs, 1) + conv(h, 4 * outputs, 1),
    }


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("config", "blocks", "bottleneck", "total"),
    [
        (PAPER, (3, 4, 6, 3), True, 41_362_531),
        (SMALL, (1, 1, 1, 1), False, 6_027_107),
        (TINY, (1, 1, 1, 1), False, 4_959_907),
        (replace(TINY, backbone="resnet18"), (2, 2, 2, 2), False, 11_230_627),
        (replace(TINY, backbone="resnet34", classes=("a",)), (3, 4, 6, 3), False, 21_338_457),
    ],
    ids=["paper", "small", "tiny", "resnet18", "resnet34"],
)
def test_parameters_by_part(config, blocks, bottleneck, total):
    with torch.device("meta"):
        net = Detector(config).net
    parts = {"body": net.backbone.body, "fpn": net.backbone.fpn, "rpn": net.rpn, "heads": net.roi_heads}
    found = {name: count(part) for name, part in parts.items()}
    assert found == by_hand(config, blocks, bottleneck)
    assert count(net) == sum(found.values()) == total


def test_the_papers_is_torchvisions():
    with torch.device("meta"):
        ours = build(PAPER)
        theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
    shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    for name in ("_pre_nms_top_n", "_post_nms_top_n", "nms_thresh", "score_thresh"):
        assert getattr(ours.rpn, name) == getattr(theirs.rpn, name), name
    for name in ("nms_thresh", "detections_per_img"):
        assert getattr(ours.roi_heads, name) == getattr(theirs.roi_heads, name), name
    for part in ("rpn", "roi_heads"):
        for name in ("proposal_matcher", "fg_bg_sampler"):
            assert vars(getattr(getattr(ours, part), name)) == vars(getattr(getattr(theirs, part), name))
    assert ours.rpn.anchor_generator.sizes == theirs.rpn.anchor_generator.sizes
    assert ours.rpn.anchor_generator.aspect_ratios == theirs.rpn.anchor_generator.aspect_ratios
    assert (ours.roi_heads.detections_per_img, ours.roi_heads.nms_thresh) == (100, 0.5)
    assert ours.roi_heads.score_thresh < 0.01 < theirs.roi_heads.score_thresh  # AP needs the weak ones too


@pytest.mark.parametrize("side", [40, 64, 96])
def test_regions_are_pooled_at_their_own_scale(side):
    """A ramp on every level, as large as the padded image's: the mean over a box is its centre, whatever came first."""
    pool = build(TINY).roi_heads.box_roi_pool
    padded = -(-side // 32) * 32
    ramps = OrderedDict()
    for level, stride in enumerate((4, 8, 16, 32)):
        ramps[str(level)] = (stride * torch.arange(padded // stride)).float().expand(1, 1, padded // stride, -1)
    (box,) = pool(ramps, [torch.tensor([[8.0, 4.0, 24.0, 20.0]])], [(side, side)])
    assert box.mean().item() == pytest.approx(16.0)
    assert box[0, 0, -1].item() - box[0, 0, 0].item() == pytest.approx(16 * 6 / 7)


def test_scaling_in_training_and_evaluation():
    net = Detector(replace(TINY, size=100, max_size=180, scale_jitter=0.2, proposals=4)).net
    image = torch.rand(3, 50, 80)
    sizes = set()
    for seed in range(40):
        torch.manual_seed(seed)
        sizes.add(net.train().transform([image])[0].image_sizes[0])
    assert sizes == {(80, 128), (100, 160), (112, 180)}  # 120 x 192 would pass the longest side
    assert net.eval().transform([image])[0].image_sizes == [(100, 160)]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"classes": ()}, "classes"),
        ({"classes": ("car", "car")}, "none twice"),
        ({"backbone": "vgg16"}, "'vgg16'"),
        ({"anchors": (8, 16, 32, 64)}, "5 levels"),
        ({"anchors": (8, 16, 32, 64, 0)}, "at least 1"),
        ({"channels": 0}, "channels"),
        ({"rois_per_image": 0}, "rois_per_image"),
        ({"scale_jitter": 1.0}, "scale_jitter"),
        ({"scale_jitter": -0.1}, "scale_jitter"),
    ],
)
def test_impossible_sizes_are_named(changes, named):
    with pytest.raises(UserError, match=named):
        replace(TINY, **changes)


@pytest.mark.parametrize("config", [PAPER, SMALL, TINY], ids=["paper", "small", "tiny"])
def test_configs_survive_json(config):
    assert from_dict(FasterRCNNConfig, json.loads(json.dumps(to_dict(config)))) == config


# learning


BOX = {"boxes": torch.tensor([[10.0, 20.0, 50.0, 70.0]]), "labels": torch.tensor([2])}
NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("targets", [(BOX, BOX), (BOX, NONE), (NONE, NONE)], ids=["boxes", "one without", "none"])
def test_losses_are_finite_and_reach_every_parameter_that_learns(targets, frozen):
    """Also what parallel training needs, which waits for all gradients."""
    model = detector()
    model.frozen = frozen
    losses = model.train()([to_tensor(image) for image in images(2)], list(targets))
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert all(value.isfinite() and value.requires_grad for value in losses.values())
    sum(losses.values()).backward()
    absent = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not absent
    if all(target is NONE for target in targets):
        assert losses["loss_box_reg"] == losses["loss_rpn_box_reg"] == 0


def test_what_is_frozen():
    model = detector()
    trunk = model.net.backbone.body
    norms = {name for name, module in trunk.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    model.frozen = True
    for mode in (True, False, True):  # validation in between changes nothing
        model.train(mode)
    assert model.training and trunk.training and not any(trunk.get_submodule(name).training for name in norms)
    still = {name for name, p in trunk.named_parameters() if not p.requires_grad}
    expected = {
        name
        for name, _ in trunk.named_parameters()
        if name.startswith(("conv1.", "layer1.")) or name.rpartition(".")[0] in norms
    }
    assert still == expected
    assert "layer2.0.conv1.weight" not in still and "bn1.weight" in still
    assert all(p.requires_grad for p in (*model.net.backbone.fpn.parameters(), *model.net.roi_heads.parameters()))
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    model([to_tensor(image) for image in images(2)], [BOX, NONE])
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())


def test_what_is_not_frozen_follows_the_images():
    model = detector().train()
    trunk = model.net.backbone.body
    assert all(p.requires_grad for p in model.parameters())
    before = trunk.bn1.running_mean.clone()
    model([to_tensor(image) for image in images(2)], [BOX, NONE])
    assert not torch.equal(trunk.bn1.running_mean, before)


# weights to start from


def saved(folder: Path, state: dict, kind: str) -> str:
    path = folder / f"weights{kind}"
    if kind == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("kind", [".safetensors", ".pth"])
@pytest.mark.parametrize("counters", [True, False])
def test_a_file_of_weights(tmp_path, kind, counters):
    source, net = build(replace(TINY, channels=4)), build(TINY)
    state = source.backbone.body.state_dict() | {"fc.weight": torch.zeros(3, 3)}
    if not counters:  # as in weights from before torch 0.4.1
        state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    path = saved(tmp_path, state, kind)
    fpn = net.backbone.fpn.inner_blocks[0][0].weight.clone()
    known, note = load_backbone(net, "resnet10", path)
    assert known and path in note
    found = net.backbone.body.state_dict()
    assert all(torch.equal(found[name], value) for name, value in source.backbone.body.state_dict().items())
    assert torch.equal(net.backbone.fpn.inner_blocks[0][0].weight, fpn)


def test_none_and_weights_that_there_are_none_of():
    net = build(TINY)
    before = net.backbone.body.conv1.weight.clone()
    assert load_backbone(net, "resnet10", "none") == (False, "backbone from random weights")
    known, note = load_backbone(net, "resnet10", "imagenet")
    assert not known and "none of ImageNet's for resnet10" in note
    assert torch.equal(net.backbone.body.conv1.weight, before)


class Code:
    """What runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_files_that_hold_no_such_weights_are_named(tmp_path):
    net = build(TINY)
    before = net.backbone.body.state_dict()["layer4.0.conv1.weight"].clone()
    trunk = net.backbone.body.state_dict()
    files = {
        "absent.pth": None,
        "absent.safetensors": None,
        "text.pth": b"nothing",
        "text.safetensors": b"nothing",
        "list.pth": [1, 2],
        "tensor.pth": torch.zeros(3),
        "nested.pth": {"state_dict": dict(trunk)},
        "numbers.pth": dict.fromkeys(trunk, 1),
        "part.pth": {name: value for name, value in trunk.items() if not name.startswith("layer3")},
        "other.pth": dict(trunk) | {"layer2.0.conv1.weight": torch.zeros(128, 64, 1, 1)},
        "code.pth": {"conv1.weight": Code(tmp_path / "it ran")},
    }
    for name, content in files.items():
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        with pytest.raises(UserError, match=name.replace(".", r"\.")) as caught:
            load_backbone(net, "resnet10", str(path))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "it ran").exists()
    assert torch.equal(net.backbone.body.state_dict()["layer4.0.conv1.weight"], before)


@pytest.fixture
def offline(tmp_path, monkeypatch) -> list[str]:
    """No network and an empty cache; the addresses that were asked for."""
    asked = []

    def refuse(request, *given, **named):
        asked.append(request.full_url)
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return asked


def test_without_a_network_weights_stay_random_and_a_line_says_so(offline):
    net = build(TINY)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for backbone in ("resnet50", "resnet18"):
        known, note = load_backbone(net, backbone, "imagenet")
        assert not known
        assert "random weights" in note and "URLError" in note and "\n" not in note
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [url.rpartition("/")[2] for url in offline] == ["resnet50-0676ba61.pth", "resnet18-f37072fd.pth"]


def test_imagenets_weights_from_the_cache(offline, tmp_path):
    """In the old format, of parameters, without counters: as the published files are."""
    torch.manual_seed(1)
    source = resnet18()
    cache = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cache.parent.mkdir(parents=True)
    content = OrderedDict(source.named_parameters())
    content |= {name: value for name, value in source.named_buffers() if not name.endswith("num_batches_tracked")}
    torch.save(content, cache, _use_new_zipfile_serialization=False)
    net = build(replace(TINY, backbone="resnet18"))
    known, note = load_backbone(net, "resnet18", "imagenet")
    assert known and note == "backbone from imagenet weights" and not offline
    assert torch.equal(net.backbone.body.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    cache.write_bytes(cache.read_bytes()[:1000])
    assert load_backbone(net, "resnet18", "imagenet")[0] is False


# images and boxes


@pytest.mark.filterwarnings("error")
def test_images_become_tensors():
    (colour,) = images(1, 5, 7)
    found = to_tensor(colour)
    assert (found.shape, found.dtype) == ((3, 5, 7), torch.float32)
    np.testing.assert_array_equal(found.numpy(), colour.transpose(2, 0, 1) / np.float32(255))
    grey = colour[..., 1]
    np.testing.assert_array_equal(to_tensor(grey).numpy(), np.stack([grey / np.float32(255)] * 3))
    assert torch.equal(to_tensor(colour[:, ::-1]), found.flip(-1))
    colour.setflags(write=False)  # as images of a corpus are
    assert torch.equal(to_tensor(colour), found)


def test_truth_becomes_a_target_that_counts_from_1_without_ignored_boxes():
    target = to_target(Truth([[1, 2, 3, 4], [5, 6, 7, 8], [0, 0, 9, 9]], [2, 0, 1], 10, 10, [False, True, False]))
    assert target["boxes"].tolist() == [[1, 2, 3, 4], [0, 0, 9, 9]]
    assert target["labels"].tolist() == [3, 2]
    assert (target["boxes"].dtype, target["labels"].dtype) == (torch.float32, torch.int64)
    empty = to_target(Truth([], [], 10, 10))
    assert (empty["boxes"].shape, empty["labels"].shape, empty["labels"].dtype) == ((0, 4), (0,), torch.int64)


def test_detections_of_any_sizes(random_detector):
    shapes = [(96, 96, 3), (60, 100), (155, 77, 3), (33, 40), (96, 96)]
    rng = np.random.default_rng(0)
    given = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    found = detect(random_detector, given)
    assert len(found) == 5
    for (height, width, *_), one in zip(shapes, found, strict=True):
        assert 0 < len(one.boxes) <= 100
        assert (one.boxes[:, :2] >= 0).all() and (one.boxes[:, 2:] <= (width + 1e-3, height + 1e-3)).all()
        assert (one.boxes[:, 2:] > one.boxes[:, :2]).all()
        assert one.boxes[:, 2].max() > 0.5 * width and one.boxes[:, 3].max() > 0.5 * height
        assert (np.diff(one.scores) <= 0).all() and (one.scores > 0.001).all() and (one.scores <= 1).all()
        assert set(one.classes.tolist()) <= {0, 1, 2}
    assert detect(random_detector, []) == []


def assert_same(one, other):
    np.testing.assert_allclose(one.boxes, other.boxes, atol=2e-3)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    np.testing.assert_array_equal(one.classes, other.classes)


def test_detections_come_in_the_order_of_the_images(random_detector):
    given = images(6, seed=3)
    for one, image in zip(detect(random_detector, given), given, strict=True):
        assert_same(one, detect(random_detector, [image])[0])


def test_classes_count_from_0(random_detector):
    given = images(2)
    with torch.no_grad():
        expected = random_detector([to_tensor(image) for image in given])
    for one, other in zip(detect(random_detector, given), expected, strict=True):
        np.testing.assert_array_equal(one.classes, other["labels"].numpy() - 1)
        np.testing.assert_array_equal(one.boxes, other["boxes"].numpy())


def test_grey_images_are_images_with_equal_channels(random_detector):
    (grey,) = images(1, channels=())
    one, other = detect(random_detector, [grey]), detect(random_detector, [np.repeat(grey[..., None], 3, 2)])
    assert_same(one[0], other[0])


def test_classes_are_renumbered_and_those_without_a_number_left_out(random_detector):
    given = images(2)
    for plain, moved in zip(detect(random_detector, given), detect(random_detector, given, [5, -1, 0]), strict=True):
        keep = plain.classes != 1
        assert 0 < keep.sum() < len(keep)
        np.testing.assert_array_equal(moved.boxes, plain.boxes[keep])
        np.testing.assert_array_equal(moved.scores, plain.scores[keep])
        np.testing.assert_array_equal(moved.classes, np.where(plain.classes[keep] == 0, 5, 0))


def test_a_checkpoint_rebuilds_the_detector(random_detector, tmp_path):
    checkpoint.save(tmp_path, "faster-rcnn", random_detector, recipe={}, state={"epoch": 1})
    loaded = checkpoint.load(tmp_path, models=DETECTORS)
    assert loaded.model.config == SIZE96 and not loaded.model.training
    (one,), (other,) = (detect(model, images(1)) for model in (random_detector, loaded.model))
    np.testing.assert_array_equal(one.boxes, other.boxes)
    with pytest.raises(UserError, match="unknown model 'faster-rcnn'"):
        checkpoint.load(tmp_path)
