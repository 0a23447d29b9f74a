"""The mixture against a dense reference, and the gate against its definition."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import fusion.models.mixture as module
from fusion.models.experts import TaskMoE, TaskPrompt, noisy_top_k, squared_cv
from fusion.models.mixture import mixture, reference_mixture

T, N, K, D, H = 37, 5, 3, 6, 11  # tokens, experts, kept, token width, hidden width
DIFFERENTIABLE = ("x", "log_weights", "w1", "b1", "w2", "b2")


def case(tokens=T, experts=N, kept=K, width=D, hidden=H, dtype=torch.float64, seed=0, unused=()):
    """Inputs of `mixture` by name; the experts in `unused` are chosen by no token."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    logits = normal(tokens, experts)
    logits[:, list(unused)] = -torch.inf
    top, chosen = logits.topk(kept, dim=1)
    inputs = {
        "x": normal(tokens, width),
        "experts": chosen,
        "log_weights": top.log_softmax(1),
        "w1": normal(experts, width, hidden),
        "b1": normal(experts, hidden),
        "w2": normal(experts, hidden, width) / math.sqrt(hidden),
        "b2": normal(experts, width),
    }
    for name in DIFFERENTIABLE:
        inputs[name].requires_grad_()
    return inputs


def dense(x, experts, log_weights, w1, b1, w2, b2):
    """Every expert on every token, and a library's log-sum-exp over the chosen ones."""
    all_TND = torch.einsum("tnf,nfd->tnd", F.gelu(torch.einsum("td,ndf->tnf", x, w1) + b1), w2) + b2
    chosen_TKD = all_TND.gather(1, experts[..., None].expand(*experts.shape, x.shape[1]))
    return (chosen_TKD + log_weights[..., None]).logsumexp(1)


def results(function, inputs, seed=9):
    """The value and the gradients of a random weighted sum of it."""
    value = function(*inputs.values())
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    leaves = [inputs[name] for name in DIFFERENTIABLE]
    return [value, *torch.autograd.grad((value * weights).sum(), leaves, allow_unused=True)]


def assert_same(ours, others, **tolerance):
    for name, one, other in zip(("value", *DIFFERENTIABLE), ours, others, strict=True):
        torch.testing.assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


EXACT = {"rtol": 1e-10, "atol": 1e-11}


# the mixture


@pytest.mark.parametrize("reference", [dense, reference_mixture])
@pytest.mark.parametrize(("experts", "kept"), [(N, K), (N, 1), (2, 2), (1, 1), (7, 6)])
@pytest.mark.parametrize("hidden", [H, 16, 1])
def test_value_and_all_gradients_equal_the_references(reference, experts, kept, hidden):
    inputs = case(experts=experts, kept=kept, hidden=hidden)
    assert_same(results(mixture, inputs), results(reference, inputs), **EXACT)


def test_with_all_experts_kept_it_is_the_dense_mixture():
    inputs = case(kept=N)
    weights_TN = torch.zeros(T, N, dtype=torch.float64).scatter(1, inputs["experts"], inputs["log_weights"].exp())
    hidden_TNF = torch.einsum("td,ndf->tnf", inputs["x"], inputs["w1"]) + inputs["b1"]
    out_TND = torch.einsum("tnf,nfd->tnd", F.gelu(hidden_TNF), inputs["w2"]) + inputs["b2"]
    expected_TD = (weights_TN[..., None] * out_TND.exp()).sum(1).log()
    torch.testing.assert_close(mixture(*inputs.values()), expected_TD, **EXACT)


def test_gradcheck():
    inputs = case(tokens=4, experts=3, kept=2, width=2, hidden=3)
    assert torch.autograd.gradcheck(mixture, tuple(inputs.values()))


@pytest.mark.parametrize("size", [1, 5, 36, 37, 38])
def test_the_size_of_a_block_changes_nothing(monkeypatch, size):
    inputs = case()
    whole = results(mixture, inputs)
    monkeypatch.setattr(module, "CPU_BLOCK", size)
    assert_same(results(mixture, inputs), whole, **EXACT)


