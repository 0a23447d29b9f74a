"""The training of an evolution with Ray Train, and what a network forgets of its earlier labels."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fusion import checkpoint, storage
from fusion.config import fingerprint, from_dict, to_dict
from fusion.data.finding import PairRef
from fusion.data.pairs import BadPair, read_pair
from fusion.errors import UserError
from fusion.images.decode import decode
from fusion.images.formats import BadImage
from fusion.training.configs import AENetLoss
from fusion.training.crops import training_batches, validation_batches
from fusion.training.engine import Engine, Numbers, loss_terms
from fusion.training.evolution import LabelledSample
from fusion.training.losses import total
from fusion.training.recipes import Recipe
from workflows.cluster.connect import connect
from workflows.cluster.parallel import in_parallel
from workflows.console import log_progress
from workflows.evolve.store import image_path, read_labels
from workflows.outputs import claim_output
from workflows.provenance import provenance
from workflows.train import trainer
from workflows.train.collectives import all_reduce_sum
from workflows.train.elastic import WorkerConfig
from workflows.train.epochs import EpochReport, resume, run_epochs
from workflows.train.tracking.callbacks import logger_callbacks
from workflows.train.trainer import prepare_model, steps_per_epoch
from workflows.train.worker import format_epoch

MEMORY = 2**31  # bytes of decoded images a worker keeps


class LabelledPairs:
    """Pairs with their labels, read once and kept while they fit in memory."""

    def __init__(self, rows: Sequence[dict]) -> None:
        self.rows = rows
        self.kept: dict[int, Any] = {}
        self.bytes = 0

    def __iter__(self) -> Iterator:
        for place, row in enumerate(self.rows):
            sample = self.kept.get(place)
            if sample is None:
                sample = read(row)
                size = sample.visible.nbytes + sample.infrared.nbytes + sample.label.nbytes
                if self.bytes + size <= MEMORY:
                    self.kept[place] = sample
                    self.bytes += size
            yield sample


def read(row: dict):
    """A pair and its label as a sample."""

    ref = row["ref"]
    try:
        pair = read_pair(from_dict(PairRef, ref))
        label = decode(storage.read_bytes(row["label"])).pixels
    except BadPair as error:
        raise UserError(f"{ref['key']}: {error}") from error
    except (OSError, BadImage) as error:
        raise UserError(
            f"the label {row['label']} cannot be read ({error}). On several nodes --out must be a shared folder or "
            "s3://; if the file is damaged, delete scores.json in its folder, and it is made again."
        ) from error
    images = (pair.visible, pair.infrared, pair.visible, pair.infrared)
    text = (ref["key"], ref["split"], ref["source"], "clean", "0", "{}")
    return LabelledSample(*text, *images, pair.boxes, pair.classes, label=label)


def train(
    out: str, recipe: Recipe, rows: list[dict], start: str | None, command: list[str], workers: int = 0
) -> list[dict]:
    """Train, or go on; OUT/checkpoint is the network. Returns the history."""

    settings = {"recipe": to_dict(recipe), "labels": fingerprint(rows), "init_checkpoint": None}
    if start is not None:
        settings["init_checkpoint"] = checkpoint.load(checkpoint.fetch(start), expect="aenet").fingerprint
    claim_output(out, "settings.json", settings, "training")
    done = storage.join(out, "run.json")
    if storage.exists(done):
        return json.loads(storage.read_bytes(done))["history"]
    connect()
    learn = [row for row in rows if row["ref"]["split"] == "train"]
    workers = trainer.batch_norm_workers(recipe.batch_size, workers)
    steps = trainer.steps_per_epoch(len(learn), recipe, workers)
    if not steps:
        raise UserError(f"{len(learn)} labelled pairs are too few for a batch of {recipe.batch_size}. Lower it.")
    log_progress(
        f"{recipe.name}: {recipe.epochs} epochs of {steps} steps of {recipe.batch_size} patches, {workers} workers"
    )
    begin = time.time()
    job = trainer.TrainJob(
        out=out,
        loop=train_loop,
        settings=EvolveSettings(recipe, tuple(rows), start and storage.absolute(start)),
        workers=workers,
        batch_size=recipe.batch_size,
        worker_cpus=trainer.cpus_per_worker,
        callbacks=tuple(logger_callbacks(out, settings, recipe.epochs)),
    )
    saved = trainer.fit(job)
    with saved.as_directory() as folder:
        trainer.copy_checkpoint(folder, storage.join(out, "checkpoint"))
        history = checkpoint.read_state(Path(folder))["history"]
    about = {"provenance": provenance(command), "settings": settings, "workers": workers, "history": history}
    storage.write_text(done, json.dumps(about, indent=1) + "\n")
    log_progress(f"trained {len(history)} epochs in {time.time() - begin:.0f} s")
    return history


@dataclass(frozen=True)
class EvolveSettings:
    """What a worker needs: labelled pairs (as `read` takes them), and a network to start from."""

    recipe: Recipe
    rows: tuple[dict[str, Any], ...]
    start: str | None = None


def train_loop(settings: EvolveSettings, worker: WorkerConfig) -> str | None:
    """Train on a worker's share of the pairs, one patch or more of each an epoch. Returns why it ended early, if so."""
    import ray.train

    recipe = settings.recipe
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    learn = [row for row in settings.rows if row["ref"]["split"] == "train"]
    engine = Engine(
        recipe,
        steps_per_epoch(len(learn), recipe, size),
        ray.train.torch.get_device(),
        rank,
        wrap=prepare_model,
        reduce=all_reduce_sum(size),
    )
    report = EpochReport(lambda numbers: format_epoch(recipe, numbers))

    def start() -> None:
        if settings.start is not None:
            checkpoint.load_weights(engine.model, checkpoint.fetch(settings.start))

    history = resume(engine, report, start)
    own = LabelledPairs(learn[rank : len(learn) // size * size : size])  # as many for every worker
    held = [row for row in settings.rows if row["ref"]["split"] == "val"][: recipe.validation.rows][rank::size]
    held_out = list(validation_batches(LabelledPairs(held), engine.stage, recipe.validation.size))

    def make_batches(epoch: int) -> Iterable[Any]:
        return training_batches(own, engine.stage, recipe.crops, recipe.batch_size // size, recipe.seed, epoch)

    def validate() -> Numbers:
        is_due = engine.epoch == recipe.epochs or engine.epoch % 5 == 0
        return engine.validate(held_out) if is_due else {}

    return run_epochs(engine, history, make_batches, validate, worker, report)


def forgetting(out: str, number: int, refs) -> dict[str, float] | None:
    """The loss on the labels of the evolution before, by the network before and by the one after; None for the first.

    On the validation pairs, whole images; on the training pairs where there are none.
    """

    if number == 1:
        return None
    old = read_labels(out, number - 1)
    chosen = [ref for ref in refs if ref.key in old and ref.split == "val"]
    chosen = chosen or [ref for ref in refs if ref.key in old]
    rows = [
        {"ref": asdict(ref), "label": storage.absolute(image_path(out, old[ref.key].method, ref.key))} for ref in chosen
    ]
    means = {}
    for name, n in (("before", number - 1), ("after", number)):
        where = storage.absolute(storage.join(out, "evolutions", str(n), "training", "checkpoint"))
        losses = [one["loss"] for one in in_parallel([row | {"checkpoint": where} for row in rows], loss_of)]
        means[name] = sum(losses) / len(losses)
    return means | {"pairs": len(rows)}


def loss_of(row: dict) -> list[dict]:
    """The loss of a network on one labelled pair, in a Ray task."""

    torch.set_num_threads(1)
    model = checkpoint.load(checkpoint.fetch(row["checkpoint"])).model
    with torch.inference_mode():
        for batch in validation_batches([read(row)], "aenet", 10**6):
            return [{"loss": float(total(loss_terms("aenet", model, batch), AENetLoss()))}]
    return []
