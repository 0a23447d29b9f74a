"""duskfuse train RECIPE: a recipe on a corpus, with Ray Train.

    duskfuse train tgecnet-restore --corpus DIR --out DIR
    duskfuse train tgecnet-fuse --corpus DIR --from STAGE_1_RUN --out DIR
    duskfuse train best.json --corpus DIR --out DIR          a recipe in a file, as `duskfuse tune` leaves the best

`train_loop` is what each worker does. The same command goes on where a killed run stopped. OUT/checkpoint is the
finished model, OUT/run.json says how it was made.
"""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from detection.moefusion.recipes import JointRecipe
from fusion import checkpoint, storage
from fusion.config import to_dict
from fusion.data.corpus import open_corpus
from fusion.errors import UserError
from fusion.models.registry import MODELS
from fusion.seeds import derive_seed
from fusion.training.engine import check_validation
from fusion.training.stages import STAGES
from workflows.cluster.connect import connect, resources
from workflows.console import log_progress
from workflows.outputs import Lease, claim_output
from workflows.provenance import provenance
from workflows.train import detection_metric, trainer
from workflows.train.options import Args
from workflows.train.tracking.callbacks import logger_callbacks
from workflows.train.trainer import batch_norm_workers, copy_checkpoint, default_num_workers
from workflows.train.trainer import steps_per_epoch as count
from workflows.train.worker import train_loop

READING_CPUS = 0.25


def run(args: Args, command: list[str], quiet: bool = False, **options: Any) -> None:
    """Train, or go on training, and put the finished model in OUT/checkpoint.

    `quiet`: no lines about epochs. `options` go to `training.fit`.
    """

    check_validation(args.recipe)
    manifest = open_corpus(args.corpus)
    steps_of(args, manifest, 1)
    if missing := manifest.missing():
        raise UserError(
            f"{args.corpus}: shard {missing[0]} is gone or damaged. Delete what is left of it and run the same "
            "`duskfuse corpus` again."
        )
    settings = {"recipe": to_dict(args.recipe), "corpus": manifest.content, "init_checkpoint": None}
    if STAGES[args.recipe.model.stage].continues:
        if args.start is None:
            raise UserError(f"{args.recipe.name} starts from stage 1: give --from, the run of its restore recipe.")
        settings["init_checkpoint"] = check_start(args)
    elif args.start is not None:
        raise UserError(f"{args.recipe.name} starts afresh; --from is for stage 2 of TG-ECNet.")
    if args.detector is not None:
        detection_metric.check(args.detector, args.recipe)
    watching = logger_callbacks(args.out, settings, args.recipe.epochs, mlflow=args.mlflow, wandb=args.wandb)
    claim_output(args.out, "settings.json", settings, "run")
    done = storage.join(args.out, "run.json")
    if storage.exists(done):
        print(f"{args.out} is finished; its model is in {storage.join(args.out, 'checkpoint')}")
        return

    connect()
    workers, _, use_gpu = plan_workers(args)
    steps_of(args, manifest, workers)
    options["callbacks"] = [*watching, *options.get("callbacks", ())]
    start = time.time()
    with nullcontext() if quiet else Lease(args.out):  # a search has its own, and kills its trials
        result = fit(args, manifest, workers, use_gpu, quiet, **options)
        with result.checkpoint.as_directory() as folder:
            copy_checkpoint(folder, storage.join(args.out, "checkpoint"))
            history = checkpoint.read_state(Path(folder))["history"]
        about = {
            "provenance": provenance(["train", *command]),
            "settings": settings,
            "workers": workers,
            "history": history,
        }
        storage.write_text(done, json.dumps(about, indent=1) + "\n")
    log_progress(f"trained {len(history)} epochs in {time.time() - start:.0f} s")
    print(f"{args.out}: the model is in {storage.join(args.out, 'checkpoint')}")


