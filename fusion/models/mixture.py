"""The hot spot of the task mixture: log sum_k g_k exp(E_k(x)) over the K experts of each token.

Tokens are taken in blocks small enough for the cache. Inside a block the (expert, token) rows are grouped by
expert with one sort, each expert runs on its rows, and the K results of a token meet in a log-sum-exp that cannot
overflow. The backward pass is written out: rows are gathered both ways (never scattered, never added atomically),
and of the forward pass only the hidden layer before its GELU and the experts' outputs are kept.

Shapes: T tokens, N experts, K kept, D token width, F hidden width, R = K * T rows of a block.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_BLOCK = 4096  # tokens whose rows stay in the cache of a core
INFERENCE_BLOCK = 65536  # tokens at a time on an accelerator when nothing is kept for a backward pass
ALIGN = 16  # the hidden width is padded with zeros to a multiple of this; matrix products like it, results stay


def mixture(
    x_TD: Tensor, experts_TK: Tensor, log_weights_TK: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
) -> Tensor:
    """Return Y = log sum_k exp(log_weight_k + E_k(x)), E(x) = gelu(x w1 + b1) w2 + b2, per token and channel: (T, D).

    `w1` is (N, D, F), `b1` (N, F), `w2` (N, F, D), `b2` (N, D). Under autocast the products run in its type; the
    log-sum-exp always in float32 or better. Differentiable once in all but `experts_TK`.
    """
    device = x_TD.device.type
    if torch.is_autocast_enabled(device):  # on a CPU small products are slower in bfloat16
        dtype = torch.float32 if device == "cpu" else torch.get_autocast_dtype(device)
        x_TD, w1, b1, w2, b2 = (tensor.to(dtype) for tensor in (x_TD, w1, b1, w2, b2))
    pad = -w1.shape[2] % ALIGN
    w1, b1, w2 = F.pad(w1, (0, pad)), F.pad(b1, (0, pad)), F.pad(w2, (0, 0, 0, pad))
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x_TD, log_weights_TK, w1, b1, w2, b2))
    with torch.autocast(device, enabled=False):  # types are chosen above
        y_TD: Tensor = _Mixture.apply(keep, x_TD, experts_TK, log_weights_TK, w1, b1, w2, b2)
    return y_TD


class _Group:
    """The rows of a block, ordered by expert.

    `token` of each row; `place`, the row of each (k, token); `spans`, (expert, first row, row behind the last).
    """

    def __init__(self, experts_TK: Tensor, experts: int) -> None:
        tokens = experts_TK.shape[0]
        flat_R = experts_TK.T.reshape(-1)
        order_R = flat_R.argsort(stable=True)
        self.token = order_R % tokens
        self.order = order_R
        self.place = torch.empty_like(order_R)
        self.place[order_R] = torch.arange(order_R.numel(), device=order_R.device)
        ends = flat_R.bincount(minlength=experts).cumsum(0).tolist()
        spans = zip(range(experts), [0, *ends[:-1]], ends, strict=True)
        self.spans = [(expert, start, end) for expert, start, end in spans if end > start]


def _blocks(x_TD: Tensor, keep: bool) -> list[slice]:
    tokens = x_TD.shape[0]
    size = CPU_BLOCK if x_TD.device.type == "cpu" else max(tokens, 1) if keep else INFERENCE_BLOCK
    return [slice(start, min(start + size, tokens)) for start in range(0, max(tokens, 1), size)]  # without tokens, one


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        keep: bool,
        x_TD: Tensor,
        experts_TK: Tensor,
        log_weights_TK: Tensor,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
    ) -> Tensor:
        y_TD = torch.empty_like(x_TD, memory_format=torch.contiguous_format)
        ctx.spans, kept = [], []
        for part in _blocks(x_TD, keep):
            group = _Group(experts_TK[part], w1.shape[0])
            x_RD = x_TD[part].index_select(0, group.token)
            before_RF = x_RD.new_empty(x_RD.shape[0], w1.shape[2])
            out_RD = torch.empty_like(x_RD)
            for e, start, end in group.spans:
                before = torch.addmm(b1[e], x_RD[start:end], w1[e], out=before_RF[start:end])
                torch.addmm(b2[e], F.gelu(before), w2[e], out=out_RD[start:end])
            log_KT = log_weights_TK[part].T
            joint_KTD = out_RD.index_select(0, group.place).view(*log_KT.shape, out_RD.shape[1]) + log_KT[..., None]
            top_TD = joint_KTD.amax(0)
            share_KTD = joint_KTD.sub_(top_TD).exp_()
            sum_TD = share_KTD.sum(0)
            if keep:
                ctx.spans.append(group.spans)
                kept += [group.token, group.order, group.place, before_RF, share_KTD.div_(sum_TD)]
            y_TD[part] = sum_TD.log_().add_(top_TD)
        ctx.save_for_backward(x_TD, w1, w2, *kept)
        return y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, w1, w2, *kept = ctx.saved_tensors
        wide = torch.promote_types(w1.dtype, torch.float32)
        gw1, gb1 = w1.new_zeros(w1.shape, dtype=wide), w1.new_zeros(w1.shape[::2], dtype=wide)
        gw2, gb2 = w2.new_zeros(w2.shape, dtype=wide), w2.new_zeros(w2.shape[::2], dtype=wide)
        grad_x_TD = torch.empty_like(x_TD)
        grad_log = []
        of_block = (kept[i : i + 5] for i in range(0, len(kept), 5))
        for part, spans, (token, order, place, before_RF, share_KTD) in zip(
            _blocks(x_TD, True), ctx.spans, of_block, strict=True
        ):
            # the share of k, a softmax, is d y / d (E_k + log g_k)
            grad_KTD = share_KTD * grad_TD[part]
            grad_log.append(grad_KTD.sum(dim=2).T)
            grad_RD = grad_KTD.flatten(0, 1).to(x_TD.dtype).index_select(0, order)
            x_RD = x_TD[part].index_select(0, token)
            for e, start, end in spans:
                x, go, before = x_RD[start:end], grad_RD[start:end], before_RF[start:end]
                _add_product(gw2[e], F.gelu(before), go)
                gb2[e] += go.sum(0)
                gh = torch.ops.aten.gelu_backward(go @ w2[e].T, before)
                _add_product(gw1[e], x, gh)
                gb1[e] += gh.sum(0)
                torch.mm(gh, w1[e].T, out=grad_RD[start:end])
            grad_x_TD[part] = grad_RD.index_select(0, place).view(grad_KTD.shape).sum(0)
        grads = (grad.to(w1.dtype) for grad in (gw1, gb1, gw2, gb2))
        return None, grad_x_TD, None, torch.cat(grad_log), *grads


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Total += left.T @ right, in one go when the types agree; else the sum stays in the wider type."""
    if total.dtype == left.dtype:
        total.addmm_(left.T, right)
    else:
        total += left.T @ right


def reference_mixture(
    x_TD: Tensor, experts_TK: Tensor, log_weights_TK: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
) -> Tensor:
    """Compute `mixture` the usual way, as a reference for tests and benchmarks: sort, split, loop, exp, add, log.

    Overflows where an expert's output passes about 88; `mixture` does not.
    """
    top_k = experts_TK.shape[1]
    order = experts_TK.reshape(-1).argsort(stable=True)
    token = order // top_k
    counts = experts_TK.reshape(-1).bincount(minlength=w1.shape[0]).tolist()
    outs = [F.gelu(rows @ w1[e] + b1[e]) @ w2[e] + b2[e] for e, rows in enumerate(torch.split(x_TD[token], counts))]
    scaled = torch.cat(outs).exp() * log_weights_TK.exp().reshape(-1)[order, None]
    total = torch.zeros_like(x_TD).index_add(0, token, scaled)
    return total.clamp_min(math.ulp(0.0)).log()
