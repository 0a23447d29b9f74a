"""Noisy top-K gating, the mixture that decides per pixel and the one that decides once per image.

Shapes: B batch, C channels, H height, W width, T tokens, N experts, K experts kept, D token width, F hidden width,
G inputs of a gate, M images that chose an expert.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusion.models.mixture import mixture


class Routing(NamedTuple):
    """The decision of a gate: the K experts of each token and the log of their weights."""

    experts_TK: Tensor  # int64, in 0..N-1
    log_weights_TK: Tensor  # logsumexp over K is 0
    balance: Tensor  # scalar: CV^2(importance) + CV^2(load)


def squared_cv(values_N: Tensor) -> Tensor:
    """Return the squared coefficient of variation, var / mean^2 (unbiased variance); 0 for a single expert."""
    if values_N.numel() == 1:
        return values_N.new_zeros(())
    values_N = values_N.float()
    return values_N.var() / (values_N.mean().square() + 1e-10)


def noisy_top_k(clean_TN: Tensor, raw_std_TN: Tensor | None, top_k: int, bias_N: Tensor | None = None) -> Routing:
    """Keep the K largest of `clean + noise * std`, softmax over them. `bias_N` is added for the choice alone.

    std = softplus(raw_std) + 0.01; without `raw_std_TN` (evaluation) there is no noise.
    Importance is the sum of the weights, load the expected number of tokens that keep an expert if its own
    noise were drawn again (Shazeer et al. 2017, appendix A). With K = N every expert is always kept: no load term.
    """
    scores_TN = clean_TN.float()
    clean_TN = scores_TN if bias_N is None else scores_TN + bias_N
    experts = clean_TN.shape[1]
    noisy_TN, std_TN = clean_TN, None
    if raw_std_TN is not None:
        std_TN = F.softplus(raw_std_TN.float()) + 0.01
        noisy_TN = clean_TN + torch.randn_like(clean_TN) * std_TN
    top_TK, index_TK = noisy_TN.topk(min(top_k + 1, experts), dim=1)
    experts_TK = index_TK[:, :top_k]
    kept_TK = top_TK[:, :top_k] if bias_N is None else top_TK[:, :top_k] - bias_N[experts_TK]
    log_weights_TK = kept_TK.log_softmax(dim=1)

    weights_TN = torch.zeros_like(clean_TN).scatter(1, experts_TK, log_weights_TK.exp())
    balance = squared_cv(weights_TN.sum(0))
    if top_k < experts:
        if std_TN is None:
            load_N = (weights_TN > 0).float().sum(0)
        else:
            # An expert that is in must stay above the first one left out; one that is out must pass the last one in.
            first_out, last_in = top_TK[:, top_k, None], top_TK[:, top_k - 1, None]
            bar_TN = torch.where(noisy_TN > first_out, first_out, last_in)
            load_N = (0.5 * (1 + torch.erf((clean_TN - bar_TN) / (std_TN * math.sqrt(2))))).sum(0)
        balance = balance + squared_cv(load_N)
    return Routing(experts_TK, log_weights_TK, balance)


MIN_PROMPT_SIDE = 9  # pixels; two convolutions of 3 x 3 and stride 3 make one of it


class TaskPrompt(nn.Module):
    """A vector per image that tells which degradation it suffers from: soft look-up in a learned dictionary.

    `padding`: zeros around the map in the two convolutions of stride 3. Without, a map of less than `MIN_PROMPT_SIDE`
    pixels is first padded to it by its edge.
    """

    def __init__(self, channels: int, width: int, atoms: int, padding: int = 0) -> None:
        super().__init__()
        self.padding = padding
        act = nn.LeakyReLU(0.1)
        self.body = nn.Sequential(
            nn.Conv2d(channels, 64, 3, stride=3, padding=padding),
            act,
            nn.Conv2d(64, 64, 3, stride=3, padding=padding),
            act,
            nn.Conv2d(64, 64, 1),
            act,
            nn.Conv2d(64, 64, 1),
            act,
            nn.Conv2d(64, 32, 1),
        )
        self.choose = nn.Linear(32, atoms)
        self.atoms = nn.Parameter(torch.randn(atoms, width))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width)."""
        if not self.padding:
            down, right = (max(MIN_PROMPT_SIDE - side, 0) for side in image_BCHW.shape[-2:])
            if down or right:
                image_BCHW = F.pad(image_BCHW, (0, right, 0, down), mode="replicate")
        summary = self.body(image_BCHW).mean(dim=(2, 3))
        return F.gelu(self.choose(summary).softmax(dim=1) @ self.atoms)


