"""TG-ECNet (ICML 2025): restoration, then fusion, of degraded pairs with experts gated by a task prompt.

Stage "restore" is a U-shaped transformer for one grey channel; stage "fuse" runs that network, frozen, on both
modalities and fuses what its last decoder level sees. One class serves both: a stage-2 model holds its stage 1.

Shapes: B batch, C channels, H height, W width. Images are grey, float, in [0, 1].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusion.models.configs import TGECNetConfig
from fusion.models.experts import TaskMoE, TaskPrompt
from fusion.models.restormer import Block, Down, PromptBank, Up, blocks, conv


class Restored(NamedTuple):
    """The output of stage 1."""

    image: Tensor  # (B, 1, H, W)
    features: Tensor  # (B, 2 * width, H, W) of the padded size, the level-1 decoder's
    balance: Tensor  # scalar, summed over the gates


class Fused(NamedTuple):
    """The output of stage 2."""

    image: Tensor  # (B, 1, H, W)
    visible: Tensor  # (B, 1, H, W), restored
    infrared: Tensor  # (B, 1, H, W), restored
    balance: Tensor  # scalar, of the fusion head's gate


def pad_to(x_BCHW: Tensor, multiple: int) -> Tensor:
    """Pad right and below to a multiple, by reflection (by replication where the image is too small for it)."""
    height, width = x_BCHW.shape[-2:]
    down, right = -height % multiple, -width % multiple
    if not (down or right):
        return x_BCHW
    mode = "reflect" if down < height and right < width else "replicate"
    return F.pad(x_BCHW, (0, right, 0, down), mode=mode)


def output_conv(channels: int, config: TGECNetConfig) -> nn.Conv2d:
    """Return the last convolution; "scaled" starts it small, near the residual."""
    last = conv(channels, 1, 3)
    if config.initialisation == "scaled":
        with torch.no_grad():
            last.weight.mul_(0.1)
    return last


def task_moe(width: int, config: TGECNetConfig, experts: int, top_k: int) -> TaskMoE:
    """Return a task mixture for maps of `width` channels."""
    c = config
    gate_std = 1.0 if c.initialisation == "published" else 1 / math.sqrt(2 * width)
    return TaskMoE(width, c.prompt_width, experts, top_k, c.expansion, gate_std)


class Restoration(nn.Module):
    """Stage 1: a U-Net of restoration transformer blocks; it learns what to add to a degraded grey image.

    Two kinds of prompt tell it what to undo. The task prompt is a vector per image, made of the degraded image; the
    gates of the mixtures before each encoder level see it when they choose experts for a pixel. The prompt banks, one
    on the way up from each level, are learned maps, mixed by what the features say: they are concatenated with the
    features, and a block and a 1x1 convolution (`mix`) bring both together.

    Level l works at 1 / 2^(l - 1) of the size, with 2^(l - 1) * width channels. The decoder of level 1 has twice as
    many, as its skip is concatenated and not reduced.
    """

    def __init__(self, config: TGECNetConfig) -> None:
        super().__init__()
        c = config
        w1, w2, w3, w4 = (c.width * 2**level for level in range(4))

        def stack(level: int, channels: int) -> nn.Sequential:
            return blocks(c.blocks[level], channels, c.heads[level], c.expansion)

        self.embed = conv(1, w1, 3)
        self.prompt = TaskPrompt(1, c.prompt_width, c.prompt_atoms, c.prompt_padding)
        gate = c.experts, c.top_k
        self.moe1, self.encoder1, self.down1 = task_moe(w1, c, *gate), stack(0, w1), Down(w1)
        self.moe2, self.encoder2, self.down2 = task_moe(w2, c, *gate), stack(1, w2), Down(w2)
        self.moe3, self.encoder3, self.down3 = task_moe(w3, c, *gate), stack(2, w3), Down(w3)
        self.latent = stack(3, w4)

        b2, b3, b4 = c.bank_channels
        s2, s3, s4 = c.bank_sizes
        self.bank4 = PromptBank(w4, b4, s4, c.bank_maps)
        self.mix4 = nn.Sequential(Block(w4 + b4, c.bank_heads, c.expansion), conv(w4 + b4, w3, 1))
        self.up4, self.reduce3, self.decoder3 = Up(w3), conv(w2 + w3, w3, 1), stack(2, w3)
        self.bank3 = PromptBank(w3, b3, s3, c.bank_maps)
        self.mix3 = nn.Sequential(Block(w3 + b3, c.bank_heads, c.expansion), conv(w3 + b3, w3, 1))
        self.up3, self.reduce2, self.decoder2 = Up(w3), conv(w2 + w2, w2, 1), stack(1, w2)
        self.bank2 = PromptBank(w2, b2, s2, c.bank_maps)
        self.mix2 = nn.Sequential(Block(w2 + b2, c.bank_heads, c.expansion), conv(w2 + b2, w2, 1))
        self.up2, self.decoder1 = Up(w2), stack(0, w2)
        self.refine = blocks(c.refinement, w2, c.heads[0], c.expansion)
        self.output = output_conv(w2, c)

    def forward(self, image_B1HW: Tensor) -> Restored:
        """(B, 1, H, W), H and W multiples of 8 -> the restored image, and the features of the level-1 decoder.

        embed -> moe1, encoder1 -> skip1                              decoder1(up2, skip1) -> refine -> output + image
        down1 -> moe2, encoder2 -> skip2               decoder2(reduce2(up3, skip2)) -> bank2, mix2 -> up2
        down2 -> moe3, encoder3 -> skip3   decoder3(reduce3(up4, skip3)) -> bank3, mix3 -> up3
        down3 -> latent -> bank4, mix4 -> up4
        """
        prompt = self.prompt(image_B1HW)
        embedded = self.embed(image_B1HW).contiguous(memory_format=torch.channels_last)
        x, balance1 = self.moe1(embedded, prompt)
        skip1 = self.encoder1(x)
        x, balance2 = self.moe2(self.down1(skip1), prompt)
        skip2 = self.encoder2(x)
        x, balance3 = self.moe3(self.down2(skip2), prompt)
        skip3 = self.encoder3(x)
        x = self.latent(self.down3(skip3))

        x = self.up4(self.mix4(torch.cat([x, self.bank4(x)], 1)))
        x = self.decoder3(self.reduce3(torch.cat([x, skip3], 1)))
        x = self.up3(self.mix3(torch.cat([x, self.bank3(x)], 1)))
        x = self.decoder2(self.reduce2(torch.cat([x, skip2], 1)))
        x = self.up2(self.mix2(torch.cat([x, self.bank2(x)], 1)))
        features = self.decoder1(torch.cat([x, skip1], 1))
        image = self.output(self.refine(features)) + image_B1HW
        return Restored(image, features, balance1 + balance2 + balance3)


class FusionHead(nn.Module):
    """Stage 2: the features of both restored modalities meet, pass a fusion-aware mixture, and become one image."""

    def __init__(self, config: TGECNetConfig) -> None:
        super().__init__()
        c = config
        width = 2 * c.width
        self.alpha = nn.Parameter(torch.ones(width, 1, 1))
        self.beta = nn.Parameter(torch.ones(width, 1, 1))
        self.theta = nn.Parameter(torch.full((), c.residual))
        self.gamma = nn.Parameter(torch.full((), c.residual))
        self.prompt = TaskPrompt(width, c.prompt_width, c.prompt_atoms, c.prompt_padding)
        self.moe = task_moe(width, c, *c.fusion_gate)
        self.decoder = blocks(c.blocks[0], width, c.heads[0], c.expansion)
        self.refine = blocks(c.refinement, width, c.heads[0], c.expansion)
        self.output = output_conv(width, c)

    def forward(self, features: Tensor, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fused image (B, 1, H, W) and the balance of the gate (scalar).

        `features`: alpha * visible + beta * infrared, (B, 2 width, H, W). `visible`, `infrared`: the restored images,
        (B, 1, H, W).
        """
        x, balance = self.moe(features, self.prompt(features))
        x = self.output(self.refine(self.decoder(x)))
        return x + self.theta * visible + self.gamma * infrared, balance


