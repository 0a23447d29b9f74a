"""The configs of the networks. They need no torch, so that command lines are read at once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from fusion.errors import UserError

AENET_BLOCKS = (  # the keys of `aenet.BLOCKS`
    "gcb", "cnn", "separable", "squeeze", "squeeze_gcb", "squeeze2_gcb", "inception", "gcb_inception", "pool", "plain"
)  # fmt: skip


@dataclass(frozen=True)
class AENetConfig:
    """The AE-Netv2 by default. Everything scales with `width`, the channels of f; `plain` has three eighths of it."""

    stage: ClassVar[str] = "aenet"

    block: str = "gcb"
    width: int = 64

    def __post_init__(self) -> None:
        if self.block not in AENET_BLOCKS:
            raise UserError(f"model.block is {self.block!r}; it must be one of {', '.join(AENET_BLOCKS)}")
        if self.width < 8 or self.width % 8:
            raise UserError(f"model.width is {self.width}; it must be a positive multiple of 8")


ABLATIONS = ("none", "no_mole", "no_moge", "att_local")
ATTENTION_MODES = ("max", "conv")
GATE_INPUTS = ("pooled", "layer_norm", "standardised")


@dataclass(frozen=True)
class MoEFusionConfig:
    """The paper's E4K2 by default. `experts` is N, `top_k` is K, in MoLE and in MoGE.

    ablation        "no_mole": no local features, MoGE takes the dense ones alone. "no_moge": one decoder in its place.
                    "att_local": a 1x1 convolution of the attention-weighted features in place of each MoLE.
    attention_mode  "max": maximum of both maps. "conv": a 3x3 convolution of each first, as in the paper's text.
    gate_inputs     what the gates make of the pooled features. "pooled": nothing, as in the paper; after training all
                    images then choose the same experts. "layer_norm", "standardised": see `fusion.models.experts`.
    gate_bias_rate  above 0: balance by a bias for the choice, see there; the loads' weights may then be 0
    """

    stage: ClassVar[str] = "moefusion"

    experts: int = 4
    top_k: int = 2
    grid: tuple[int, int] = (15, 20)  # rows and columns that the gates see
    ablation: str = "none"
    attention_mode: str = "max"
    gate_inputs: str = "pooled"
    gate_bias_rate: float = 0.0
    width: int = 16  # channels of a layer of an encoder; its dense features have four times as many
    decoder_widths: tuple[int, int, int] = (64, 32, 16)

    def __post_init__(self) -> None:
        if self.experts < 2:
            raise UserError(f"model.experts (N) is {self.experts}; it must be at least 2, for two modalities")
        if not 1 <= self.top_k <= self.experts:
            raise UserError(f"model.top_k (K) is {self.top_k} of {self.experts} experts (N); it must be 1..N")
        if self.ablation not in ABLATIONS:
            raise UserError(f"model.ablation is {self.ablation!r}; it must be one of {', '.join(ABLATIONS)}")
        if self.attention_mode not in ATTENTION_MODES:
            known = ", ".join(ATTENTION_MODES)
            raise UserError(f"model.attention_mode is {self.attention_mode!r}; it must be one of {known}")
        if self.gate_inputs not in GATE_INPUTS:
            raise UserError(f"model.gate_inputs is {self.gate_inputs!r}; it must be one of {', '.join(GATE_INPUTS)}")
        if not 0 <= self.gate_bias_rate < float("inf"):
            raise UserError(f"model.gate_bias_rate is {self.gate_bias_rate}; it must be at least 0")
        if self.width < 2 or self.width % 2:
            raise UserError(f"model.width is {self.width}; it must be a positive multiple of 2")
        for name in ("grid", "decoder_widths"):
            if min(getattr(self, name)) < 1:
                raise UserError(f"model.{name} is {getattr(self, name)}; it must be at least 1 throughout")


TGECNET_STAGES = ("restore", "fuse")
INITIALISATIONS = ("published", "scaled")
AT_LEAST_ONE = ("heads", "prompt_atoms", "prompt_width", "bank_maps", "bank_channels", "bank_sizes", "bank_heads")


@dataclass(frozen=True)
class TGECNetConfig:
    """The paper's network by default. `experts` is N, `top_k` is K, in every gate; that of stage 2 may have its own.

    Stage 2 holds stage 1, frozen: all fields but those of FUSION_FIELDS must be those that stage 1 was trained with.

    residual        theta and gamma at the start; 0.5 starts from the average of the restored images
    prompt_padding  zeros around the image in the first two convolutions of a task prompt: 0 as in the authors' files.
                    With 1 a border counts that is not in the image.
    initialisation  "published": as in the authors' files, gates from a normal distribution of deviation 1, all
                    convolutions as PyTorch makes them. "scaled": gates by 1 / sqrt(inputs), so that their scores are
                    of the size of the noise and no expert is settled from the start; the last convolution by 0.1, so
                    that training starts near the residual
    """

    FUSION_FIELDS: ClassVar[tuple[str, ...]] = (
        "stage", "residual", "fusion_experts", "fusion_top_k", "initialisation"
    )  # fmt: skip

    stage: str = "restore"
    width: int = 48
    blocks: tuple[int, int, int, int] = (4, 6, 6, 8)
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    refinement: int = 4
    expansion: float = 2.66
    experts: int = 11
    top_k: int = 6
    prompt_atoms: int = 32
    prompt_width: int = 256
    bank_maps: int = 5
    bank_channels: tuple[int, int, int] = (64, 128, 320)  # decoder entries at levels 2, 3, 4
    bank_sizes: tuple[int, int, int] = (64, 32, 16)
    bank_heads: int = 4
    residual: float = 1.0
    fusion_experts: int = 0  # N of the gate of stage 2; 0: `experts`
    fusion_top_k: int = 0  # K of it; 0: `top_k`
    prompt_padding: int = 0
    initialisation: str = "published"

    def __post_init__(self) -> None:
        if self.stage not in TGECNET_STAGES:
            raise UserError(f"model.stage is {self.stage!r}; it must be one of {', '.join(TGECNET_STAGES)}")
        if self.initialisation not in INITIALISATIONS:
            known = ", ".join(INITIALISATIONS)
            raise UserError(f"model.initialisation is {self.initialisation!r}; it must be one of {known}")
        if self.prompt_padding not in (0, 1):
            raise UserError(f"model.prompt_padding is {self.prompt_padding}; it must be 0 or 1")
        if not 1 <= self.top_k <= self.experts:
            raise UserError(f"model.top_k (K) is {self.top_k} of {self.experts} experts (N); it must be 1..N")
        if self.stage == "restore" and (self.fusion_experts or self.fusion_top_k):
            raise UserError("model.fusion_experts and model.fusion_top_k are of the gate of stage 2; leave them at 0")
        if min(self.fusion_experts, self.fusion_top_k) < 0 or self.fusion_gate[1] > self.fusion_gate[0]:
            experts, top_k = self.fusion_gate
            raise UserError(f"model.fusion_top_k (K of stage 2) is {top_k} of {experts} experts (N); it must be 1..N")
        if self.width < 4 or self.width % 4:
            raise UserError(f"model.width is {self.width}; it must be a positive multiple of 4")
        for name in ("blocks", "refinement", *AT_LEAST_ONE):
            value, least = getattr(self, name), int(name in AT_LEAST_ONE)
            if min(value if isinstance(value, tuple) else (value,)) < least:
                raise UserError(f"model.{name} is {value}; it must be at least {least}")
        if not self.width * self.expansion >= 1:
            raise UserError(f"model.expansion is {self.expansion}; it must leave a hidden channel of {self.width}")
        widths = [self.width * 2**level for level in range(4)]
        for channels, heads in zip([*widths, 2 * self.width], [*self.heads, self.heads[0]], strict=True):
            if channels % heads:
                raise UserError(f"model.heads: {channels} channels cannot be shared by {heads} heads")
        for bank, channels in zip(self.bank_channels, (2 * self.width, 4 * self.width, 8 * self.width), strict=True):
            if (bank + channels) % self.bank_heads:
                raise UserError(f"model.bank_channels: {bank} + {channels} is not a multiple of {self.bank_heads}")

    @property
    def fusion_gate(self) -> tuple[int, int]:
        """N and K of the gate of stage 2."""
        return self.fusion_experts or self.experts, self.fusion_top_k or self.top_k

    def restoration_fields(self) -> dict[str, Any]:
        """Return the fields that shape stage 1."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in self.FUSION_FIELDS}


@dataclass(frozen=True)
class BlendNetConfig:
    """`widths`: channels at a half, a quarter, ... of the size."""

    stage: ClassVar[str] = "blend"

    widths: tuple[int, ...] = (24, 32, 48)

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise UserError(f"model.widths is {self.widths}; it must have a width of at least 1 for every level")