class TaskMoE(nn.Module):
    """x + log sum_i g_i exp(E_i(x)) for every pixel; the gate sees the pixel and the image's task prompt.

    Each expert is D -> F -> D with GELU. Weights of all experts are stacked, so an expert that no token chose
    still takes part in the graph and gets a zero gradient (data-parallel training needs one for every parameter).
    `gate_std`: the deviation of the gate's weights at the start.
    """

    def __init__(
        self, width: int, prompt_width: int, experts: int, top_k: int, expansion: float, gate_std: float = 1.0
    ) -> None:
        super().__init__()
        hidden = int(width * expansion)
        self.top_k = top_k
        self.prompt = nn.Linear(prompt_width, width)
        self.gate = nn.Parameter(torch.randn(2 * width, experts) * gate_std)
        self.noise = nn.Parameter(torch.zeros(2 * width, experts))
        self.w1 = nn.Parameter(torch.empty(experts, width, hidden).uniform_(-1, 1) / math.sqrt(width))
        self.b1 = nn.Parameter(torch.empty(experts, hidden).uniform_(-1, 1) / math.sqrt(width))
        self.w2 = nn.Parameter(torch.empty(experts, hidden, width).uniform_(-1, 1) / math.sqrt(hidden))
        self.b2 = nn.Parameter(torch.empty(experts, width).uniform_(-1, 1) / math.sqrt(hidden))

    def route(self, tokens_TD: Tensor, prompt_BD: Tensor, batch: int) -> Routing:
        """Return the gate's choice for tokens (T, D) of `batch` images with prompts (B, D).

        [token, prompt] @ W is taken apart, so the prompt is multiplied once an image.
        """
        width = tokens_TD.shape[1]

        def scores(weight: Tensor) -> Tensor:
            token_BPN = (tokens_TD @ weight[:width]).view(batch, -1, weight.shape[1])
            return (token_BPN + (prompt_BD @ weight[width:])[:, None]).flatten(0, 1)

        return noisy_top_k(scores(self.gate), scores(self.noise) if self.training else None, self.top_k)

    def forward(self, x_BCHW: Tensor, prompt_BP: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W), (B, prompt width) -> (B, C, H, W) and the balance loss of this gate (scalar)."""
        batch, width, height, wide = x_BCHW.shape
        tokens_TD = x_BCHW.permute(0, 2, 3, 1).reshape(-1, width)
        routing = self.route(tokens_TD, self.prompt(prompt_BP), batch)
        y_TD = mixture(tokens_TD, routing.experts_TK, routing.log_weights_TK, self.w1, self.b1, self.w2, self.b2)
        return x_BCHW + y_TD.view(batch, height, wide, width).permute(0, 3, 1, 2), routing.balance


class RunningStandardiser(nn.Module):
    """Standardise every input over images: (x - mean) / std, by running statistics, in training as in evaluation.

    What all images have in common is taken out, so the scores of a linear gate are about 0 in the mean over images, for
    every expert, and what differs from image to image decides. Under data-parallel training the statistics are those of
    the first worker's images.
    """

    RATE = 0.05  # of the running means; at first they are plain means of all batches so far

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.mean_G: Tensor
        self.square_G: Tensor
        self.batches: Tensor
        self.register_buffer("mean_G", torch.zeros(inputs))
        self.register_buffer("square_G", torch.ones(inputs))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, x_BG: Tensor) -> Tensor:
        """(B, G) -> (B, G). In training the statistics first take in the batch."""
        if self.training:
            with torch.no_grad():
                self.batches += 1
                rate = (1 / self.batches).clamp_min(self.RATE)
                self.mean_G += rate * (x_BG.mean(0) - self.mean_G)
                self.square_G += rate * (x_BG.square().mean(0) - self.square_G)
        variance_G = (self.square_G - self.mean_G.square()).clamp_min(0)
        return (x_BG - self.mean_G) * (variance_G + 1e-5).rsqrt()


class ImageGate(nn.Module):
    """Noisy top-K softmax gate (Shazeer et al. 2017), one decision per image, from features pooled to a fixed grid.

    Weights start at zero, as there: at first noise alone chooses, so all experts get their share.

    Args:
        channels: Of the features.
        grid: Rows and columns that they are pooled to.
        experts: N.
        top_k: K.
        inputs: One of `fusion.models.configs.GATE_INPUTS`: "pooled", the pooled features G as they are, as in the
            paper. What they have in common then soon outweighs what differs, and without noise all images choose alike.
            "layer_norm" normalises each image's over G, "standardised" each of G over images; both divide by sqrt(G),
            so that a step of the optimiser does not grow with G.
        bias_rate: Above 0: experts are chosen by score + bias. After every training step the bias of one that was
            chosen less than its share, noise apart, grows by this, and that of the others falls (Wang et al. 2024, load
            balancing without an auxiliary loss). Weights come from the scores alone.
    """

    def __init__(
        self,
        channels: int,
        grid: tuple[int, int],
        experts: int,
        top_k: int,
        inputs: str = "pooled",
        bias_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.grid, self.top_k, self.inputs, self.bias_rate = grid, top_k, inputs, bias_rate
        width = channels * grid[0] * grid[1]
        self.choice = nn.Parameter(torch.zeros(width, experts))
        self.noise = nn.Parameter(torch.zeros(width, experts))
        self.standardiser = RunningStandardiser(width) if inputs == "standardised" else None
        self.bias_N: Tensor | None
        self.register_buffer("bias_N", torch.zeros(experts) if bias_rate else None)

    def normalised(self, pooled_BG: Tensor) -> Tensor:
        """Return the inputs of the linear scores: (B, G) -> (B, G)."""
        if self.inputs == "pooled":
            return pooled_BG
        if self.standardiser is not None:
            pooled_BG = self.standardiser(pooled_BG)
        else:
            pooled_BG = F.layer_norm(pooled_BG, pooled_BG.shape[1:])
        return pooled_BG / math.sqrt(pooled_BG.shape[1])

    def forward(self, features: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """(B, C, H, W), in parts or not -> weights (B, N), K of a row not zero, and the balance loss (scalar)."""
        pooled_BG = torch.cat([F.adaptive_avg_pool2d(part, self.grid) for part in features], 1).flatten(1)
        with torch.autocast(pooled_BG.device.type, enabled=False):  # a sum over thousands of inputs, in float32
            inputs_BG = self.normalised(pooled_BG.float())
            clean_BN = inputs_BG @ self.choice
            noise_BN = inputs_BG @ self.noise if self.training else None
            routing = noisy_top_k(clean_BN, noise_BN, self.top_k, self.bias_N)
            gates_BN = torch.zeros_like(clean_BN).scatter(1, routing.experts_TK, routing.log_weights_TK.exp())
            if self.bias_N is not None and self.training:
                chosen_BK = (clean_BN.detach() + self.bias_N).topk(self.top_k, dim=1).indices
                counts_N = chosen_BK.flatten().bincount(minlength=len(self.bias_N))
                self.bias_N += self.bias_rate * torch.sign(counts_N.float().mean() - counts_N)
        return gates_BN, routing.balance


def image_mixture(experts: Iterable[nn.Module], inputs: Sequence[Tensor], gates_BN: Tensor) -> Tensor:
    """Return sum_n gates[:, n] * expert_n(inputs[n]); an expert computes only the images that chose it.

    `inputs` are (B, C, H, W) for each expert, `gates_BN` (B, N) weights, 0 where it was not chosen -> (B, C', H, W).
    One that nobody chose runs on an empty batch: so its parameters are in the graph and get gradients of zero,
    without which data-parallel training would wait for them.
    """
    batch = gates_BN.shape[0]
    chosen_NB = (gates_BN.T > 0).tolist()  # the only wait for the device
    total: Tensor | None = None
    for n, (expert, x_BCHW) in enumerate(zip(experts, inputs, strict=True)):
        rows_M = torch.tensor([b for b in range(batch) if chosen_NB[n][b]], dtype=torch.int64, device=x_BCHW.device)
        everyone = len(rows_M) == batch
        y_MCHW = expert(x_BCHW if everyone else x_BCHW[rows_M])
        y_MCHW = y_MCHW * gates_BN[rows_M, n].to(y_MCHW.dtype)[:, None, None, None]
        if total is None:
            total = y_MCHW.new_zeros(batch, *y_MCHW.shape[1:])
        total = total + y_MCHW if everyone else total.index_add(0, rows_M, y_MCHW)
    assert total is not None  # there is an expert
    return total
