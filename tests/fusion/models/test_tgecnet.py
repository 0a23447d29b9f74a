"""TG-ECNet: sizes, shapes, gradients, the frozen first stage, and the inference path that saves memory."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fusion.errors import UserError
from fusion.models import onednn, restormer
from fusion.models.configs import TGECNetConfig
from fusion.models.experts import TaskMoE
from fusion.models.registry import MODELS
from fusion.models.tgecnet import Fused, Restored, TGECNet, pad_to
from tests.helpers.tiny_models import SMALL

SIZES = [(37, 51), (8, 8), (3, 5), (1, 1), (100, 64), (1, 40)]


def build(stage="restore", seed=0, **changes) -> TGECNet:
    torch.manual_seed(seed)
    return TGECNet(replace(SMALL, stage=stage, **changes))


def images(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def size_of(*parts: nn.Module) -> int:
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


# the paper's network


@pytest.fixture(scope="module")
def paper() -> TGECNet:
    with torch.device("meta"):
        return TGECNet(TGECNetConfig(stage="fuse"))


def test_parameter_counts_of_the_paper_size(paper):
    stage1 = paper.restoration
    assert size_of(stage1) == 38_373_147
    assert size_of(paper.fusion) == 1_627_279
    assert size_of(paper) == 40_000_426


def test_every_gate_of_the_paper_has_eleven_experts_and_keeps_six(paper):
    mixtures = [module for module in paper.modules() if isinstance(module, TaskMoE)]
    assert len(mixtures) == 4  # three in the restoration, one in the fusion
    for moe in mixtures:
        assert moe.w1.shape[0] == moe.gate.shape[1] == 11
        assert moe.top_k == 6


def test_no_convolution_outside_the_prompts_has_a_bias(paper):
    biased = [name for name, m in paper.named_modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    assert all("prompt.body" in name for name in biased)
    assert len(biased) == 10


def test_the_table_builds_it():
    model = MODELS["tgecnet"]
    assert isinstance(model.build(replace(SMALL, stage="fuse")), TGECNet)
    assert model.config is TGECNetConfig


# shapes and values


@pytest.fixture(scope="module")
def restore() -> TGECNet:
    return build().eval()


@pytest.fixture(scope="module")
def fuse() -> TGECNet:
    return build("fuse").eval()


@pytest.mark.parametrize("size", SIZES)
def test_any_size_is_restored(restore, size):
    with torch.no_grad():
        out = restore(images(2, 1, *size))
    assert isinstance(out, Restored)
    assert out.image.shape == (2, 1, *size)
    assert out.features.shape == (2, 2 * SMALL.width, *(-(-n // 8) * 8 for n in size))
    assert out.balance.shape == ()
    assert all(torch.isfinite(t).all() for t in out)


@pytest.mark.parametrize("size", SIZES)
def test_any_size_is_fused(fuse, size):
    with torch.no_grad():
        out = fuse(images(2, 1, *size), images(2, 1, *size, seed=2))
    assert isinstance(out, Fused)
    assert out.image.shape == out.visible.shape == out.infrared.shape == (2, 1, *size)
    assert all(torch.isfinite(t).all() for t in out)


def test_padding_reflects_where_it_can():
    ramp = torch.arange(30.0).view(1, 1, 5, 6)
    assert torch.equal(pad_to(ramp, 8), F.pad(ramp, (0, 2, 0, 3), mode="reflect"))
    assert torch.equal(pad_to(ramp[..., :3, :], 8), F.pad(ramp[..., :3, :], (0, 2, 0, 5), mode="replicate"))
    whole = torch.zeros(1, 1, 8, 16)
    assert pad_to(whole, 8) is whole
    assert torch.equal(pad_to(ramp, 8)[..., :5, :6], ramp)


def test_padding_before_or_inside_is_the_same(restore):
    image = images(1, 1, 21, 30)
    with torch.no_grad():
        assert torch.equal(restore(image).image, restore(pad_to(image, 8)).image[..., :21, :30])


def test_the_input_is_added_to_what_the_network_says():
    model = build().eval()
    nn.init.zeros_(model.restoration.output.weight)
    image = images(1, 1, 19, 24)
    with torch.no_grad():
        assert torch.equal(model(image).image, image)


def test_the_start_is_that_of_the_files_or_a_calm_one():
    """ "published": gates of deviation 1 and a last convolution as PyTorch makes it; "scaled": both small."""
    for kind, gate, last in (("published", 1.0, 1.0), ("scaled", None, 0.1)):
        model = build("fuse", initialisation=kind, experts=64, top_k=2)
        for moe in (model.restoration.moe1, model.restoration.moe3, model.fusion.moe):
            expected = gate or 1 / math.sqrt(moe.gate.shape[0])
            assert moe.gate.detach().std().item() == pytest.approx(expected, rel=0.1)
        for part in (model.restoration, model.fusion):
            inputs = 9 * part.output.in_channels
            assert part.output.weight.abs().max().item() == pytest.approx(last / math.sqrt(inputs), rel=0.1)


@pytest.mark.parametrize("wrong", [{"initialisation": "warm"}, {"prompt_padding": 2}])
def test_an_unknown_start_or_padding_is_refused(wrong):
    with pytest.raises(UserError, match=f"model.{next(iter(wrong))} is"):
        TGECNetConfig(**wrong)


def test_fusing_adds_the_restored_images_and_starts_from_equal_parts():
    model = build("fuse").eval()
    head = model.fusion
    assert (head.alpha == 1).all() and (head.beta == 1).all()
    assert head.theta == head.gamma == model.config.residual == 0.5 and TGECNetConfig().residual == 1
    visible, infrared = images(1, 1, 16, 24), images(1, 1, 16, 24, seed=2)
    with torch.no_grad():
        out, other = model(visible, infrared), model(infrared, visible)
        torch.testing.assert_close(out.image, other.image, rtol=1e-5, atol=1e-5)
        head.alpha.fill_(0.5)
        assert not torch.allclose(model(visible, infrared).image, model(infrared, visible).image, atol=1e-5)
        nn.init.zeros_(head.output.weight)
        head.theta.fill_(0.25), head.gamma.fill_(3.0)
        out = model(visible, infrared)
    torch.testing.assert_close(out.image, 0.25 * out.visible + 3 * out.infrared)
    with torch.no_grad():
        alone = [model(visible).image, model(infrared).image]
    torch.testing.assert_close([out.visible, out.infrared], alone, rtol=1e-5, atol=1e-6)


def test_fusing_in_training_sees_the_same_restored_images(fuse):
    """Both modalities go through the frozen network as one batch in training, one after the other in evaluation."""
    visible, infrared = images(2, 1, 16, 24), images(2, 1, 16, 24, seed=2)
    model = build("fuse")
    model.load_state_dict(fuse.state_dict())
    out, expected = model.train()(visible, infrared), fuse(visible, infrared)
    torch.testing.assert_close(out.visible, expected.visible, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.infrared, expected.infrared, rtol=1e-4, atol=1e-5)


def test_the_balance_is_the_sum_over_the_gates(restore):
    found = []
    names = ("moe1", "moe2", "moe3")
    hooks = [
        getattr(restore.restoration, name).register_forward_hook(lambda module, given, out: found.append(out[1]))
        for name in names
    ]
    with torch.no_grad():
        balance = restore(images(1, 1, 16, 16)).balance
    for hook in hooks:
        hook.remove()
    assert len(found) == 3
    torch.testing.assert_close(balance, sum(found))
    assert balance > 0


def test_evaluation_is_deterministic_and_training_is_not(fuse):
    pair = images(1, 1, 16, 16), images(1, 1, 16, 16, seed=2)
    model = build("fuse")
    with torch.no_grad():
        assert torch.equal(fuse(*pair).image, fuse(*pair).image)
        nn.init.normal_(model.fusion.moe.noise)
        assert not torch.equal(model.train()(*pair).image, model(*pair).image)
        assert torch.equal(model.eval()(*pair).image, model(*pair).image)


def test_images_of_a_batch_do_not_see_each_other(restore):
    batch = images(3, 1, 16, 24)
    with torch.no_grad():
        together = restore(batch).image
        for i in range(3):
            torch.testing.assert_close(restore(batch[i : i + 1]).image[0], together[i], rtol=1e-4, atol=1e-5)


def test_weights_come_from_the_seed():
    one, same, other = (build("fuse", seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["restoration.embed.weight"], other["restoration.embed.weight"])


# blocks


def test_attention_between_channels_equals_its_formula():
    """softmax(temperature * normalised q @ normalised k') @ v, per head, over the channels."""
    torch.manual_seed(0)
    layer = restormer.Attention(8, 2).double()
    nn.init.uniform_(layer.temperature, 0.5, 3.0)
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64, requires_grad=True)
    q, k, v = (t.reshape(2, 2, 4, 35) for t in layer.qkv_dwconv(layer.qkv(x)).chunk(3, dim=1))
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2) * layer.temperature
    expected = layer.project_out((scores.softmax(-1) @ v).reshape(2, 8, 5, 7))
    # the softmax may run in float32
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn(2, 8, 5, 7, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()]) for y in (layer(x), expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_attention_has_gradients_where_features_are_zero():
    torch.manual_seed(0)
    layer = restormer.Attention(8, 2)
    x = torch.zeros(1, 8, 4, 4, requires_grad=True)
    (layer(x) - 1).square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_feed_forward_equals_its_formula():
    torch.manual_seed(0)
    layer = restormer.FeedForward(6, 2.5)
    x = torch.randn(2, 6, 5, 7)
    a, b = layer.dwconv(layer.project_in(x)).split(15, dim=1)
    torch.testing.assert_close(layer(x), layer.project_out(F.gelu(a) * b))


def test_channel_norm_is_over_the_channels_of_a_pixel():
    norm = restormer.ChannelNorm(6)
    nn.init.uniform_(norm.weight), nn.init.uniform_(norm.bias)
    x = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0))
    pixel = x[1, :, 2, 3]
    expected = (pixel - pixel.mean()) / (pixel.var(unbiased=False) + 1e-5).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x)[1, :, 2, 3], expected)


