"""The training loop, without Ray: an epoch over any iterable of batches, validation, and what must be saved to go on.

Parallel training only changes three things, which come in from outside: the wrapped network whose forward is called
(`wrap`), the mean of numbers over the workers (`reduce`), and each worker's own batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fusion import checkpoint, metrics
from fusion.config import to_dict
from fusion.errors import UserError
from fusion.models.registry import MODELS
from fusion.seeds import derive_torch_seed
from fusion.training import losses
from fusion.training.configs import OptimConfig, scale_for_batch, worker_batch_size
from fusion.training.crops import Batch
from fusion.training.first_stage import follow_first_stage
from fusion.training.recipes import Recipe
from fusion.training.stages import STAGES

Numbers = dict[str, float]


def learning_rate(optim: OptimConfig, progress: float, epochs: int = 1) -> float:
    """Return the rate at `progress`, 0..1 over all steps of the run.

    It is a linear warm-up, then half a cosine from `lr` to `lr * final_lr_ratio`. With milestones: a tenth from each of
    those epochs on, instead of the cosine.
    """
    if progress < optim.warmup_fraction:
        return optim.lr * (progress / optim.warmup_fraction)
    if optim.milestones:
        return optim.lr * 0.1 ** sum(progress * epochs >= milestone for milestone in optim.milestones)
    rest = min((progress - optim.warmup_fraction) / max(1 - optim.warmup_fraction, 1e-9), 1.0)
    return optim.lr * (optim.final_lr_ratio + (1 - optim.final_lr_ratio) * 0.5 * (1 + math.cos(math.pi * rest)))


def check_validation(recipe: Recipe) -> None:
    """Raise UserError where the recipe's validation asks for a metric that is unknown."""
    unknown = [name for name in recipe.validation.metrics if name not in metrics.METRICS]
    if unknown:
        known = ", ".join(metrics.METRICS)
        raise UserError(f"validation.metrics: unknown metric {unknown[0]!r}. Known: {known}.")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device itself computes bfloat16: GPUs since 2020, CPUs with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in names)


