"""The table of networks. A new one is a file here and a line below.

`build(config)` makes the network; every config has a `stage`, and fusing networks answer `model(visible, infrared)`
with an object whose `image` is the fused luma (B, 1, H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from fusion.models.aenet import AENet, AENetConfig
from fusion.models.moefusion import MoEFusion, MoEFusionConfig
from fusion.models.tgecnet import TGECNet, TGECNetConfig


@dataclass(frozen=True)
class Model:
    label: str
    config: type
    build: Callable[[Any], nn.Module]
    source: str


MODELS: dict[str, Model] = {
    "tgecnet": Model("TG-ECNet", TGECNetConfig, TGECNet, "Task-gated multi-expert collaboration network, ICML 2025"),
    "moefusion": Model("MoE-Fusion", MoEFusionConfig, MoEFusion, "Mixture of local-to-global experts, ICCV 2023"),
    "aenet": Model("AE-Netv2", AENetConfig, AENet, "Optimization of fusion efficiency and architecture, 2020"),
}
