"""Loggers of a training: the numbers of every epoch go to TensorBoard and, where asked, to MLflow or Weights & Biases.

All three are callbacks of Ray Train, which run beside the training in Ray's controller; the numbers are those of all
workers. A resumed training shows every epoch once: what a logger has not seen, it takes from the history in the
checkpoint. A logger that fails says so once, and the training goes on.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from fusion import storage
from fusion.errors import UserError
from fusion.secrets import mask_secrets_in
from workflows.train.tracking.base import Numbers
from workflows.train.tracking.servers import MLflow, WandB
from workflows.train.tracking.tensorboard import TensorBoard

if TYPE_CHECKING:
    from ray.train import UserCallback


def logger_callbacks(
    out: str, settings: Numbers, epochs: int, *, mlflow: str | None = None, wandb: str | None = None
) -> list[UserCallback]:
    """Return the callbacks of a training in OUT, for a `TrainJob`: TensorBoard, and those asked for.

    `mlflow`: URI of a tracking server; `wandb`: name of a project. `settings` are shown beside the numbers, without
    secrets. Raises UserError where a package is missing.
    """
    for option, package in (("mlflow", mlflow), ("wandb", wandb)):
        if package is not None and importlib.util.find_spec(option) is None:
            raise UserError(f"--{option} needs a package that is not here: pip install 'duskfuse[{option}]'.")
    out = storage.absolute(out)
    settings = mask_secrets_in(settings)

    callbacks: list[UserCallback] = [TensorBoard(out, settings)]
    if mlflow is not None:
        callbacks.append(MLflow(out, settings, epochs, mlflow))
    if wandb is not None:
        callbacks.append(WandB(out, settings, epochs, wandb))
    return callbacks
