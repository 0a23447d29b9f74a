"""duskfuse train RECIPE: a recipe on a corpus, with Ray Train.

    duskfuse train tgecnet-restore --corpus DIR --out DIR
    duskfuse train tgecnet-fuse --corpus DIR --from STAGE_1_RUN --out DIR
    duskfuse train tgecnet --corpus DIR --out DIR            both: stage 1 in OUT/restore, stage 2 in OUT
    duskfuse train best.json --corpus DIR --out DIR          a recipe in a file, as `duskfuse tune` leaves the best

`train_loop` is what each worker does. The same command goes on where a killed run stopped. OUT/checkpoint is the
finished model, OUT/run.json says how it was made.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from detection.moefusion.recipes import JointRecipe
from fusion import checkpoint, storage
from fusion.config import to_dict
from fusion.data.corpus import Manifest, open_corpus
from fusion.errors import UserError
from fusion.legacy import upgrade_history
from fusion.seeds import derive_seed
from fusion.training.engine import check_validation
from fusion.training.first_stage import follow_first_stage
from fusion.training.recipes import Recipe
from fusion.training.stages import STAGES
from fusion.training.two_stage import RESTORE, AnyRecipe, TwoStageRecipe
from workflows.cluster.connect import connect, resources
from workflows.console import log_progress
from workflows.outputs import Lease, claim_output, write_json
from workflows.provenance import provenance
from workflows.train import detection_metric
from workflows.train.options import Args
from workflows.train.tracking.callbacks import logger_callbacks
from workflows.train.trainer import (
    TrainJob,
    batch_norm_workers,
    copy_checkpoint,
    default_num_workers,
    fit,
    plan_batch,
    steps_per_epoch,
)
from workflows.train.two_stage import stage_options
from workflows.train.worker import TrainSettings, train_loop

if TYPE_CHECKING:
    from ray.train import UserCallback

READING_CPUS = 0.25


def run(
    args: Args,
    command: list[str],
    *,
    verbose: bool = True,
    take_lease: bool = True,
    threads: int = 0,
    callbacks: Sequence[UserCallback] = (),
) -> None:
    """Train, or resume a training, and put the finished model in OUT/checkpoint.

    `verbose`: workers print lines about epochs. `take_lease`: hold OUT's; a trial does without, as the search holds its
    own and kills trials. `threads`: of each worker, 0: shared evenly. `callbacks` are added to the loggers.
    """
    recipe: AnyRecipe = args.recipe
    if isinstance(recipe, TwoStageRecipe):
        both = stage_options(args, recipe)
        manifest = open_corpus(args.corpus)
        for one in both:
            check_recipe(one, manifest)
        for one in both:
            run(one, command)
        return
    manifest = open_corpus(args.corpus)
    check_recipe(args, manifest)
    if missing := manifest.missing():
        raise UserError(
            f"{args.corpus}: shard {missing[0]} is gone or damaged. Delete what is left of it and run the same "
            "`duskfuse corpus` again."
        )
    settings = {"recipe": to_dict(args.recipe), "corpus": manifest.content, "init_checkpoint": None}
    if STAGES[args.recipe.model.stage].continues:
        if args.start is None:
            raise UserError(f"{args.recipe.name} starts from stage 1: give --from, the run of its restore recipe.")
        recipe, settings["init_checkpoint"] = with_first_stage(args.recipe, args.start, args.given)
        args = replace(args, recipe=recipe)
        settings["recipe"] = to_dict(recipe)
    elif args.start is not None:
        raise UserError(f"{args.recipe.name} starts afresh; --from is for stage 2 of TG-ECNet.")
    loggers = logger_callbacks(args.out, settings, args.recipe.epochs, mlflow=args.mlflow, wandb=args.wandb)
    claim_output(args.out, "settings.json", settings, "run", beside=(f"{RESTORE}/",))
    run_file = storage.join(args.out, "run.json")
    if storage.exists(run_file):
        print(f"{args.out} is finished; its model is in {storage.join(args.out, 'checkpoint')}")
        return

    connect()
    plan = plan_workers(args)
    steps = check_steps(args, manifest, plan.workers)
    batch = plan_batch(args.recipe.batch_size, args.recipe.optim, plan.workers)
    start = time.time()
    with Lease(args.out) if take_lease else nullcontext():
        log_progress(
            f"{args.recipe.name}: {args.recipe.epochs} epochs of {steps} steps, "
            f"{plan.workers} {'GPU' if plan.gpu else 'CPU'} worker{'s' if plan.workers > 1 else ''}, {batch}"
        )
        saved = fit(train_job(args, manifest, plan.workers, verbose, threads, (*loggers, *callbacks)))
        with saved.as_directory() as folder:
            copy_checkpoint(folder, storage.join(args.out, "checkpoint"))
            history = upgrade_history(checkpoint.read_state(Path(folder))["history"])
        about = {
            "provenance": provenance(["train", *command]),
            "settings": settings,
            "workers": plan.workers,
            "batch": to_dict(batch),
            "history": history,
        }
        if isinstance(args.recipe, JointRecipe):
            about["detectors_batch"] = to_dict(
                plan_batch(args.recipe.batch_size, args.recipe.detectors_optim, plan.workers)
            )
        write_json(run_file, about)
    log_progress(f"trained {len(history)} epochs in {time.time() - start:.0f} s")
    print(f"{args.out}: the model is in {storage.join(args.out, 'checkpoint')}")


def check_recipe(args: Args, manifest: Manifest) -> None:
    """Raise UserError for what the recipe asks of metrics, the corpus or the detector that they have not."""
    check_validation(args.recipe)
    check_steps(args, manifest, 1)
    if args.detector is not None:
        detection_metric.check(args.detector, args.recipe)


def check_steps(args: Args, manifest: Manifest, workers: int) -> int:
    """Return the steps of an epoch. Raises UserError when the corpus is too small for one."""
    rows = manifest.rows("train")
    steps = steps_per_epoch(rows, args.recipe, workers)
    if not steps:
        batch = plan_batch(args.recipe.batch_size, args.recipe.optim, workers).batch_size
        raise UserError(
            f"{args.corpus} has {rows} training samples: too few for a batch of {batch} at "
            f"{args.recipe.crops.per_image} crops each. Lower --recipe.batch-size or --workers, or add samples."
        )
    return steps


def with_first_stage(recipe: Recipe, start: str, given: Sequence[str] | None) -> tuple[Recipe, str]:
    """Return the recipe of stage 2 with what is not `given` as in the stage 1 at `start`, and its fingerprint.

    Raises UserError when it is no stage 1, or what is given is not as there.
    """
    folder = checkpoint.fetch(start)
    followed = follow_first_stage(recipe, folder, given)
    before, now = asdict(recipe.model), asdict(followed.model)
    if words := ", ".join(f"model.{name} {now[name]}" for name in now if now[name] != before[name]):
        log_progress(f"{recipe.name}: {words}, as in stage 1")
    return followed, checkpoint.load(folder).fingerprint


@dataclass(frozen=True)
class WorkerPlan:
    """How many workers train, the CPUs of each, and whether each has a GPU."""

    workers: int
    cpus: float
    gpu: bool


def plan_workers(args: Args) -> WorkerPlan:
    """Plan the workers of a run on this cluster. Raises UserError when the cluster cannot hold them."""
    cpus, gpus = resources()
    batch_size = args.recipe.batch_size
    has_batch_norm = isinstance(args.recipe, JointRecipe) or args.recipe.model_name == "aenet"
    workers = args.workers or (batch_norm_workers if has_batch_norm else default_num_workers)(batch_size)
    if gpus and workers > gpus:
        raise UserError(f"{workers} workers were asked for, the cluster has {gpus} GPUs. Lower --workers.")
    each = worker_cpus(args, workers)
    if workers * each + READING_CPUS > cpus:
        raise UserError(
            f"{workers} workers of {each:g} CPUs leave none of the cluster's {cpus:g} for reading data. Lower one."
        )
    return WorkerPlan(workers, each, bool(gpus))


def worker_cpus(args: Args, workers: int) -> float:
    """Return the CPUs of each of so many workers."""
    return args.cpus_per_worker or min(1.0, 0.5 * resources()[0] / workers)


def train_job(
    args: Args, manifest: Manifest, workers: int, verbose: bool, threads: int, callbacks: tuple[UserCallback, ...]
) -> TrainJob[TrainSettings]:
    """Return the training for Ray Train, which reads the shards of the corpus by Ray Data."""
    import ray.data
    from ray.data import ExecutionOptions, FileShuffleConfig
    from ray.train import DataConfig

    filesystem = storage.resolve(args.corpus)[0]
    paths = [storage.resolve(path)[1] for path in manifest.paths("train")]
    dataset = ray.data.read_parquet(
        paths,
        filesystem=filesystem,
        shuffle=FileShuffleConfig(seed=derive_seed(args.recipe.seed, "shards") % 2**32),
        num_cpus=READING_CPUS,  # it waits for storage more than it computes, and must not starve on a small machine
    )
    return TrainJob(
        out=args.out,
        loop=train_loop,
        settings=TrainSettings(
            recipe=args.recipe,
            corpus=storage.absolute(manifest.root),
            rows=manifest.rows("train"),
            start=None if args.start is None else storage.absolute(args.start),
            detector=None if args.detector is None else storage.absolute(args.detector),
            verbose=verbose,
        ),
        workers=workers,
        batch_size=args.recipe.batch_size,
        worker_cpus=lambda number: worker_cpus(args, number),
        spare_cpus=READING_CPUS,
        node_timeout=args.node_timeout,
        max_failures=args.max_failures,
        threads=threads,
        callbacks=callbacks,
        datasets={"train": dataset},
        dataset_config=DataConfig(execution_options=ExecutionOptions(preserve_order=True)),
    )