def test_an_expert_that_nobody_chose_gets_a_gradient_of_zero():
    inputs = case(unused=(1, 3))
    assert not torch.isin(inputs["experts"], torch.tensor([1, 3])).any()
    mixture(*inputs.values()).sum().backward()
    for name in ("w1", "b1", "w2", "b2"):
        grad = inputs[name].grad
        assert grad is not None
        used = grad.flatten(1).abs().amax(1) > 0
        assert used.tolist() == [True, False, True, False, True], name


def test_large_outputs_neither_overflow_nor_vanish():
    inputs = case(experts=3, kept=2, dtype=torch.float32)
    with torch.no_grad():
        inputs["b2"] += torch.tensor([1000.0, -1000.0, -990.0])[:, None]
    assert not torch.isfinite(reference_mixture(*inputs.values())).all()
    in_double = {k: v if k == "experts" else v.detach().double().requires_grad_() for k, v in inputs.items()}
    ours, reference = results(mixture, inputs), results(dense, in_double)
    assert reference[0].min() < -900
    assert reference[0].max() > 900
    assert_same([t.double() for t in ours], reference, rtol=1e-4, atol=1e-3)


def test_no_tokens():
    inputs = case()
    for name in ("x", "experts", "log_weights"):
        inputs[name] = inputs[name].detach()[:0].requires_grad_(name != "experts")
    value, *grads = results(mixture, inputs)
    assert value.shape == (0, D)
    assert [grad.shape for grad in grads] == [inputs[name].shape for name in DIFFERENTIABLE]
    assert all((grad == 0).all() for grad in grads)


def test_without_gradients():
    inputs = case()
    expected = mixture(*inputs.values())
    with torch.no_grad():
        value = mixture(*inputs.values())
    assert not value.requires_grad
    assert torch.equal(value, expected)
    assert torch.equal(mixture(*(t.detach() for t in inputs.values())), expected)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_single_input_may_want_a_gradient(name):
    inputs = case()
    expected = dict(zip(DIFFERENTIABLE, results(dense, inputs)[1:], strict=True))[name]
    alone = {key: tensor.detach() for key, tensor in inputs.items()}
    alone[name].requires_grad_()
    value = mixture(*alone.values())
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    (value * weights).sum().backward()
    torch.testing.assert_close(alone[name].grad, expected, **EXACT)


def test_backward_twice_over_a_kept_graph_and_never_over_a_freed_one():
    inputs = case()
    value = mixture(*inputs.values()).sum()
    first = torch.autograd.grad(value, inputs["w1"], retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(value, inputs["w1"])[0], first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, inputs["w1"])


def test_an_input_changed_before_the_backward_pass_is_an_error():
    inputs = case()
    value = mixture(*inputs.values()).sum()
    with torch.no_grad():
        inputs["x"].add_(1)
    with pytest.raises(RuntimeError, match="inplace"):
        value.backward()


def test_inputs_stay_as_they_are():
    inputs = case()
    before = {name: tensor.detach().clone() for name, tensor in inputs.items()}
    mixture(*inputs.values()).sum().backward()
    assert all(torch.equal(inputs[name], before[name]) for name in inputs)


def test_autocast_leaves_a_cpu_in_float32():
    inputs = case(tokens=200, dtype=torch.float32)

    def under_autocast(*given):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert mixture(given[0].bfloat16(), *given[1:]).dtype == torch.float32
            return mixture(*given)

    same, exact = results(under_autocast, inputs), results(mixture, inputs)
    for name, ours, other in zip(("value", *DIFFERENTIABLE), same, exact, strict=True):
        assert torch.equal(ours, other), name


