"""MoE-Fusion: counts, sizes, gates and mixtures against formulas, attention, ablations, gradients, checkpoints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from fusion import checkpoint, inference
from fusion.config import from_dict, to_dict
from fusion.errors import UserError
from fusion.models.configs import ABLATIONS, GATE_INPUTS, MoEFusionConfig
from fusion.models.experts import ImageGate, image_mixture, squared_cv
from fusion.models.moefusion import Fused, MoEFusion
from fusion.models.registry import MODELS
from fusion.training.configs import MoEFusionLoss
from fusion.training.losses import moefusion_terms, total

SMALL = MoEFusionConfig(grid=(3, 4), width=4, decoder_widths=(8, 6, 4))
SIZES = [(37, 51), (8, 8), (3, 5), (1, 1), (1, 40)]
GATES = ("foreground", "background", "global")


def build(seed=0, choose=0.0, **changes) -> MoEFusion:
    """`choose`: how strongly the gates, which start at zero, prefer one expert to another."""
    torch.manual_seed(seed)
    model = MoEFusion(replace(SMALL, **changes))
    for gate in gates_of(model):
        for weight in (gate.choice, gate.noise):
            nn.init.normal_(weight, std=choose / len(weight) ** 0.5)
    return model


def gates_of(model: nn.Module) -> list[ImageGate]:
    return [module for module in model.modules() if isinstance(module, ImageGate)]


def images(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def pair(batch=2, size=(16, 20), seed=1):
    return images(batch, 1, *size, seed=seed), images(batch, 1, *size, seed=seed + 100)


def size_of(*parts: nn.Module) -> int:
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def paper(**changes) -> MoEFusion:
    with torch.device("meta"):
        return MoEFusion(MoEFusionConfig(**changes))


@pytest.fixture(scope="module")
def model() -> MoEFusion:
    return build(choose=3.0).eval()


# the paper's network


def test_parameter_counts_of_the_paper_size():
    m = paper()
    assert size_of(m.visible, m.infrared) == 28_064
    assert size_of(m.foreground.experts, m.background.experts) == 18_624
    assert size_of(m.global_experts.experts) == 461_828
    assert size_of(m.foreground.gate, m.background.gate) == 153_600
    assert size_of(m.global_experts.gate) == 384_000
    assert size_of(m) == 508_516 + 153_600 + 384_000


@pytest.mark.parametrize(
    ("ablation", "local", "last", "gates"),
    [
        ("none", 18_624, 461_828, 537_600),
        ("no_mole", 0, 388_100, 307_200),  # 128 channels
        ("no_moge", 18_624, 115_457, 153_600),
        ("att_local", 1_056, 461_828, 384_000),
    ],
)
def test_parameter_counts_of_the_ablations(ablation, local, last, gates):
    m = paper(ablation=ablation)
    assert size_of(*gates_of(m)) == gates
    assert size_of(m.global_experts) - sum(size_of(gate) for gate in gates_of(m.global_experts)) == last
    assert size_of(m) == 28_064 + local + last + gates


def test_the_convolutions_before_the_maximum_have_twenty_parameters():
    assert size_of(paper(attention_mode="conv")) - size_of(paper()) == 2 * (9 + 1)
    assert size_of(paper(attention_mode="conv", ablation="no_mole")) == size_of(paper(ablation="no_mole"))


@pytest.mark.parametrize(("experts", "first"), [(2, 1), (4, 2), (5, 2), (8, 4)])
def test_half_of_the_local_experts_see_the_visible_image(experts, first):
    local = build(experts=experts).foreground
    inputs = local.inputs("visible", "infrared")
    assert len(local.experts) == experts
    assert inputs == ["visible"] * first + ["infrared"] * (experts - first)


def test_the_table_builds_it():
    entry = MODELS["moefusion"]
    assert isinstance(entry.build(SMALL), MoEFusion)
    assert entry.config is MoEFusionConfig
    assert SMALL.stage == "moefusion"


def test_the_dense_features_end_with_those_of_the_last_layer():
    encoder = build().visible
    image = images(2, 1, 6, 7)
    first = F.relu(encoder.first(image))
    second = encoder.dense[0](first)
    third = encoder.dense[1](torch.cat([first, second], 1))
    last = encoder.dense[2](torch.cat([first, second, third], 1))
    torch.testing.assert_close(encoder(image), torch.cat([first, second, third, last], 1))


# sizes and values


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("size", SIZES)
def test_any_size_is_fused(size, ablation):
    with torch.no_grad():
        out = build(ablation=ablation).eval()(*pair(3, size), images(3, 1, 5, 2))
    assert isinstance(out, Fused)
    assert out.image.shape == (3, 1, *size)
    assert torch.isfinite(out.image).all()
    assert out.balance.shape == () and torch.isfinite(out.balance)


def test_gates_are_k_weights_an_image_that_sum_to_one(model):
    for training in (False, True):
        out = build(choose=3.0).train(training)(*pair(5))
        assert tuple(out.gates) == tuple(out.loads) == GATES
        for gates_BN in out.gates.values():
            assert gates_BN.shape == (5, 4)
            assert ((gates_BN > 0).sum(1) == 2).all()
            torch.testing.assert_close(gates_BN.sum(1), torch.ones(5))


def test_loads_are_named_apart_and_their_sum_is_the_balance(model):
    out = model(*pair(5))
    for name, gates_BN in out.gates.items():
        counts_N = (gates_BN > 0).sum(0).float()
        torch.testing.assert_close(out.loads[name], squared_cv(gates_BN.sum(0)) + squared_cv(counts_N))
    assert len({load.item() for load in out.loads.values()}) > 1
    torch.testing.assert_close(out.balance, sum(out.loads.values()))


def test_images_of_a_batch_do_not_see_each_other(model):
    visible, infrared = pair(4)
    infrared[1], visible[2], attention = 0, 1, images(4, 2, 4, 5)
    with torch.no_grad():
        together = model(visible, infrared, attention)
        assert any(len({tuple(row) for row in (g > 0).tolist()}) > 1 for g in together.gates.values())
        for i in range(4):
            alone = model(visible[i : i + 1], infrared[i : i + 1], attention[i : i + 1])
            torch.testing.assert_close(alone.image[0], together.image[i], rtol=1e-4, atol=1e-5)
            for name in GATES:
                torch.testing.assert_close(alone.gates[name][0], together.gates[name][i], rtol=1e-4, atol=1e-5)


def test_evaluation_is_deterministic_and_training_with_a_seed():
    model = build(choose=0.1)
    with torch.no_grad():
        model.eval()
        assert torch.equal(model(*pair()).image, model(*pair()).image)
        model.train()
        runs = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            runs.append(model(*pair()).image)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_constant_images_give_numbers_and_gradients(ablation, training):
    model = build(ablation=ablation).train(training)
    visible, infrared = torch.zeros(2, 1, 9, 11), torch.ones(2, 1, 9, 11)
    for attention in (None, torch.zeros(2, 1, 1, 1), torch.ones(2, 2, 3, 3)):
        out = model(visible, infrared, attention)
        loss = total(moefusion_terms(out.image, visible, infrared, None, out.loads), MoEFusionLoss())
        model.zero_grad()
        loss.backward()
        grads = {name: p.grad for name, p in model.named_parameters() if training or "noise" not in name}
        assert all(torch.isfinite(grad).all() for grad in grads.values())


def test_autocast_to_bfloat16_is_near_float32():
    # K = N, as rounded features may choose other experts
    model, given = build(choose=0.3, top_k=4), (*pair(3), images(3, 2, 4, 5))
    exact = model.eval()(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(*given)
    assert out.image.dtype == torch.bfloat16
    assert all(g.dtype == torch.float32 for g in (*out.gates.values(), out.balance))
    error = (out.image.float() - exact.image).abs().max() / exact.image.abs().max()
    assert 1e-5 < error < 0.03
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(*given)
    (out.image.float().mean() + out.balance).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


# gates and mixtures


def test_the_gate_pools_so_the_size_does_not_matter():
    torch.manual_seed(0)
    gate = ImageGate(2, (3, 4), experts=4, top_k=2).eval()
    nn.init.normal_(gate.choice, std=0.2)
    small = torch.randn(5, 2, 3, 4)
    large = small.repeat_interleave(7, 2).repeat_interleave(2, 3)
    gates_BN, balance = gate([small])
    torch.testing.assert_close(gate([large]), (gates_BN, balance))
    torch.testing.assert_close(gate([large[:, :1], large[:, 1:]])[0], gates_BN)
    scores = small.flatten(1) @ gate.choice
    for row, weights in zip(scores, gates_BN, strict=True):
        best = row.topk(2).indices
        expected = torch.zeros(4).scatter(0, best, row[best].softmax(0))
        torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("inputs", ["layer_norm", "standardised"])
def test_normalised_inputs_by_hand(inputs):
    torch.manual_seed(0)
    gate = ImageGate(2, (3, 4), experts=4, top_k=2, inputs=inputs)
    nn.init.normal_(gate.choice)
    batches = [3 + torch.rand(5, 2, 3, 4) for _ in range(2)]
    for features in batches:
        gate.train()([features])
    if inputs == "standardised":
        first, second = (batch.flatten(1) for batch in batches)
        mean = (first.mean(0) + second.mean(0)) / 2
        variance = (first.square().mean(0) + second.square().mean(0)) / 2 - mean.square()
        expected = (second - mean) / (variance + 1e-5).sqrt()
    else:
        second = batches[1].flatten(1)
        expected = (second - second.mean(1, keepdim=True)) / (second.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    scores = expected / 24**0.5 @ gate.choice
    gates_BN = gate.eval()([batches[1]])[0]
    torch.testing.assert_close(gates_BN.topk(2).indices, scores.topk(2).indices)
    torch.testing.assert_close(gates_BN.topk(2).values, scores.topk(2).values.softmax(1), rtol=1e-4, atol=1e-4)


def test_what_all_images_share_decides_for_a_pooled_gate_alone():
    """Features are a large common part and small differences, and the gate has learned to prefer some experts."""
    torch.manual_seed(0)
    common, choice = 3 + torch.rand(1, 2, 3, 4), torch.randn(24, 4)
    images_BCHW = common + 0.05 * torch.randn(64, 2, 3, 4)
    sets = {}
    for inputs in GATE_INPUTS:
        gate = ImageGate(2, (3, 4), experts=4, top_k=2, inputs=inputs).train()
        for batch in images_BCHW.split(4):
            gate([batch])
        gate.choice.data.copy_(choice)
        gates_BN = gate.eval()([images_BCHW])[0]
        sets[inputs] = len({tuple(row) for row in (gates_BN > 0).tolist()})
    assert sets["pooled"] <= 2 and sets["standardised"] == 6  # of 4 over 2


def test_evaluation_leaves_the_statistics_as_they_are():
    gate = ImageGate(2, (3, 4), experts=4, top_k=2, inputs="standardised", bias_rate=0.1)
    before = {name: value.clone() for name, value in gate.state_dict().items()}
    gate.eval()([images(3, 2, 3, 4)])
    assert all(torch.equal(value, before[name]) for name, value in gate.state_dict().items())
    gate.train()([images(3, 2, 3, 4)])
    changed = {name for name, value in gate.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"bias_N", "standardiser.mean_G", "standardiser.square_G", "standardiser.batches"}


def test_a_bias_moves_the_choice_to_experts_with_less_than_their_share_and_not_the_weights():
    torch.manual_seed(0)
    gate = ImageGate(1, (1, 2), experts=3, top_k=2, bias_rate=0.1).train()
    gate.choice.data.copy_(torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    gate.noise.data.fill_(-50)  # next to no noise
    given = torch.ones(4, 1, 1, 2)
    gate([given])
    torch.testing.assert_close(gate.bias_N, torch.tensor([-0.1, -0.1, 0.1]))  # 4, 4 and 0 of 8
    for _ in range(5):
        gate([given])
    gates_BN = gate.eval()([given])[0]
    assert (gates_BN[0] > 0).tolist() == [True, False, True]  # 1.4, 0.4, 0.6
    torch.testing.assert_close(gates_BN[0, [0, 2]], torch.tensor([2.0, 0.0]).softmax(0))


def test_the_papers_gate_has_two_matrices_and_nothing_else():
    assert set(ImageGate(2, (3, 4), 4, 2).state_dict()) == {"choice", "noise"}
    assert MoEFusionConfig().gate_inputs == "pooled" and not MoEFusionConfig().gate_bias_rate


def test_a_new_gate_lets_noise_alone_choose():
    gate = ImageGate(2, (3, 4), experts=4, top_k=1).train()
    torch.manual_seed(0)
    gates_BN, _ = gate([torch.randn(4000, 2, 3, 4)])
    torch.testing.assert_close(gates_BN.mean(0), torch.full((4,), 0.25), atol=0.03, rtol=0)


@pytest.mark.parametrize("part", ["foreground", "global_experts"])
def test_with_all_experts_kept_it_is_the_dense_mixture(part):
    model = build(choose=3.0, top_k=4).eval()
    mix = getattr(model, part)
    x = [torch.randn(3, 4, 6, 8), torch.randn(3, 4, 6, 8)] if part == "foreground" else [torch.randn(3, 40, 6, 8)]
    pooled = F.adaptive_avg_pool2d(torch.cat(x, 1), (3, 4)).flatten(1)
    weights_BN = (pooled @ mix.gate.choice).softmax(1)
    inputs = [x[0], x[0], x[1], x[1]] if part == "foreground" else x * 4
    outputs = torch.stack([expert(given) for expert, given in zip(mix.experts, inputs, strict=True)], 1)
    out = mix(*x)
    assert weights_BN.std() > 0.02
    torch.testing.assert_close(out.gates, weights_BN)
    torch.testing.assert_close(out.features, torch.einsum("bn,bnchw->bchw", weights_BN, outputs))


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_an_expert_computes_the_images_that_chose_it_and_no_others(top_k):
    model = build(choose=3.0, top_k=top_k).train()
    seen = {}
    for part in ("foreground", "background", "global_experts"):
        for n, expert in enumerate(getattr(model, part).experts):
            expert.register_forward_pre_hook(lambda _, given, at=(part, n): seen.update({at: len(given[0])}))
    out = model(*pair(5))
    for part, name in zip(("foreground", "background", "global_experts"), GATES, strict=True):
        assert [seen[part, n] for n in range(4)] == (out.gates[name] > 0).sum(0).tolist()
        assert sum(seen[part, n] for n in range(4)) == 5 * top_k


def test_the_sparse_mixture_equals_the_dense_sum_in_value_and_gradients():
    torch.manual_seed(0)
    experts = nn.ModuleList(nn.Conv2d(3, 2, 3, padding=1) for _ in range(4)).double()
    x = torch.randn(5, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    gates_BN = torch.rand(5, 4, dtype=torch.float64)
    gates_BN[:, 1] = 0  # nobody's
    gates_BN[[0, 3], 2] = 0
    gates_BN.requires_grad_()
    ours = image_mixture(experts, [x] * 4, gates_BN)
    dense = sum(gates_BN[:, n, None, None, None] * expert(x) for n, expert in enumerate(experts))
    torch.testing.assert_close(ours, dense)
    weights = torch.randn_like(dense)
    leaves = [x, *experts.parameters()]
    for one, other in zip(*(torch.autograd.grad((y * weights).sum(), leaves) for y in (ours, dense)), strict=True):
        torch.testing.assert_close(one, other)


def test_an_expert_without_an_image_gets_a_gradient_of_zero():
    model = build(choose=3.0, top_k=1).train()
    out = model(*pair(1))
    out.image.sum().backward()
    for part, name in zip(("foreground", "background", "global_experts"), GATES, strict=True):
        for n, expert in enumerate(getattr(model, part).experts):
            grads = [p.grad for p in expert.parameters()]
            assert all(grad is not None for grad in grads)
            assert any((grad != 0).any() for grad in grads) is bool(out.gates[name][0, n] > 0)


def test_data_parallel_training_does_not_wait_for_unused_experts(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(build(top_k=1).train())
        for step in range(2):  # the second pass fails where the first left a parameter out
            out = model(*pair(1, seed=step))
            (out.image.sum() + out.balance).backward()
    finally:
        dist.destroy_process_group()


# attention


def test_without_attention_every_pixel_is_half_foreground(model):
    given = pair()
    image = model(*given).image
    for half in (torch.full((2, 1, 1, 1), 0.5), torch.full((2, 2, 7, 3), 0.5)):
        torch.testing.assert_close(model(*given, half).image, image)
    assert not torch.allclose(model(*given, torch.ones(2, 1, 1, 1)).image, image, atol=1e-4)


def test_two_maps_count_by_their_maximum(model):
    given, both = pair(), images(2, 2, 16, 20, seed=9)
    expected = model(*given, torch.maximum(both[:, :1], both[:, 1:])).image
    assert torch.equal(model(*given, both).image, expected)
    assert not torch.allclose(model(*given, both[:, :1]).image, expected, atol=1e-5)


@pytest.mark.parametrize("size", [(4, 5), (1, 1), (3, 7), (16, 20), (40, 33)])
def test_attention_is_resized_to_the_images(model, size):
    given, attention = pair(), images(2, 1, *size, seed=9)
    resized = F.interpolate(attention, (16, 20), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(*given, attention).image, model(*given, resized).image)


def test_attention_parts_the_features(model):
    """1 on the left half: the foreground experts see nothing on the right, the background experts nothing left."""
    attention = torch.zeros(2, 1, 16, 20)
    attention[..., :10] = 1
    seen = {}
    hooks = [
        getattr(model, name).register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given}))
        for name in ("foreground", "background")
    ]
    visible, infrared = pair()
    model(visible, infrared, attention)
    for hook in hooks:
        hook.remove()
    whole = [model.visible(visible)[:, -4:], model.infrared(infrared)[:, -4:]]
    for name, shown in (("foreground", attention), ("background", 1 - attention)):
        for got, features in zip(seen[name], whole, strict=True):
            torch.testing.assert_close(got, features * shown)


def test_no_gradient_flows_into_the_attention():
    for mode in ("max", "conv"):
        attention = images(2, 2, 4, 5).requires_grad_()
        build(attention_mode=mode)(*pair(), attention).image.sum().backward()
        assert attention.grad is None


def test_the_convolutions_before_the_maximum_start_as_the_identity_and_learn():
    plain, convs = build().eval(), build(attention_mode="conv").eval()
    loaded = convs.load_state_dict(plain.state_dict(), strict=False)
    assert loaded.missing_keys == ["attention.weight", "attention.bias"]
    given = (*pair(), images(2, 2, 4, 5))
    torch.testing.assert_close(convs(*given).image, plain(*given).image)
    torch.testing.assert_close(convs(*given[:2]).image, plain(*given[:2]).image)
    convs(*given).image.sum().backward()
    assert (convs.attention.weight.grad != 0).all() and (convs.attention.bias.grad != 0).all()
    with torch.no_grad():
        convs.attention.bias.copy_(torch.tensor([-9.0, 9.0]))
    torch.testing.assert_close(convs(*given).image, plain(*given[:2], torch.ones(2, 1, 1, 1)).image)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 1, 4, 4), (2, 4, 4), (2, 0, 4, 4)])
def test_attention_of_another_shape_is_refused(model, shape):
    with pytest.raises(ValueError, match="attention must have the shape"):
        model(*pair(), torch.zeros(shape))


# ablations


def test_ablations_change_their_part_and_nothing_else():
    shapes = {a: {k: tuple(v.shape) for k, v in build(ablation=a).state_dict().items()} for a in ABLATIONS}
    whole = shapes["none"]

    def parts(names):
        return {name.split(".")[0] for name in names}

    def changed(ablation):
        return parts(name for name, _ in whole.items() ^ shapes[ablation].items())

    assert parts(whole) == {"visible", "infrared", "foreground", "background", "global_experts"}
    assert changed("no_mole") == {"foreground", "background", "global_experts"}
    assert parts(shapes["no_mole"]) == {"visible", "infrared", "global_experts"}
    assert {
        n.rsplit(".", 2)[1] for n, _ in whole.items() ^ shapes["no_mole"].items() if n.startswith("global_experts")
    } == {
        "gate",
        "0",  # the first convolution of an expert
    }
    assert changed("no_moge") == {"global_experts"}
    assert changed("att_local") == {"foreground", "background"}
    gates = {a: tuple(build(ablation=a)(*pair()).gates) for a in ABLATIONS}
    assert gates == {"none": GATES, "no_mole": GATES[2:], "no_moge": GATES[:2], "att_local": GATES[2:]}


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_attention_matters_where_there_are_local_features(ablation):
    model, given = build(ablation=ablation).eval(), pair()
    one, other = (model(*given, torch.full((2, 1, 1, 1), value)).image for value in (0.1, 0.9))
    assert torch.equal(one, other) is (ablation == "no_mole")


def test_att_local_is_a_convolution_of_the_weighted_features():
    model, (visible, infrared) = build(ablation="att_local").eval(), pair()
    seen = []
    hook = model.global_experts.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(visible, infrared, torch.full((2, 1, 1, 1), 0.25))
    hook.remove()
    dense = [model.visible(visible), model.infrared(infrared)]
    last = torch.cat([features[:, -4:] for features in dense], 1)
    local = [model.foreground.blend(0.25 * last), model.background.blend(0.75 * last)]
    torch.testing.assert_close(seen[0], torch.cat([*dense, *local], 1))


def test_the_local_maps_sum_to_what_the_mixture_gives(model):
    given = (*pair(3), images(3, 1, 4, 5))
    seen = {}
    hooks = [
        getattr(model, name).register_forward_hook(lambda _, given, out, name=name: seen.update({name: out.features}))
        for name in GATES[:2]
    ]
    gates = model(*given).gates
    for hook in hooks:
        hook.remove()
    maps = model.local_maps(*given)
    assert tuple(maps) == GATES[:2]
    for name, maps_BNCHW in maps.items():
        assert maps_BNCHW.shape == (3, 4, 4, 16, 20)
        torch.testing.assert_close(torch.einsum("bn,bnchw->bchw", gates[name], maps_BNCHW), seen[name])


@pytest.mark.parametrize("ablation", ["no_mole", "att_local"])
def test_there_are_no_local_maps_without_local_experts(ablation):
    with pytest.raises(ValueError, match=ablation):
        build(ablation=ablation).local_maps(*pair())


# training


def loss_of(model, seed=1, batch=8):
    visible, infrared = pair(batch, seed=seed)
    out = model(visible, infrared, images(batch, 2, 4, 5, seed=seed))
    return total(moefusion_terms(out.image, visible, infrared, None, out.loads), MoEFusionLoss())


@pytest.mark.parametrize(
    "changes",
    [
        *({"ablation": a} for a in ABLATIONS),
        *({"gate_inputs": inputs} for inputs in GATE_INPUTS[1:]),
        *({"attention_mode": "conv"}, {"top_k": 4}, {"gate_bias_rate": 0.1}),
    ],
)
def test_the_gradient_reaches_every_parameter(changes):
    # wide enough that no expert has only dead units
    model = build(width=8, decoder_widths=(16, 12, 12), **changes).train()
    loss_of(model).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, f"the gradient of {name} is zero"


@pytest.mark.parametrize("top_k", [1, 2])
def test_with_one_expert_kept_a_gate_learns_from_the_load_alone(top_k):
    """The softmax over a single score is 1, whatever the score."""
    model = build(top_k=top_k).train()
    out = model(*pair(4))
    weights = [weight for gate in gates_of(model) for weight in (gate.choice, gate.noise)]
    assert len(weights) == 6
    from_image = torch.autograd.grad(out.image.square().mean(), weights, retain_graph=True, materialize_grads=True)
    from_load = torch.autograd.grad(out.balance, weights)
    assert [bool((grad != 0).any()) for grad in from_image] == [top_k > 1] * 6
    assert all((grad != 0).any() for grad in from_load)


def test_each_load_trains_its_own_gate():
    model = build().train()
    out = model(*pair(4))
    gates = [model.foreground.gate, model.background.gate, model.global_experts.gate]
    for name, own in zip(GATES, gates, strict=True):
        given = torch.autograd.grad(
            out.loads[name], [gate.choice for gate in gates], retain_graph=True, allow_unused=True
        )
        reached = [gate for gate, grad in zip(gates, given, strict=True) if grad is not None and (grad != 0).any()]
        assert reached == [own]


def test_it_learns():
    model = build().train()
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        loss = loss_of(model, batch=4)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.8 * losses[0]


# checkpoints, inference, configurations


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ablation": "no_moge"},
        {"attention_mode": "conv", "experts": 3},
        {"gate_inputs": "standardised", "gate_bias_rate": 0.1},
    ],
)
def test_a_checkpoint_rebuilds_it(tmp_path, changes):
    model = build(choose=0.5, **changes)
    model(*pair(seed=5))
    model.eval()
    checkpoint.save(tmp_path, "moefusion", model, recipe={}, state={"epoch": 1})
    loaded = checkpoint.load(tmp_path, expect="moefusion")
    assert loaded.model.config == model.config
    assert loaded.model.config.stage == "moefusion"
    given = (*pair(), images(2, 2, 4, 5))
    assert torch.equal(loaded.model(*given).image, model(*given).image)


def test_a_colour_pair_of_odd_size_is_fused(model):
    rng = np.random.default_rng(0)
    visible = rng.integers(0, 256, (37, 51, 3), np.uint8)
    fused = inference.fuse(model, visible, rng.integers(0, 256, (37, 51), np.uint8))
    assert fused.shape == visible.shape and fused.dtype == np.uint8
    assert not (fused[..., :1] == fused).all()


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_configurations_go_to_json_and_back(ablation):
    config = MoEFusionConfig(ablation=ablation, grid=(4, 6), experts=6, top_k=3, attention_mode="conv")
    assert from_dict(MoEFusionConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"experts": 1, "top_k": 1}, "model.experts"),
        ({"top_k": 0}, "model.top_k"),
        ({"top_k": 5}, "model.top_k"),
        ({"grid": (0, 20)}, "model.grid"),
        ({"ablation": "no-mole"}, "model.ablation"),
        ({"attention_mode": ""}, "model.attention_mode"),
        ({"gate_inputs": "flat"}, "model.gate_inputs"),
        ({"gate_bias_rate": -0.1}, "model.gate_bias_rate"),
        ({"width": 0}, "model.width"),
        ({"width": 7}, "model.width"),
        ({"decoder_widths": (64, 0, 16)}, "model.decoder_widths"),
    ],
)
def test_impossible_configurations_are_named(changes, named):
    with pytest.raises(UserError, match=named) as caught:
        replace(SMALL, **changes)
    assert "\n" not in str(caught.value)
