"""MoE-Fusion (Cao et al., ICCV 2023): local experts for foreground and background, then global experts make the image.

Two encoders see the visible luma and the infrared image. An attention map from detectors parts their features into
foreground and background; a mixture of local experts (MoLE) works on each, a mixture of global experts (MoGE) turns
all features into one image. Every gate decides once per image. Mixtures are the plain weighted sums of the paper's
equations 2 and 4. Any size: the gates pool what they see to a fixed grid, where the paper flattens full-size features
and so is tied to one size and to 16 million gate weights.

Shapes: B batch, N experts, K experts kept, C channels (`width`), H height, W width, h x w size of attention maps.
Images are grey, float, in [0, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusion.models.configs import MoEFusionConfig
from fusion.models.experts import ImageGate, image_mixture


class Fused(NamedTuple):
    """`loads` and `gates` by gate: "foreground", "background" (MoLE), "global" (MoGE), less those an ablation drops."""

    image: Tensor  # (B, 1, H, W)
    loads: dict[str, Tensor]  # scalars: CV^2(importance) + CV^2(load)
    gates: dict[str, Tensor]  # (B, N), each row with K weights that sum to 1

    @property
    def balance(self) -> Tensor:
        """The plain sum of the loads; `fusion.training.configs.MoEFusionLoss` weighs them apart."""
        return sum(self.loads.values(), self.image.new_zeros((), dtype=torch.float32))


class Mixed(NamedTuple):
    """The output of a mixture, or of the layers that an ablation puts in its place."""

    features: Tensor  # (B, C, H, W)
    load: Tensor | None = None  # none without a gate
    gates: Tensor | None = None  # (B, N)


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the height and width."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Encoder(nn.Module):
    """A convolution with ReLU, then three without, each on all channels before it, in the manner of DenseFuse."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv(1, width)
        self.dense = nn.ModuleList(conv(layers * width, width) for layers in (1, 2, 3))

    def forward(self, image_B1HW: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, 4 C, H, W), of which the last C channels are the last layer's."""
        dense = F.relu(self.first(image_B1HW))
        for layer in self.dense:
            dense = torch.cat([dense, layer(dense)], 1)
        return dense


def image_gate(channels: int, config: MoEFusionConfig) -> ImageGate:
    """Return a gate that sees features of this many channels."""
    sizes = (config.grid, config.experts, config.top_k)
    return ImageGate(channels, *sizes, inputs=config.gate_inputs, bias_rate=config.gate_bias_rate)


