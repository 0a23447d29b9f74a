"""The training of an evolution with Ray Train, and what a network forgets of its earlier labels."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fusion import checkpoint, storage
from fusion.config import fingerprint, to_dict
from fusion.data.finding import PairRef
from fusion.data.pairs import BadPair, read_pair
from fusion.errors import UserError
from fusion.images.decode import decode
from fusion.images.formats import BadImage
from fusion.legacy import upgrade_history
from fusion.training.configs import AENetLoss, worker_batch_size
from fusion.training.crops import training_batches, validation_batches
from fusion.training.engine import Engine, Numbers, loss_terms
from fusion.training.evolution import LabelledSample
from fusion.training.losses import total
from fusion.training.recipes import Recipe
from workflows.cache import ImageCache
from workflows.cluster.connect import connect
from workflows.cluster.parallel import in_parallel
from workflows.console import log_progress
from workflows.evolve.store import Forgetting, LabelledPair, labelled_pairs, network_checkpoint, read_labels
from workflows.legacy import upgrade_result
from workflows.outputs import claim_output, write_json
from workflows.provenance import provenance
from workflows.train import trainer
from workflows.train.collectives import all_reduce_sum
from workflows.train.elastic import WorkerConfig
from workflows.train.epochs import EpochReport, resume, run_epochs
from workflows.train.tracking.callbacks import logger_callbacks
from workflows.train.trainer import prepare_model, steps_per_epoch
from workflows.train.worker import format_epoch


class LabelledDataset:
    """Pairs with their labels as samples; those that fit into memory are read once."""

    def __init__(self, pairs: Sequence[LabelledPair]) -> None:
        self.pairs = pairs
        self._cache = ImageCache(lambda index: read_sample(pairs[index]), image_bytes)

    def __iter__(self) -> Iterator[LabelledSample]:
        """Yield the samples in the order of the pairs."""
        return (self._cache[index] for index in range(len(self.pairs)))


def image_bytes(sample: LabelledSample) -> int:
    """Return the bytes of a sample's images."""
    return sum(image.nbytes for image in (sample.visible, sample.infrared, sample.label) if image is not None)


def read_sample(labelled: LabelledPair) -> LabelledSample:
    """Read a pair and its label. UserError where one cannot be read."""
    ref = labelled.ref
    try:
        pair = read_pair(ref)
        label = decode(storage.read_bytes(labelled.label)).pixels
    except BadPair as error:
        raise UserError(f"{ref.key}: {error}") from error
    except (OSError, BadImage) as error:
        raise UserError(
            f"the label {labelled.label} cannot be read ({error}). On several nodes --out must be a shared folder or "
            "s3://; if the file is damaged, delete scores.json in its folder, and it is made again."
        ) from error
    images = (pair.visible, pair.infrared, pair.visible, pair.infrared)
    text = (ref.key, ref.split, ref.source, "clean", "0", "{}")
    return LabelledSample(*text, *images, pair.boxes, pair.classes, label=label)


def labels_fingerprint(pairs: Sequence[LabelledPair]) -> str:
    """Return the fingerprint of pairs and the paths of their labels."""
    return fingerprint([to_dict(pair) for pair in pairs])


def train(
    out: str,
    recipe: Recipe,
    pairs: Sequence[LabelledPair],
    start: str | None,
    command: list[str],
    workers: int = 0,
) -> list[dict[str, float]]:
    """Train, or go on; OUT/checkpoint is the network. Returns the numbers of every epoch.

    start: the checkpoint whose weights the training starts from.
    """
    settings = {"recipe": to_dict(recipe), "labels": labels_fingerprint(pairs), "init_checkpoint": None}
    if start is not None:
        settings["init_checkpoint"] = checkpoint.load(checkpoint.fetch(start), expect="aenet").fingerprint
    claim_output(out, "settings.json", settings, "training")
    done = storage.join(out, "run.json")
    if storage.exists(done):
        history: list[dict[str, float]] = upgrade_result(json.loads(storage.read_bytes(done)))["history"]
        return history
    connect()
    learn = [pair for pair in pairs if pair.ref.split == "train"]
    workers = trainer.batch_norm_workers(recipe.batch_size, workers)
    steps = trainer.steps_per_epoch(len(learn), recipe, workers)
    if not steps:
        raise UserError(
            f"{len(learn)} labelled pairs are too few for a batch of {recipe.batch_size} on {workers} workers. "
            "Lower --recipe.batch-size or --workers."
        )
    batch = trainer.plan_batch(recipe.batch_size, recipe.optim, workers)
    log_progress(
        f"{recipe.name}: {recipe.epochs} epochs of {steps} steps, {workers} worker{'s' if workers > 1 else ''}, {batch}"
    )
    begin = time.time()
    job = trainer.TrainJob(
        out=out,
        loop=train_loop,
        settings=EvolveSettings(recipe, tuple(pairs), start and storage.absolute(start)),
        workers=workers,
        batch_size=recipe.batch_size,
        worker_cpus=trainer.cpus_per_worker,
        callbacks=tuple(logger_callbacks(out, settings, recipe.epochs)),
    )
    saved = trainer.fit(job)
    with saved.as_directory() as folder:
        trainer.copy_checkpoint(folder, storage.join(out, "checkpoint"))
        history = upgrade_history(checkpoint.read_state(Path(folder))["history"])
    about = {
        "provenance": provenance(command),
        "settings": settings,
        "workers": workers,
        "batch": to_dict(batch),
        "history": history,
    }
    write_json(done, about)
    log_progress(f"trained {len(history)} epochs in {time.time() - begin:.0f} s")
    return history


