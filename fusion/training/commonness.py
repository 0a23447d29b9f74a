"""What networks of several fusion tasks have in common, and what each has of its own: AE-Netv2's commonness.

The paper writes a task as unique + common part, and transfer as U_t + a U_s, with a degradation coefficient beta; how
they are computed it leaves open. Here they are computed from trained weights, and this is our definition:

    theta_0        the network at its start, before any training: one for all tasks
    M              the mixed network, trained from theta_0 on the labels of all tasks
    theta_t        the network of task t, trained on from M on the labels of t alone

    C      = M - theta_0                                            the common part: what all tasks together have taught
    beta_t = <theta_t - theta_0, C> / <C, C>                        the degradation coefficient of t: how much of the
                                                                    common part is left after training for t alone
    U_t    = theta_t - theta_0 - beta_t C, orthogonal to C          the unique part of t
    theta_t = theta_0 + beta_t C + U_t                              unique + common, exactly

    F_t(a)    = theta_0 + beta_t C + a U_t                          a = 0: the common part alone; a = 1: theta_t
    F_t,s(a)  = theta_0 + beta_t C + U_t + a U_s                    transfer of what s has of its own to t; a in 0..1

Two networks trained apart from random weights have no weights in common that could be added: their channels may be
permuted. All theta_t come from M, near each other, so that sums of their parts are networks too.

Weights are those that the network runs with: batch norms are folded into the convolutions before them (`fold_norms`).
Those of training have no fixed size, as a batch norm takes out the scale of what comes before it.

Source: Fang et al., "AE-Netv2: Optimization of image fusion efficiency and network architecture", 2020, eqs. 2 to 5.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fusion.errors import UserError

Weights = dict[str, Tensor]
"""Name -> float32 tensor, as in a state dict of a network of `fold_norms`."""


@dataclass(frozen=True, eq=False)
class Parts:
    """The weights of all tasks' networks in parts; see the top of this file.

    Args:
        start: theta_0.
        common: C.
        unique: Task -> U_t.
        beta: Task -> beta_t.
    """

    start: Weights
    common: Weights
    unique: dict[str, Weights]
    beta: dict[str, float]

    def unique_share(self, task: str) -> float:
        """Return |U_t|^2 / |theta_t - theta_0|^2, 0..1: how much of what a task's network has learnt is its own."""
        own = dot(self.unique[task], self.unique[task])
        whole = own + self.beta[task] ** 2 * dot(self.common, self.common)
        return own / whole if whole else 0.0

    def similarity(self, task: str, other: str) -> float:
        """Return the cosine of U_t and U_s, -1..1; 0 where one is nothing."""
        first, second = self.unique[task], self.unique[other]
        size = (dot(first, first) * dot(second, second)) ** 0.5
        return dot(first, second) / size if size else 0.0

    def unique_and_common(self, task: str, a: float) -> Weights:
        """Return F_t(a), theta_0 + beta_t C + a U_t."""
        return add(self.start, (self.beta[task], self.common), (a, self.unique[task]))

    def transfer(self, task: str, other: str, a: float) -> Weights:
        """Return F_t,s(a), theta_0 + beta_t C + U_t + a U_s, for the task t and another task s."""
        return add(self.start, (self.beta[task], self.common), (1.0, self.unique[task]), (a, self.unique[other]))


def decompose(start: nn.Module, mixed: nn.Module, networks: Mapping[str, nn.Module]) -> Parts:
    """Return the parts of the networks, task -> theta_t. UserError where M is theta_0: nothing was learnt.

    All networks have one architecture; their batch norms may be folded or not.
    """
    theta_0 = fold_norms(start).state_dict()
    common = add(fold_norms(mixed).state_dict(), (-1.0, theta_0))
    size = dot(common, common)
    if not size:
        raise UserError("the mixed network is as it was at its start. Train it for an epoch at least.")
    unique, beta = {}, {}
    for task, network in networks.items():
        learnt = add(fold_norms(network).state_dict(), (-1.0, theta_0))
        beta[task] = dot(learnt, common) / size
        unique[task] = add(learnt, (-beta[task], common))
    return Parts(add(theta_0), common, unique, beta)


def add(weights: Weights, *parts: tuple[float, Weights]) -> Weights:
    """Return weights + sum of factor * part, computed in float64; whole numbers (counts of batches) are left out."""
    total = {name: value.double() for name, value in weights.items() if value.is_floating_point()}
    for factor, part in parts:
        total = {name: value + factor * part[name].double() for name, value in total.items()}
    return {name: value.float() for name, value in total.items()}


def dot(first: Weights, second: Weights) -> float:
    """Return the sum of the products of all weights."""
    return sum(float((value.double() * second[name].double()).sum()) for name, value in first.items())


def fold_norms(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose batch norms only add: the same images, to rounding.

    Every batch norm right after a convolution in an nn.Sequential gets mean 0, variance 1 - epsilon and weight 1, and
    its scale goes into the convolution.
    """
    folded = copy.deepcopy(model).eval()
    with torch.no_grad():
        for part in folded.modules():
            layers = list(part) if isinstance(part, nn.Sequential) else []
            for conv, norm in itertools.pairwise(layers):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    _move_scale(conv, norm)
    return folded


def _move_scale(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    fused = fuse_conv_bn_eval(conv, norm)
    assert fused.bias is not None and norm.running_mean is not None and norm.running_var is not None
    conv.weight.copy_(fused.weight)
    if conv.bias is not None:
        conv.bias.zero_()
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    norm.weight.fill_(1)
    norm.bias.copy_(fused.bias)