class TGECNet(nn.Module):
    """Both stages. `forward(image)` restores one modality; `forward(visible, infrared)` fuses (stage "fuse" only).

    Any size: images are padded by reflection to multiples of 8 and the result is cropped back. In stage "fuse" the
    restoration network is frozen: no gradient, no gate noise, whatever `train()` says.
    """

    def __init__(self, config: TGECNetConfig) -> None:
        super().__init__()
        self.config = config
        self.restoration = Restoration(config)
        self.fusion = FusionHead(config) if config.stage == "fuse" else None
        if self.fusion is not None:
            self.restoration.requires_grad_(False)
        self.to(memory_format=torch.channels_last)
        self.train(self.training)

    def train(self, mode: bool = True) -> TGECNet:
        """Set training mode; the restoration network of a stage-2 model stays in evaluation mode."""
        super().train(mode)
        if self.fusion is not None:
            self.restoration.eval()
        return self

    def forward(self, visible_B1HW: Tensor, infrared_B1HW: Tensor | None = None) -> Restored | Fused:
        """Restore one image (B, 1, H, W), or fuse two of a size. Raises ValueError for two images at stage 1."""
        height, width = visible_B1HW.shape[-2:]
        if infrared_B1HW is None:
            image, features, balance = self.restoration(pad_to(visible_B1HW, 8))
            return Restored(image[..., :height, :width], features, balance)
        if self.fusion is None:
            raise ValueError("a stage-1 TG-ECNet restores one image at a time; it has no fusion head")
        alpha, beta = self.fusion.alpha, self.fusion.beta
        padded = pad_to(visible_B1HW, 8), pad_to(infrared_B1HW, 8)
        features, visible, infrared = self._restore_both(*padded, alpha, beta)
        image, balance = self.fusion(features, visible, infrared)
        image, visible, infrared = (t[..., :height, :width] for t in (image, visible, infrared))
        return Fused(image, visible, infrared, balance)

    def _restore_both(
        self, visible: Tensor, infrared: Tensor, alpha: Tensor, beta: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return alpha * visible + beta * infrared features (B, 2 width, H, W), and both restored images."""
        with torch.no_grad():
            if self.training:
                image, features, _ = self.restoration(torch.cat([visible, infrared]))
                (vi, ir), (first, second) = image.chunk(2), features.chunk(2)
            else:  # one after the other: half the memory for large images
                vi, first, _ = self.restoration(visible)
        total = alpha * first
        if not self.training:
            del first
            with torch.no_grad():
                ir, second, _ = self.restoration(infrared)
        return torch.addcmul(total, beta, second), vi, ir