def test_samplers_halve_and_double():
    x = torch.rand(1, 8, 6, 10)
    assert restormer.Down(8)(x).shape == (1, 16, 3, 5)
    assert restormer.Up(8)(x).shape == (1, 4, 12, 20)


def test_prompt_bank_mixes_its_maps_by_the_mean_of_the_features():
    torch.manual_seed(0)
    bank = restormer.PromptBank(channels=3, bank_channels=2, bank_size=4, maps=5)
    with torch.no_grad():
        bank.choose.bias.copy_(torch.tensor([0.0, 0.0, 60.0, 0.0, 0.0]))
        bank.choose.weight.zero_()
        expected = bank.smooth(F.interpolate(bank.maps[2:3], (6, 9), mode="bilinear", align_corners=False))
        torch.testing.assert_close(bank(torch.rand(1, 3, 6, 9)), expected)
        bank.choose.weight.normal_(), bank.choose.bias.zero_()
        x = torch.rand(1, 3, 6, 9)
        torch.testing.assert_close(bank(x), bank(x.flip(-1)))
        assert not torch.allclose(bank(x), bank(2 * x), atol=1e-3)


# training


def loss_of(model, seed=1):
    visible, infrared = images(2, 1, 24, 24, seed=seed), images(2, 1, 24, 24, seed=seed + 100)
    out = model(visible) if model.fusion is None else model(visible, infrared)
    return (out.image - infrared).square().mean() + 0.1 * out.balance


