"""What a network costs for one image: parameters and multiply-adds.

    multiply-adds          of every convolution and matrix product, from the shapes they meet in a forward pass; biases,
                           norms, activations, resizing and attention's softmax are not counted
    parameters x pixels    what AE-Netv2's Table VI gives as FLOPs of its own networks, at 400 x 400

The two agree to 4 % for a network of plain convolutions at full size (every weight is used once a pixel) and are far
apart for one that works at lower sizes, like `pool`, or that runs a part of its weights, like a mixture.

Source of the second: Fang et al., Optimization of fusion efficiency and architecture (AE-Netv2), 2020, Table VI:
860,480,000 for 5,378 parameters, 6,584,640,000 for 41,154 and 245,920,000 for 1,537.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from fusion.models.aenet import AENet
from fusion.models.configs import AENET_BLOCKS, AENetConfig, MoEFusionConfig, TGECNetConfig
from fusion.models.moefusion import MoEFusion
from fusion.models.tgecnet import TGECNet

SIZE = (400, 400)  # of Table VI


@dataclass(frozen=True)
class Network:
    """A network in the table of costs. inputs: the channels of the images (1, C, H, W) that it takes."""

    build: Callable[[], nn.Module]
    inputs: tuple[int, ...] = (1, 1)


@dataclass(frozen=True)
class NetworkCost:
    """What a network costs at a size. parameters_x_pixels: the paper's count."""

    network: str
    parameters: int
    parameters_x_pixels: int
    multiply_adds: int


def _aenet(block: str) -> Network:
    return Network(lambda: AENet(AENetConfig(block=block)))


NETWORKS: dict[str, Network] = {
    **{f"AE-Netv2 {block}": _aenet(block) for block in AENET_BLOCKS},
    "TG-ECNet, restoration of one image": Network(lambda: TGECNet(TGECNetConfig(stage="restore")), (1,)),
    "TG-ECNet, restoration of both and fusion": Network(lambda: TGECNet(TGECNetConfig(stage="fuse"))),
    "MoE-Fusion": Network(lambda: MoEFusion(MoEFusionConfig())),
}


def count_costs(networks: Mapping[str, Network] = NETWORKS, size: tuple[int, int] = SIZE) -> list[NetworkCost]:
    """Return the cost of each network at a size, height and width."""
    return [
        network_cost(name, network.build(), [torch.zeros(1, channels, *size) for channels in network.inputs])
        for name, network in networks.items()
    ]


def network_cost(name: str, model: nn.Module, inputs: Sequence[Tensor]) -> NetworkCost:
    """Return the cost of a network on these images, (1, C, H, W) each."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    pixels = math.prod(inputs[0].shape[-2:])
    return NetworkCost(name, parameters, parameters * pixels, count_multiply_adds(model, *inputs))


def count_multiply_adds(model: nn.Module, *inputs: Tensor) -> int:
    """Return the multiply-adds of one forward pass in evaluation mode.

    Products are counted and not computed: their results are zeros. So a gate chooses the first experts for all, which
    costs what any other choice does.
    """
    counter = FlopCounterMode(display=False)
    training = model.training
    zeros = _ZeroProducts()  # type: ignore[no-untyped-call]
    with torch.no_grad(), zeros, counter:
        model.eval()(*inputs)
    model.train(training)
    return int(counter.get_total_flops()) // 2


class _ZeroProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Returns zeros in place of the results of convolutions and matrix products."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket not in flop_registry:
            return func(*args, **kwargs)
        if "out" in kwargs:
            return kwargs["out"].zero_()
        shapes = tree_map(lambda value: value.to("meta") if isinstance(value, Tensor) else value, (args, kwargs))
        result = func(*shapes[0], **shapes[1])
        return tree_map(lambda value: torch.zeros_like(value, device="cpu"), result)