def test_bfloat16_is_near_float32():
    inputs = case(tokens=200, dtype=torch.float32)
    rounded = {name: value.bfloat16() if name in DIFFERENTIABLE else value for name, value in inputs.items()}
    for name, ours, other in zip(
        ("value", *DIFFERENTIABLE), results(mixture, rounded), results(mixture, inputs), strict=True
    ):
        error = (ours.double() - other.double()).norm() / other.double().norm()
        assert 1e-5 < error < 0.03, f"{name}: relative error {error:.3g}"


# the gate


def gate(tokens=50, experts=6, top_k=3, seed=0, scale=1.0, training=True):
    g = torch.Generator().manual_seed(seed)
    clean = scale * torch.randn(tokens, experts, generator=g)
    return clean, torch.randn(tokens, experts, generator=g) if training else None, top_k


def drawn(clean, raw_std, seed):
    """The noisy scores that `noisy_top_k` sees after this seed."""
    torch.manual_seed(seed)
    std = F.softplus(raw_std) + 0.01
    return clean + torch.randn_like(clean) * std, std


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("top_k", [1, 3, 5, 6])
def test_the_k_largest_are_kept_and_their_weights_are_a_softmax(top_k, training):
    clean, raw_std, _ = gate(training=training)
    noisy = drawn(clean, raw_std, 4)[0] if training else clean
    torch.manual_seed(4)
    routing = noisy_top_k(clean, raw_std, top_k)
    assert routing.experts_TK.dtype == torch.int64
    for scores, chosen, weights in zip(noisy, routing.experts_TK, routing.log_weights_TK.exp(), strict=True):
        largest = scores.argsort(descending=True)[:top_k]
        assert set(chosen.tolist()) == set(largest.tolist())
        exp = scores[chosen].double().exp()
        torch.testing.assert_close(weights.double(), exp / exp.sum(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(routing.log_weights_TK.exp().sum(1), torch.ones(50))
    assert routing.balance >= 0


def test_noise_comes_with_training_only_and_from_the_seed():
    clean, raw_std, k = gate()
    assert torch.equal(noisy_top_k(clean, None, k).experts_TK, noisy_top_k(clean, None, k).experts_TK)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(noisy_top_k(clean, raw_std, k))
    assert all(torch.equal(one, other) for one, other in zip(runs[0], runs[1], strict=True))
    assert not torch.equal(runs[0].log_weights_TK, runs[2].log_weights_TK)
    calm = noisy_top_k(clean, torch.full_like(clean, -100.0), k)  # the least noise: 0.01
    quiet = noisy_top_k(clean, None, k)
    assert not torch.equal(calm.log_weights_TK, quiet.log_weights_TK)
    torch.testing.assert_close(calm.log_weights_TK.sort(1)[0], quiet.log_weights_TK.sort(1)[0], atol=0.1, rtol=0)


def test_squared_cv():
    assert squared_cv(torch.tensor([2.0, 4.0])) == pytest.approx(2 / 9)
    assert squared_cv(torch.full((7,), 3.0)) == 0
    assert squared_cv(torch.tensor([5.0])) == 0
    assert squared_cv(torch.zeros(4)) == 0
    assert squared_cv(torch.tensor([0, 0, 6])) == pytest.approx(3)


def test_balance_is_least_when_the_experts_share_evenly():
    """Tokens that each prefer another expert balance out; tokens that all prefer the same one do not."""
    even = 3 * torch.eye(4)
    assert noisy_top_k(even, None, 1).balance == pytest.approx(0)
    raw_std = torch.full((4, 4), -100.0)
    assert noisy_top_k(even, raw_std, 1).balance == pytest.approx(0, abs=1e-4)
    lopsided = noisy_top_k(even[:1].expand(4, 4), raw_std, 1).balance
    assert lopsided == pytest.approx(8, rel=1e-3)  # importance and load are both (4, 0, 0, 0): CV^2 of 4 each
    two_and_two = noisy_top_k(even[[0, 0, 1, 1]], raw_std, 1).balance
    assert 0.1 < two_and_two < lopsided


def test_load_equals_what_drawing_the_noise_again_gives():
    """Shazeer et al. 2017: P(x, i) is the chance that i is among the K if its noise alone is drawn again."""
    clean, raw_std, k = gate(tokens=5, experts=5, top_k=2, seed=3)
    for seed in range(3):
        noisy, std = drawn(clean, raw_std, seed)
        again = torch.randn(400_000, generator=torch.Generator().manual_seed(50 + seed))
        load = torch.zeros(5)
        for t in range(5):
            for i in range(5):
                others = torch.cat([noisy[t, :i], noisy[t, i + 1 :]])
                load[i] += (clean[t, i] + again * std[t, i] > others.topk(k)[0][-1]).float().mean()
        torch.manual_seed(seed)
        routing = noisy_top_k(clean, raw_std, k)
        importance = torch.zeros(5).index_add(0, routing.experts_TK.flatten(), routing.log_weights_TK.exp().flatten())
        expected = squared_cv(importance) + squared_cv(load)
        assert squared_cv(load) > 0.02
        assert routing.balance.item() == pytest.approx(expected.item(), abs=4e-3)


def test_load_has_a_gradient_and_in_evaluation_counts_tokens():
    clean, raw_std, k = gate()
    clean.requires_grad_(), raw_std.requires_grad_()
    torch.manual_seed(0)
    noisy_top_k(clean, raw_std, k).balance.backward()
    assert clean.grad.abs().max() > 0
    assert raw_std.grad.abs().max() > 0
    for k in (1, 3, 5):
        routing = noisy_top_k(clean.detach(), None, k)
        importance = torch.zeros(6).index_add(0, routing.experts_TK.flatten(), routing.log_weights_TK.exp().flatten())
        counts = routing.experts_TK.flatten().bincount(minlength=6).float()
        torch.testing.assert_close(routing.balance, squared_cv(importance) + squared_cv(counts))


@pytest.mark.parametrize("training", [True, False])
def test_with_all_experts_kept_there_is_no_load_term(training):
    clean, raw_std, _ = gate(experts=4, training=training)
    torch.manual_seed(0)
    routing = noisy_top_k(clean, raw_std, 4)
    importance = torch.zeros(4).index_add(0, routing.experts_TK.flatten(), routing.log_weights_TK.exp().flatten())
    torch.testing.assert_close(routing.balance, squared_cv(importance))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["huge", "equal", "zeros", "one expert far above"])
def test_extreme_scores_stay_finite(kind, training):
    clean, raw_std, k = gate(scale=1e6 if kind == "huge" else 1.0, training=training)
    if kind == "equal":
        clean = torch.full_like(clean, 7.0)
    if kind == "zeros":
        clean = torch.zeros_like(clean)
    if kind == "one expert far above":
        clean[:, 2] = 1e5
    raw_std = 100 * raw_std if training and kind == "huge" else raw_std
    clean.requires_grad_()
    routing = noisy_top_k(clean, raw_std, k)
    (routing.balance + routing.log_weights_TK.exp().square().sum()).backward()
    assert torch.isfinite(routing.log_weights_TK).all()
    assert torch.isfinite(routing.balance)
    assert torch.isfinite(clean.grad).all()
    assert all(len(set(row)) == k for row in routing.experts_TK.tolist())


def test_half_precision_scores_are_weighed_in_float32():
    clean, _, k = gate(training=False)
    routing = noisy_top_k(clean.bfloat16(), None, k)
    assert routing.log_weights_TK.dtype == routing.balance.dtype == torch.float32
    torch.testing.assert_close(routing.log_weights_TK.exp().sum(1), torch.ones(50))


# the layers


@pytest.fixture
def layer():
    torch.manual_seed(0)
    moe = TaskMoE(width=6, prompt_width=4, experts=5, top_k=2, expansion=2.5)
    with torch.no_grad():
        moe.noise.normal_()
    return moe


def test_layer_equals_its_formula_pixel_by_pixel(layer):
    """x + log sum_i g_i exp(E_i(x)) of every pixel, the gate fed with [pixel, projected prompt of its image]."""
    layer.eval()
    x, prompt = torch.randn(2, 6, 3, 4), torch.randn(2, 4)
    y, balance = layer(x, prompt)
    assert y.shape == x.shape
    routed = []
    for b in range(2):
        told = layer.prompt(prompt[b])
        for i in range(3):
            for j in range(4):
                token = x[b, :, i, j]
                scores = torch.cat([token, told]) @ layer.gate
                top, chosen = scores.topk(2)
                routed.append((chosen, top.softmax(0)))
                out = torch.stack(
                    [F.gelu(token @ layer.w1[e] + layer.b1[e]) @ layer.w2[e] + layer.b2[e] for e in chosen]
                )
                expected = token + (out + top.log_softmax(0)[:, None]).logsumexp(0)
                torch.testing.assert_close(y[b, :, i, j], expected, rtol=1e-4, atol=1e-5)
    importance, load = torch.zeros(5), torch.zeros(5)
    for chosen, weights in routed:
        importance[chosen] += weights.detach()
        load[chosen] += 1
    torch.testing.assert_close(balance, squared_cv(importance) + squared_cv(load), rtol=1e-4, atol=1e-5)


def test_layer_draws_noise_in_training_only(layer):
    x, prompt = torch.randn(1, 6, 5, 5), torch.randn(1, 4)
    with torch.no_grad():
        noisy = [layer.train()(x, prompt)[0] for _ in range(2)]
        calm = [layer.eval()(x, prompt)[0] for _ in range(2)]
    assert not torch.equal(*noisy)
    assert torch.equal(*calm)


def test_images_of_a_batch_do_not_see_each_other(layer):
    layer.eval()
    x, prompt = torch.randn(3, 6, 4, 4), torch.randn(3, 4)
    together = layer(x, prompt)[0]
    for b in range(3):
        torch.testing.assert_close(layer(x[b : b + 1], prompt[b : b + 1])[0][0], together[b], rtol=1e-4, atol=1e-5)


def test_layer_starts_with_a_random_gate_and_without_learned_noise():
    torch.manual_seed(0)
    moe = TaskMoE(width=48, prompt_width=256, experts=11, top_k=6, expansion=2.66)
    assert moe.w1.shape == (11, 48, 127)
    assert moe.noise.abs().max() == 0
    assert moe.gate.detach().std().item() == pytest.approx(1, rel=0.1)
    moe = TaskMoE(width=48, prompt_width=256, experts=11, top_k=6, expansion=2.66, gate_std=0.1)
    assert moe.gate.detach().std().item() == pytest.approx(0.1, rel=0.1)


def test_task_prompt_is_one_vector_an_image_out_of_the_dictionary():
    torch.manual_seed(0)
    prompt = TaskPrompt(channels=1, width=5, atoms=3)
    images = torch.rand(2, 1, 30, 17)
    out = prompt(images)
    assert out.shape == (2, 5)
    torch.testing.assert_close(prompt(images[1:])[0], out[1])
    with torch.no_grad():
        prompt.choose.weight.zero_()
        prompt.choose.bias.copy_(torch.tensor([50.0, 0.0, 0.0]))
    torch.testing.assert_close(prompt(images), F.gelu(prompt.atoms[:1]).expand(2, 5))


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (8, 8), (16, 16)])
def test_task_prompt_takes_the_smallest_images(size, padding):
    assert torch.isfinite(TaskPrompt(1, 4, 2, padding)(torch.rand(1, 1, *size))).all()


def test_without_padding_no_border_counts():
    """A flat image has one prompt, whatever its size; with zeros around it, its size shows."""
    torch.manual_seed(0)
    for padding, equal in ((0, True), (1, False)):
        prompt = TaskPrompt(1, 16, 8, padding)
        one, other = (prompt(torch.full((1, 1, side, side), 0.7)) for side in (8, 64))
        assert torch.allclose(one, other, atol=1e-6) == equal