@pytest.mark.parametrize("stage", ["restore", "fuse"])
def test_the_gradient_reaches_every_trainable_parameter(stage):
    torch.manual_seed(0)
    model = build(stage).train()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    loss_of(model).backward()
    optimiser.step()
    optimiser.zero_grad()
    loss_of(model, seed=2).backward()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if stage == "restore":
        assert len(trainable) == len(list(model.parameters()))
    else:
        assert {name.split(".")[0] for name in trainable} == {"fusion"}
        assert all(p.grad is None for name, p in model.named_parameters() if name.startswith("restoration."))
    for name, parameter in trainable.items():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, f"the gradient of {name} is zero"


def test_the_balance_alone_trains_the_gates():
    model = build().train()
    model(images(2, 1, 16, 16)).balance.backward()
    for moe in (model.restoration.moe1, model.restoration.moe2, model.restoration.moe3):
        assert moe.gate.grad.abs().max() > 0
        assert moe.noise.grad.abs().max() > 0


def test_stage_two_leaves_stage_one_as_it_is():
    model = build("fuse").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(3):
        optimiser.zero_grad()
        loss_of(model, seed=step).backward()
        optimiser.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if name.startswith("fusion.")}


def test_stage_one_stays_in_evaluation_mode_in_stage_two():
    model = build("fuse")
    for mode in (True, False, True):
        assert model.train(mode) is model
        assert not any(module.training for module in model.restoration.modules())
        assert all(module.training is mode for module in model.fusion.modules())
        assert model.training is mode
    assert all(module.training for module in build().train().modules())