def adam(model: nn.Module, optim: OptimConfig) -> torch.optim.Adam:
    """Return Adam for the parameters that are trained."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.Adam(trainable, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay)


def optimizer_step(loss: torch.Tensor, model: nn.Module, optimiser: torch.optim.Optimizer, optim: OptimConfig) -> None:
    """Take one step down the gradient of `loss`, clipped to a norm of `optim.max_grad_norm`."""
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    if optim.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.max_grad_norm)
    optimiser.step()


def loss_terms(
    stage: str, network: nn.Module, batch: Batch, autocast: AbstractContextManager[Any] | None = None
) -> losses.Terms:
    """Return the named loss terms of the stage, in float32, of one forward pass under `autocast`."""
    with autocast or nullcontext():
        output = STAGES[stage].call(network, batch)
    return losses.TERMS[STAGES[stage].loss](output, batch)


@dataclass
class Engine:
    """A recipe being trained. `batches_per_epoch` sets the pace of the learning rate; `rank` only seeds gate noise.

    `workers`: how many train together, each on batches of `configs.worker_batch_size`.
    """

    recipe: Recipe
    batches_per_epoch: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    workers: int = 1
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network
    reduce: Callable[[Numbers], Numbers] = lambda numbers: numbers  # sums over the workers
    epoch: int = 0  # finished epochs
    notes: tuple[str, ...] = ()  # what a user should know of how it starts
    cpu_bf16: bool = False  # train in bfloat16 on a CPU that computes it too, as on GPUs

    def __post_init__(self) -> None:
        torch.manual_seed(derive_torch_seed(self.recipe.seed, "weights"))
        self.model = self.build().to(self.device)
        self.optimiser = adam(self.model, self.recipe.optim)
        self.bf16 = has_bfloat16(self.device) and (self.device.type == "cuda" or self.cpu_bf16)
        self._network: nn.Module | None = None

    def build(self) -> nn.Module:
        """Make the network of the recipe, with random weights. UserError: validation asks for an unknown metric."""
        check_validation(self.recipe)
        return MODELS[self.recipe.model_name].build(self.recipe.model)

    @property
    def stage(self) -> str:
        """A key of STAGES."""
        return self.recipe.model.stage

    @property
    def network(self) -> nn.Module:
        """The model as it is called: wrapped once, after weights were loaded."""
        if self._network is None:
            self._network = self.wrap(self.model)
        return self._network

    @property
    def effective_batch_size(self) -> int:
        """The batch of all workers together."""
        return self.workers * worker_batch_size(self.recipe.batch_size, self.workers)

    def start_from(self, folder: Path) -> None:
        """Take the restoration network of a stage-1 checkpoint, for stage 2.

        UserError: its settings are not those of this recipe.
        """
        follow_first_stage(self.recipe, folder)
        checkpoint.load_weights(self.model, folder, only="restoration.")

    def train_epoch(
        self, batches: Iterable[Batch], on_step: Callable[[int, losses.Terms], None] | None = None
    ) -> Numbers:
        """Train one pass. Return the mean of each loss term, "data_time_s", "step_time_s" and images, over all workers.

        `on_step(step, latest terms)` is called after every step. Raises UserError at a loss that is not finite.
        """
        self.model.train()
        sums: dict[str, torch.Tensor] = {}
        wait = busy = 0.0
        count = images = 0
        clock = time.perf_counter()
        for batch in batches:
            start = time.perf_counter()
            wait += start - clock
            progress = (self.epoch + min((count + 0.5) / self.batches_per_epoch, 1.0)) / self.recipe.epochs
            self.set_learning_rate(progress)
            # Gate noise is named by where it is used, so a resumed run draws what an undisturbed one would.
            torch.manual_seed(derive_torch_seed(self.recipe.seed, "gates", self.epoch, count, self.rank))
            batch = self._move(batch)
            latest = self.step(batch)
            for name, value in latest.items():
                sums[name] = sums.get(name, 0) + value.detach().float()
            count += 1
            images += len(next(iter(batch.values())))
            clock = time.perf_counter()
            busy += clock - start
            if on_step is not None:
                on_step(count, latest)
        self.epoch += 1
        numbers = {name: float(value) for name, value in sums.items()} | {"steps": count, "images": images}
        numbers = self.reduce(numbers | {"data_time_s": wait, "step_time_s": busy})
        steps = numbers.pop("steps")
        extra = ("images", "data_time_s", "step_time_s")
        return {k: v if k in extra else v / max(steps, 1) for k, v in numbers.items()} | {"steps": steps}

    def step(self, batch: Batch) -> losses.Terms:
        """Run forward, backward and one step of the optimiser. Return the named terms, "loss" first."""
        latest = loss_terms(self.stage, self.network, batch, self._autocast())
        loss = losses.total(latest, self.recipe.loss)
        optimizer_step(loss, self.model, self.optimiser, self.recipe.optim)
        return {"loss": loss} | latest

    def set_learning_rate(self, progress: float) -> None:
        """Set the learning rate to that at `progress`, 0..1, of the run."""
        self._set_rate(self.optimiser, self.recipe.optim, progress)

    def _set_rate(self, optimiser: torch.optim.Optimizer, optim: OptimConfig, progress: float) -> None:
        scale = scale_for_batch(optim, self.recipe.batch_size, self.effective_batch_size)
        for group in optimiser.param_groups:
            group["lr"] = scale * learning_rate(optim, progress, self.recipe.epochs)

    def add_attention(self, batch: Batch) -> Batch:
        """Return the batch with the attention maps that fusion takes in validation: none here."""
        return batch

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> Numbers:
        """Return the means of metrics over all images of all workers, each against the clean pair.

        Restoring: PSNR and SSIM, and the PSNR of the degraded input ("psnr_input"). Fusing: Q_abf, VIF, EN. And those
        that the recipe adds.
        """
        stage = STAGES[self.stage]
        names = tuple(dict.fromkeys((*stage.metrics, *self.recipe.validation.metrics)))
        self.model.eval()
        sums: Numbers = {}
        for batch in batches:
            batch = self.add_attention(self._move(batch))
            with self._autocast():
                image = stage.call(self.model, batch).image
            first, second = (_eight_bit(batch[name]) for name in stage.truth)
            results = metrics.score(_eight_bit(image), first, second, names)
            if stage.before:
                results["psnr_input"] = metrics.score(_eight_bit(batch[stage.before]), first, second, ("psnr",))["psnr"]
            for name, values in results.items():
                finite = values[torch.isfinite(values)]
                sums[name] = sums.get(name, 0.0) + float(finite.sum())
                sums[f"{name}_n"] = sums.get(f"{name}_n", 0.0) + finite.numel()
        sums = self.reduce(sums)
        return {name: sums[name] / sums[f"{name}_n"] for name in sums if sums.get(f"{name}_n")}

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        """Write a checkpoint of this moment; `state` joins the epoch in its state.json."""
        state = {"epoch": self.epoch} | state
        name = self.recipe.model_name
        checkpoint.save(folder, name, self.model, recipe=to_dict(self.recipe), state=state, optimiser=self.optimiser)

    def resume(self, folder: Path) -> None:
        """Read weights, moments and epoch of a checkpoint of this run."""
        checkpoint.load_weights(self.model, folder)
        checkpoint.load_optimiser(self.model, self.optimiser, folder)
        self.epoch = checkpoint.read_state(folder)["epoch"]

    def _move(self, batch: Batch) -> Batch:
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)


def _eight_bit(image_B1HW: torch.Tensor) -> torch.Tensor:
    """[0, 1] -> 0..255, clipped and rounded, as the image would be stored."""
    return (image_B1HW.float().clamp(0, 1) * 255).round()