def steps_of(args: Args, manifest, workers: int) -> int:
    """Steps of an epoch; every worker gets as many rows. UserError when the corpus is too small for one."""

    rows = manifest.rows("train")
    steps = count(rows, args.recipe, workers)
    if not steps:
        raise UserError(
            f"{args.corpus} has {rows} training samples: too few for a batch of {args.recipe.batch_size} "
            f"at {args.recipe.crops.per_image} crops each. Lower --recipe.batch-size or build a larger corpus."
        )
    return steps


def check_start(args: Args) -> str:
    """The fingerprint of the stage-1 checkpoint. UserError when it is not one or does not fit the recipe."""

    folder = checkpoint.fetch(args.start)
    loaded = checkpoint.load(folder, expect=args.recipe.model_name)
    if loaded.model.config.stage != "restore":
        raise UserError(f"{args.start} is a stage-2 checkpoint; --from wants stage 1, as tgecnet-restore trains it.")
    checkpoint.load_weights(MODELS[args.recipe.model_name].build(args.recipe.model), folder, only="restoration.")
    return loaded.fingerprint


def plan_workers(args: Args) -> tuple[int, float, bool]:
    """How many workers, the CPUs of each, and whether each has a GPU. UserError when the cluster cannot hold them."""

    cpus, gpus = resources()
    batch = args.recipe.batch_size
    normalises = isinstance(args.recipe, JointRecipe) or args.recipe.model_name == "aenet"
    workers = args.workers or (batch_norm_workers if normalises else default_num_workers)(batch)
    if batch % workers:
        raise UserError(
            f"a batch of {batch} cannot be shared by {workers} workers. Change --workers or the batch size."
        )
    if gpus and workers > gpus:
        raise UserError(f"{workers} workers were asked for, the cluster has {gpus} GPUs. Lower --workers.")
    each = cpus_of(args, workers)
    if workers * each + READING_CPUS > cpus:
        raise UserError(
            f"{workers} workers of {each:g} CPUs leave none of the cluster's {cpus:g} for reading data. Lower one."
        )
    return workers, each, bool(gpus)


def cpus_of(args: Args, workers: int) -> float:
    """The CPUs of each of so many workers."""
    return args.cpus_per_worker or min(1.0, 0.5 * resources()[0] / workers)


def fit(args: Args, manifest, workers: int, use_gpu: bool, quiet: bool, **options: Any):
    """The Ray Train run on the shards of the corpus."""
    import ray.data
    from ray.data import ExecutionOptions, FileShuffleConfig
    from ray.train import DataConfig

    fs = storage.resolve(args.corpus)[0]
    paths = [storage.resolve(path)[1] for path in manifest.paths("train")]
    data = ray.data.read_parquet(
        paths,
        filesystem=fs,
        shuffle=FileShuffleConfig(seed=derive_seed(args.recipe.seed, "shards") % 2**32),
        num_cpus=READING_CPUS,  # it waits for storage more than it computes, and must not starve on a small machine
    )
    log_progress(
        f"{args.recipe.name}: {args.recipe.epochs} epochs of {steps_of(args, manifest, workers)} steps of "
        f"{args.recipe.batch_size} crops, "
        f"{workers} {'GPU' if use_gpu else 'CPU'} worker{'s' if workers > 1 else ''}"
    )
    config = {
        "recipe": to_dict(args.recipe),
        "corpus": storage.absolute(manifest.root),
        "start": None if args.start is None else storage.absolute(args.start),
        "rows": manifest.rows("train"),
        "detector": None if args.detector is None else storage.absolute(args.detector),
        "quiet": quiet,
    }
    return trainer.fit(
        args.out,
        train_loop,
        config,
        workers,
        lambda number: cpus_of(args, number),
        batch=args.recipe.batch_size,
        patience=args.node_timeout,
        spare=READING_CPUS,
        max_failures=args.max_failures,
        datasets={"train": data},
        dataset_config=DataConfig(execution_options=ExecutionOptions(preserve_order=True)),
        **options,
    )