# memory: large maps in strips


def run(model, *pair):
    with torch.no_grad():
        return [t for t in model(*pair) if t.dim() == 4]


@pytest.fixture
def strips(monkeypatch):
    """Turns the strips of other devices on, of a few rows, and counts the blocks that use them."""
    calls = []
    monkeypatch.setattr(onednn, "can_run", lambda x: False)
    in_strips = restormer.Block._in_strips
    monkeypatch.setattr(restormer, "WHOLE_PIXELS", 0)
    monkeypatch.setattr(restormer, "STRIP_PIXELS", 150)
    monkeypatch.setattr(restormer.Block, "_in_strips", lambda *given: calls.append(1) or in_strips(*given))
    return calls


@pytest.mark.parametrize("size", [(37, 51), (8, 8), (3, 5)])
def test_strips_of_rows_give_the_same_image(fuse, restore, size, request):
    pair = images(2, 1, *size), images(2, 1, *size, seed=2)
    whole = run(fuse, *pair), run(restore, pair[0])
    calls = request.getfixturevalue("strips")
    parts = run(fuse, *pair), run(restore, pair[0])
    assert len(calls) > 20
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pixels", [1, 60, 130, 10_000])
def test_a_block_in_strips_of_any_height(pixels, monkeypatch):
    torch.manual_seed(0)
    block = restormer.Block(8, 2, 2.66).double().to(memory_format=torch.channels_last)
    x = torch.randn(2, 8, 13, 10).double().to(memory_format=torch.channels_last)
    with torch.no_grad():
        whole = block(x)
        monkeypatch.setattr(restormer, "WHOLE_PIXELS", 0)
        monkeypatch.setattr(restormer, "STRIP_PIXELS", pixels)
        torch.testing.assert_close(block(x), whole, rtol=1e-12, atol=1e-12)


def test_strips_are_for_large_maps_without_gradients(restore, strips, monkeypatch):
    restore(images(1, 1, 16, 16)).image.sum().backward()
    restore.zero_grad()
    assert not strips
    run(restore, images(1, 1, 16, 16))
    blocks = len(strips)
    assert blocks
    # a batch counts as much as its images; only the maps of full size are above this
    monkeypatch.setattr(restormer, "WHOLE_PIXELS", 16 * 16)
    run(restore, images(1, 1, 16, 16))
    assert len(strips) == blocks
    run(restore, images(2, 1, 16, 16))
    assert blocks < len(strips) < 2 * blocks


# configurations


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"stage": "both"}, "model.stage"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 5, "experts": 4}, "top_k"),
        ({"width": 0}, "model.width"),
        ({"width": -8}, "model.width"),
        ({"width": 10}, "model.width"),
        ({"heads": (1, 2, 4, 5)}, "model.heads"),
        ({"heads": (3, 2, 2, 4)}, "model.heads"),
        ({"heads": (1, 2, 0, 4)}, "model.heads"),
        ({"blocks": (1, 1, -1, 1)}, "model.blocks"),
        ({"refinement": -1}, "model.refinement"),
        ({"bank_channels": (8, 8, 9)}, "model.bank_channels"),
        ({"bank_channels": (8, 0, 8)}, "model.bank_channels"),
        ({"bank_heads": 0}, "model.bank_heads"),
        ({"prompt_width": 0}, "model.prompt_width"),
        ({"expansion": 0.1}, "model.expansion"),
        ({"expansion": float("nan")}, "model.expansion"),
    ],
)
def test_impossible_configurations_are_named(changes, named):
    with pytest.raises(UserError, match=named) as caught:
        replace(SMALL, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"top_k": 4}, {"experts": 1, "top_k": 1}, {"heads": (4, 4, 4, 4)}, {"refinement": 0}]
)
def test_unusual_configurations_work(changes):
    model = build("fuse", **changes).train()
    loss_of(model).backward()
    assert model.fusion.moe.w1.grad.abs().max() > 0


def test_a_stage_one_network_does_not_fuse(restore):
    with pytest.raises(ValueError, match="stage-1"):
        restore(images(1, 1, 8, 8), images(1, 1, 8, 8))