class LocalExperts(nn.Module):
    """MoLE: the first N // 2 experts take the visible features, the others the infrared ones; the gate sees both."""

    def __init__(self, config: MoEFusionConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.width // 2
        self.gate = image_gate(2 * width, config)
        self.experts = nn.ModuleList(
            nn.Sequential(conv(width, hidden), nn.ReLU(), conv(hidden, width)) for _ in range(config.experts)
        )

    def inputs(self, visible_BCHW: Tensor, infrared_BCHW: Tensor) -> list[Tensor]:
        """Return what each expert takes."""
        first = len(self.experts) // 2
        return [visible_BCHW] * first + [infrared_BCHW] * (len(self.experts) - first)

    def forward(self, visible_BCHW: Tensor, infrared_BCHW: Tensor) -> Mixed:
        """(B, C, H, W) twice -> features (B, C, H, W), weighted by the gate."""
        gates_BN, load = self.gate([visible_BCHW, infrared_BCHW])
        features = image_mixture(self.experts, self.inputs(visible_BCHW, infrared_BCHW), gates_BN)
        return Mixed(features, load, gates_BN)

    def maps(self, visible_BCHW: Tensor, infrared_BCHW: Tensor) -> Tensor:
        """Return what every expert makes of every image, whether chosen or not: (B, N, C, H, W)."""
        inputs = self.inputs(visible_BCHW, infrared_BCHW)
        return torch.stack([expert(x) for expert, x in zip(self.experts, inputs, strict=True)], 1)


class LocalBlend(nn.Module):
    """Without experts: a 1x1 convolution of the attention-weighted features of both modalities."""

    def __init__(self, config: MoEFusionConfig) -> None:
        super().__init__()
        self.blend = nn.Conv2d(2 * config.width, config.width, 1)

    def forward(self, visible_BCHW: Tensor, infrared_BCHW: Tensor) -> Mixed:
        """(B, C, H, W) twice -> features (B, C, H, W), without load and gates."""
        return Mixed(self.blend(torch.cat([visible_BCHW, infrared_BCHW], 1)))


class Decoder(nn.Sequential):
    """Four 3x3 convolutions down to one channel, ReLU between: an expert of MoGE, or all of it."""

    def __init__(self, channels: int, config: MoEFusionConfig) -> None:
        first, second, third = config.decoder_widths
        super().__init__(
            *(conv(channels, first), nn.ReLU(), conv(first, second), nn.ReLU()),
            *(conv(second, third), nn.ReLU(), conv(third, 1)),
        )


class GlobalExperts(nn.Module):
    """MoGE: every expert, and the gate, take all features."""

    def __init__(self, channels: int, config: MoEFusionConfig) -> None:
        super().__init__()
        self.gate = image_gate(channels, config)
        self.experts = nn.ModuleList(Decoder(channels, config) for _ in range(config.experts))

    def forward(self, features_BCHW: Tensor) -> Mixed:
        """(B, C of all features, H, W) -> "features", the image (B, 1, H, W), weighted by the gate."""
        gates_BN, load = self.gate([features_BCHW])
        image = image_mixture(self.experts, [features_BCHW] * len(self.experts), gates_BN)
        return Mixed(image, load, gates_BN)


class MoEFusion(nn.Module):
    """`forward(visible, infrared, attention)` fuses pairs of any size; see the top of this file.

    `attention`: (B, 1, h, w), or (B, 2, h, w) with the maps of the visible and of the infrared detector, in [0, 1], of
    any size: resized to the images. 1 is foreground. No gradient flows into it. Without it, 0.5 everywhere: every
    pixel is as much foreground as background. An ablation without local features ignores it.
    """

    def __init__(self, config: MoEFusionConfig) -> None:
        super().__init__()
        self.config = config
        self.visible, self.infrared = Encoder(config.width), Encoder(config.width)
        self.attention: nn.Conv2d | None = None
        self.foreground: LocalExperts | LocalBlend | None = None
        self.background: LocalExperts | LocalBlend | None = None
        channels = 8 * config.width
        if config.ablation != "no_mole":
            local = LocalBlend if config.ablation == "att_local" else LocalExperts
            self.foreground, self.background = local(config), local(config)
            channels += 2 * config.width
            if config.attention_mode == "conv":
                self.attention = attention_convs()
        self.global_experts = (Decoder if config.ablation == "no_moge" else GlobalExperts)(channels, config)

    def forward(self, visible_B1HW: Tensor, infrared_B1HW: Tensor, attention_Bxhw: Tensor | None = None) -> Fused:
        """(B, 1, H, W) twice and the attention -> the fused image, and the loads and weights of the gates.

        Raises ValueError for attention of another batch size or with other than one or two maps.
        """
        dense = [self.visible(visible_B1HW), self.infrared(infrared_B1HW)]
        mixed: dict[str, Mixed] = {}
        if self.foreground is not None and self.background is not None:
            foreground, background = self._part(dense, attention_Bxhw)
            mixed |= {"foreground": self.foreground(*foreground), "background": self.background(*background)}
        out = self.global_experts(torch.cat([*dense, *(local.features for local in mixed.values())], 1))
        mixed["global"] = out if isinstance(out, Mixed) else Mixed(out)
        loads = {name: part.load for name, part in mixed.items() if part.load is not None}
        gates = {name: part.gates for name, part in mixed.items() if part.gates is not None}
        return Fused(mixed["global"].features, loads, gates)

    def local_maps(
        self, visible_B1HW: Tensor, infrared_B1HW: Tensor, attention_Bxhw: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return every local expert's features of the "foreground" and the "background": (B, N, C, H, W) each.

        Raises ValueError where an ablation has no local experts.
        """
        if not isinstance(self.foreground, LocalExperts) or not isinstance(self.background, LocalExperts):
            raise ValueError(f"a MoE-Fusion with the ablation {self.config.ablation} has no local experts")
        parts = self._part([self.visible(visible_B1HW), self.infrared(infrared_B1HW)], attention_Bxhw)
        return {"foreground": self.foreground.maps(*parts[0]), "background": self.background.maps(*parts[1])}

    def _part(self, dense: list[Tensor], attention: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """Return the encoders' last features times the attention, and times 1 - it: [visible, infrared] twice."""
        last = [features[:, -self.config.width :] for features in dense]
        attention_B1HW = self._attend(attention, last[0])
        return [x * attention_B1HW for x in last], [x * (1 - attention_B1HW) for x in last]

    def _attend(self, attention_Bxhw: Tensor | None, like_BCHW: Tensor) -> Tensor:
        """Return one map (B, 1, H, W) of the size and type of the features."""
        batch, _, *size = like_BCHW.shape
        if attention_Bxhw is None:
            attention_Bxhw = like_BCHW.new_full((batch, 1, 1, 1), 0.5)
        shape = tuple(attention_Bxhw.shape)
        if len(shape) != 4 or shape[0] != batch or shape[1] not in (1, 2):
            raise ValueError(f"attention must have the shape ({batch}, 1 or 2, h, w), not {shape}")
        maps = F.interpolate(attention_Bxhw.detach().float(), size, mode="bilinear", align_corners=False)
        if self.attention is not None:
            maps = self.attention(maps.expand(-1, 2, -1, -1)).clamp(0, 1)
        return maps.amax(1, keepdim=True).to(like_BCHW.dtype)


def attention_convs() -> nn.Conv2d:
    """Return a 3x3 convolution for each of the two maps, as the identity, so training starts from the maximum."""
    both = nn.Conv2d(2, 2, 3, padding=1, padding_mode="replicate", groups=2)
    assert both.bias is not None
    with torch.no_grad():
        both.weight.zero_()[:, :, 1, 1] = 1
        both.bias.zero_()
    return both