@dataclass(frozen=True)
class EvolveSettings:
    """What a worker needs: labelled pairs, and a network to start from."""

    recipe: Recipe
    pairs: tuple[LabelledPair, ...]
    start: str | None = None


def train_loop(settings: EvolveSettings, worker: WorkerConfig) -> str | None:
    """Train on a worker's share of the pairs, one patch or more of each an epoch. Returns why it ended early, if so."""
    import ray.train

    recipe = settings.recipe
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    learn = [pair for pair in settings.pairs if pair.ref.split == "train"]
    engine = Engine(
        recipe,
        steps_per_epoch(len(learn), recipe, size),
        ray.train.torch.get_device(),
        rank,
        size,
        wrap=prepare_model,
        reduce=all_reduce_sum(size),
    )
    report = EpochReport(lambda numbers: format_epoch(recipe, numbers))

    def start() -> None:
        if settings.start is not None:
            checkpoint.load_weights(engine.model, checkpoint.fetch(settings.start))

    history = resume(engine, report, start)
    own = LabelledDataset(learn[rank : len(learn) // size * size : size])  # as many for every worker
    held = [pair for pair in settings.pairs if pair.ref.split == "val"][: recipe.validation.rows][rank::size]
    held_out = list(validation_batches(LabelledDataset(held), engine.stage, recipe.validation.size))

    def make_batches(epoch: int) -> Iterable[Any]:
        share = worker_batch_size(recipe.batch_size, size)
        for number in range(epoch * recipe.repeats, (epoch + 1) * recipe.repeats):
            yield from training_batches(own, engine.stage, recipe.crops, share, recipe.seed, number)

    def validate() -> Numbers:
        is_due = engine.epoch == recipe.epochs or engine.epoch % 5 == 0
        return engine.validate(held_out) if is_due else {}

    return run_epochs(engine, history, make_batches, validate, worker, report)


@dataclass(frozen=True)
class LossTask:
    """A labelled pair on which a network is measured."""

    pair: LabelledPair
    checkpoint: str


def measure_forgetting(out: str, number: int, refs: Sequence[PairRef]) -> Forgetting | None:
    """Measure the loss on the labels of the evolution before, by the network before and the one after.

    On the validation pairs, whole images; on the training pairs where there are none. None for the first evolution.
    """
    if number == 1:
        return None
    old = read_labels(out, number - 1)
    pairs = labelled_pairs(out, [ref for ref in refs if ref.split == "val"], old) or labelled_pairs(out, refs, old)
    means = []
    for n in (number - 1, number):
        path = storage.absolute(network_checkpoint(out, n))
        losses = list(in_parallel([LossTask(pair, path) for pair in pairs], measure_loss))
        means.append(sum(losses) / len(losses))
    return Forgetting(before=means[0], after=means[1], pairs=len(pairs))


def measure_loss(task: LossTask) -> list[float]:
    """Compute the loss of a network on one labelled pair, in a Ray task."""
    torch.set_num_threads(1)
    model = checkpoint.load(checkpoint.fetch(task.checkpoint)).model
    with torch.inference_mode():
        return [
            float(total(loss_terms("aenet", model, batch), AENetLoss()))
            for batch in validation_batches([read_sample(task.pair)], "aenet", 10**6)
        ]
