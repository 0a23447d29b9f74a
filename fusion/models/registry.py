"""The table of networks. A new one is a file here, a config in configs.py and a line below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from fusion.models.aenet import AENet
from fusion.models.blendnet import BlendNet
from fusion.models.configs import AENetConfig, BlendNetConfig, MoEFusionConfig, TGECNetConfig
from fusion.models.moefusion import MoEFusion
from fusion.models.tgecnet import TGECNet


@dataclass(frozen=True)
class Model:
    """One row of the table: what reports call the network, its config, how it is built from one, where it is from."""

    label: str
    config: type[Any]
    build: Callable[[Any], nn.Module]
    source: str


MODELS: dict[str, Model] = {
    "tgecnet": Model("TG-ECNet", TGECNetConfig, TGECNet, "Task-gated multi-expert collaboration network, ICML 2025"),
    "moefusion": Model("MoE-Fusion", MoEFusionConfig, MoEFusion, "Mixture of local-to-global experts, ICCV 2023"),
    "aenet": Model("AE-Netv2", AENetConfig, AENet, "Optimization of fusion efficiency and architecture, 2020"),
    "blendnet": Model("BlendNet", BlendNetConfig, BlendNet, "A small U-Net that blends both images, of this project"),
}
