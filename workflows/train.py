"""duskfuse train RECIPE: a recipe on a corpus, with Ray Train.

    duskfuse train tgecnet-restore --corpus DIR --out DIR
    duskfuse train tgecnet-fuse --corpus DIR --from STAGE_1_RUN --out DIR
    duskfuse train best.json --corpus DIR --out DIR          a recipe in a file, as `duskfuse tune` leaves the best

The loop itself is `fusion.engine`; here are its workers, its data, its checkpoints. The same command goes on where a
killed run stopped. OUT/checkpoint is the finished model, OUT/run.json says how it was made.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fusion.errors import UserError
from fusion.recipes import Recipe
from workflows.cluster import connect, quiet, resources, say

TICK_SECONDS = 10
UNSHOWN = ("images", "steps", "wait_s", "step_s")  # numbers of an epoch that are no losses
READING_CPUS = 0.25


@dataclass(frozen=True)
class Args:
    recipe: Recipe
    """Any field of the recipe can be set, as in --recipe.epochs 3 --recipe.model.top-k 4."""
    corpus: str
    """A finished corpus: a folder or s3://bucket/path."""
    out: str
    """Where the run goes: a folder or s3://bucket/path. Every node must reach it."""
    start: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """The stage-1 run or checkpoint that stage 2 starts from."""
    workers: int = 0
    """Training workers; 0: as many as share the batch evenly, at most one per GPU (without GPUs: per CPU, and 8; one
    for networks with batch norm)."""
    cpus_per_worker: float = 0
    """CPUs that Ray sets aside for a worker; 0: one, or less where reading data would have none left."""
    max_failures: int = 3
    """How often a run goes on by itself after a worker or node was lost."""
    wait_for_nodes: float = 300
    """Seconds to wait for a lost node before fewer workers go on by the same batch."""
    detector: str | None = None
    """A detector that `duskfuse detect` trained: validation adds its mean average precision on fused images."""
    mlflow: str | None = None
    """Also send the numbers of every epoch to MLflow: the URI of a tracking server. (TensorBoard needs no option: its
    files are in OUT/tensorboard.)"""
    wandb: str | None = None
    """Also send the numbers of every epoch to Weights & Biases: the name of a project."""


def kinds(name: str) -> tuple[type, type, dict]:
    """(recipe class, engine class, table of recipes): "fusion", or "joint", MoE-Fusion with its detectors."""
    if name == "joint":
        from detection import joint

        return joint.JointRecipe, joint.JointEngine, joint.RECIPES
    from fusion import engine, recipes

    return recipes.Recipe, engine.Engine, recipes.RECIPES


def main(arguments: list[str]) -> None:
    from workflows.cli import parse

    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        show_recipes("train")
        return
    recipe = find_recipe(first)
    # the same options, with the recipe's own class, so that each of its fields can be set
    options = make_dataclass(Args.__name__, [("recipe", type(recipe))], bases=(Args,), frozen=True)
    default = options(recipe=recipe, corpus=tyro.MISSING, out=tyro.MISSING)
    run(
        parse(options, f"train {first}", arguments[1:], default=default, config=(tyro.conf.AvoidSubcommands,)),
        arguments,
    )


def show_recipes(job: str) -> None:
    print(f"usage: duskfuse {job} RECIPE --corpus DIR --out DIR [options]\n\nrecipes:")
    for name, make in (kinds("fusion")[2] | kinds("joint")[2]).items():
        print(f"  {name:25} {(make.__doc__ or '').strip().splitlines()[0]}")
    print(f"\nor a recipe's file (.json, .yaml). duskfuse {job} RECIPE --help lists all options with its values.")


def find_recipe(name: str) -> Recipe:
    """A recipe by its name or out of a file (JSON or YAML, local or s3://). UserError: there is none."""
    for kind in ("fusion", "joint"):
        if name in kinds(kind)[2]:
            return kinds(kind)[2][name]()
    if not name.endswith((".json", ".yaml", ".yml")):
        known = ", ".join(kinds("fusion")[2] | kinds("joint")[2])
        raise UserError(f"unknown recipe {name!r}. Known: {known}, or a recipe's file (.json or .yaml).")
    import yaml

    from fusion import storage
    from fusion.config import from_dict

    try:
        settings = yaml.safe_load(storage.read_bytes(name))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"no recipe at {name}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{name} is not a recipe: {' '.join(str(error).split())[:200]}") from error
    kind = "joint" if isinstance(settings, dict) and "detectors" in settings else "fusion"
    return from_dict(kinds(kind)[0], settings, name)


def run(args: Args, command: list[str], quiet: bool = False, **options: Any) -> None:
    """Train, or go on training, and put the finished model in OUT/checkpoint.

    `quiet`: no lines about epochs. `options` go to `training.fit`.
    """
    from fusion import checkpoint, storage
    from fusion.config import to_dict
    from fusion.corpus import open_corpus
    from fusion.stages import STAGES
    from workflows import train_detect
    from workflows.folders import claim
    from workflows.stamps import stamp
    from workflows.training import publish
    from workflows.watch import watchers

    manifest = open_corpus(args.corpus)
    steps_of(args, manifest, 1)
    if missing := manifest.missing():
        raise UserError(
            f"{args.corpus}: shard {missing[0]} is gone or damaged. Delete what is left of it and run the same "
            "`duskfuse corpus` again."
        )
    settings = {"recipe": to_dict(args.recipe), "corpus": manifest.content, "from": None}
    if STAGES[args.recipe.model.stage].continues:
        if args.start is None:
            raise UserError(f"{args.recipe.name} starts from stage 1: give --from, the run of its restore recipe.")
        settings["from"] = check_start(args)
    elif args.start is not None:
        raise UserError(f"{args.recipe.name} starts afresh; --from is for stage 2 of TG-ECNet.")
    if args.detector is not None:
        train_detect.check(args.detector, args.recipe)
    watching = watchers(args.out, settings, args.recipe.epochs, mlflow=args.mlflow, wandb=args.wandb)
    claim(args.out, "settings.json", settings, "run")
    done = storage.join(args.out, "run.json")
    if storage.exists(done):
        print(f"{args.out} is finished; its model is in {storage.join(args.out, 'checkpoint')}")
        return

    connect()
    workers, _, use_gpu = plan_workers(args)
    steps_of(args, manifest, workers)
    options["callbacks"] = [*watching, *options.get("callbacks", ())]
    start = time.time()
    result = fit(args, manifest, workers, use_gpu, quiet, **options)
    with result.checkpoint.as_directory() as folder:
        publish(folder, storage.join(args.out, "checkpoint"))
        history = checkpoint.read_state(Path(folder))["history"]
    about = {"stamp": stamp(["train", *command]), "settings": settings, "workers": workers, "history": history}
    storage.write_text(done, json.dumps(about, indent=1) + "\n")
    say(f"trained {len(history)} epochs in {time.time() - start:.0f} s")
    print(f"{args.out}: the model is in {storage.join(args.out, 'checkpoint')}")


def steps_of(args: Args, manifest, workers: int) -> int:
    """Steps of an epoch; every worker gets as many rows. UserError when the corpus is too small for one."""
    from workflows.training import steps as count

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
    from fusion import checkpoint
    from fusion.models import MODELS

    folder = checkpoint.fetch(args.start)
    loaded = checkpoint.load(folder, expect=args.recipe.model_name)
    if loaded.model.config.stage != "restore":
        raise UserError(f"{args.start} is a stage-2 checkpoint; --from wants stage 1, as tgecnet-restore trains it.")
    checkpoint.load_weights(MODELS[args.recipe.model_name].build(args.recipe.model), folder, only="restoration.")
    return loaded.fingerprint


def plan_workers(args: Args) -> tuple[int, float, bool]:
    """How many workers, the CPUs of each, and whether each has a GPU. UserError when the cluster cannot hold them."""
    from workflows.training import batch_norm_workers, even_workers

    cpus, gpus = resources()
    batch = args.recipe.batch_size
    normalises = isinstance(args.recipe, kinds("joint")[0]) or args.recipe.model_name == "aenet"
    workers = args.workers or (batch_norm_workers if normalises else even_workers)(batch)
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

    from fusion import storage
    from fusion.config import to_dict
    from fusion.seeds import derive
    from workflows import training

    fs = storage.resolve(args.corpus)[0]
    paths = [storage.resolve(path)[1] for path in manifest.paths("train")]
    data = ray.data.read_parquet(
        paths,
        filesystem=fs,
        shuffle=FileShuffleConfig(seed=derive(args.recipe.seed, "shards") % 2**32),
        num_cpus=READING_CPUS,  # it waits for storage more than it computes, and must not starve on a small machine
    )
    say(
        f"{args.recipe.name}: {args.recipe.epochs} epochs of {steps_of(args, manifest, workers)} steps of "
        f"{args.recipe.batch_size} crops, "
        f"{workers} {'GPU' if use_gpu else 'CPU'} worker{'s' if workers > 1 else ''}"
    )
    config = {
        "recipe": to_dict(args.recipe),
        "kind": "joint" if isinstance(args.recipe, kinds("joint")[0]) else "fusion",
        "corpus": storage.absolute(manifest.root),
        "start": None if args.start is None else storage.absolute(args.start),
        "rows": manifest.rows("train"),
        "detector": None if args.detector is None else storage.absolute(args.detector),
        "quiet": quiet,
    }
    return training.fit(
        args.out,
        train_loop,
        config,
        workers,
        lambda number: cpus_of(args, number),
        batch=args.recipe.batch_size,
        patience=args.wait_for_nodes,
        spare=READING_CPUS,
        max_failures=args.max_failures,
        datasets={"train": data},
        dataset_config=DataConfig(execution_options=ExecutionOptions(preserve_order=True)),
        **options,
    )


def train_loop(config: dict[str, Any]) -> str | None:
    """One worker: epochs from where the last checkpoint stopped, each ending in a report to Ray.

    Returns why it ended before the last one, if it did.
    """
    import ray.train
    import torch

    from fusion import checkpoint
    from fusion.config import from_dict
    from fusion.corpus import open_corpus
    from fusion.crops import training_batches, validation_batches
    from workflows.elastic import crowded, leave
    from workflows.train_detect import Detected
    from workflows.training import steps, wrapped

    quiet()  # the lines below say the same, shorter
    if why := crowded(config):
        return why
    torch.set_num_threads(config["threads"])
    if config["quiet"]:
        sys.stdout = open(os.devnull, "w")  # of this worker's own process
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    recipe_kind, engine_kind, _ = kinds(config["kind"])
    recipe = from_dict(recipe_kind, config["recipe"], "recipe")
    device = ray.train.torch.get_device()
    batches_an_epoch = steps(config["rows"], recipe, size)
    engine = engine_kind(recipe, batches_an_epoch, device, rank, wrap=wrapped, reduce=sum_over(size))
    if rank == 0:
        for note in engine.notes:
            print(note, flush=True)
    history: list[dict[str, float]] = []
    saved = ray.train.get_checkpoint()
    if saved is not None:
        with saved.as_directory() as folder:
            engine.resume(Path(folder))
            history = checkpoint.read_state(Path(folder))["history"]
        if rank == 0:
            print(f"resumed after epoch {engine.epoch}", flush=True)
    elif config["start"] is not None:
        engine.start_from(checkpoint.fetch(config["start"]))

    samples = list(validation_samples(open_corpus(config["corpus"]), recipe.validation.rows, rank, size))
    held_out = list(validation_batches(samples, engine.stage, recipe.validation.size))
    detected = None if config["detector"] is None else Detected(config["detector"], samples, engine, size)
    del samples
    shard = ray.train.get_dataset_shard("train")
    while engine.epoch < recipe.epochs:
        epoch = engine.epoch
        begin = time.perf_counter()
        batches = training_batches(
            rows_of(shard), engine.stage, recipe.crops, recipe.batch_size // size, recipe.seed, epoch
        )
        tick = progress(recipe, epoch, batches_an_epoch) if rank == 0 else None
        numbers = {f"train/{k}": v for k, v in engine.train_epoch(batches, tick).items()}
        if rank == 0 and (missing := batches_an_epoch * size - numbers["train/steps"]) > 0:
            print(f"{recipe.name}  epoch {epoch + 1}: {missing:.0f} steps less than there are rows for", flush=True)
        numbers |= {f"val/{name}": value for name, value in engine.validate(held_out).items()}
        if detected is not None:
            numbers |= {f"val/{name}": value for name, value in detected().items()}
        end_epoch(engine, numbers, begin, history, rank)
        if engine.epoch < recipe.epochs and (why := leave(config)):
            return why
    return None


def end_epoch(engine, numbers: dict[str, float], begin: float, history: list[dict[str, float]], rank: int) -> None:
    """Complete the numbers of an epoch that began at `begin`, add them to the history, and report to Ray.

    The first worker saves a checkpoint and prints the line of the epoch.
    """
    import ray.train

    size = ray.train.get_context().get_world_size()
    numbers |= {"epoch": engine.epoch, "seconds": time.perf_counter() - begin, "workers": size}
    spent = max(numbers["train/wait_s"] + numbers["train/step_s"], 1e-9)  # by all workers together
    numbers["wait_share"] = numbers["train/wait_s"] / spent
    numbers["images_per_second"] = numbers["train/images"] * size / spent
    history.append(numbers)
    with tempfile.TemporaryDirectory() as folder:
        kept = None
        if rank == 0:
            engine.save(Path(folder), {"history": history})
            kept = ray.train.Checkpoint.from_directory(folder)
            print(line(engine.recipe, numbers), flush=True)
        ray.train.report(numbers, checkpoint=kept)


def rows_of(shard) -> Iterator:
    """Samples out of Ray Data, a few rows at a time."""
    from fusion.corpus import from_row

    for batch in shard.iter_batches(batch_size=4, batch_format="pyarrow", prefetch_batches=2):
        for row in batch.to_pylist():
            yield from_row(row)


def validation_samples(manifest, rows: int, rank: int, size: int) -> Iterator:
    """This worker's part of `rows` rows of the val split, evenly chosen; each shard is opened once."""
    from fusion.corpus import from_row, read_shard

    total = manifest.rows("val")
    chosen = sorted({i * total // rows for i in range(min(rows, total))})[rank::size] if total else []
    first = 0
    for path, shard in zip(manifest.paths("val"), (s for s in manifest.shards() if s["split"] == "val"), strict=True):
        inside = [i - first for i in chosen if first <= i < first + shard["rows"]]
        first += shard["rows"]
        if inside:
            yield from (from_row(row) for row in read_shard(path).take(inside).to_pylist())


def sum_over(size: int):
    """Sums of named numbers over all workers; names may be missing on some."""
    from workflows.training import everywhere

    def add(numbers: dict[str, float]) -> dict[str, float]:
        if size == 1:
            return numbers
        parts = everywhere(numbers, size)
        names = dict.fromkeys(name for part in parts for name in part)
        return {name: sum(part.get(name, 0.0) for part in parts) for name in names}

    return add


def progress(recipe: Recipe, epoch: int, steps: int):
    """Prints a line every few seconds."""
    last = time.perf_counter()

    def tick(step: int, latest: dict) -> None:
        nonlocal last
        if time.perf_counter() - last > TICK_SECONDS:
            last = time.perf_counter()
            shown = "  ".join(f"{name} {value.item():.4f}" for name, value in latest.items())
            print(f"{recipe.name}  epoch {epoch + 1}/{recipe.epochs}  step {step}/{steps}  {shown}", flush=True)

    return tick


def line(recipe: Recipe, numbers: dict[str, float]) -> str:
    """One line per epoch: losses, validation, speed of all workers, share of the time spent waiting for data."""
    losses, validation = (
        {name.partition("/")[2]: f"{value:.4g}" for name, value in numbers.items() if name.startswith(f"{split}/")}
        for split in ("train", "val")
    )
    terms = ", ".join(f"{name} {value}" for name, value in losses.items() if name not in ("loss", *UNSHOWN))
    shown = [f"{recipe.name}  epoch {numbers['epoch']}/{recipe.epochs} done in {numbers['seconds']:.0f} s"]
    shown += [f"loss {losses['loss']}" + (f" ({terms})" if terms else "")]
    shown += ["val " + ", ".join(f"{name} {value}" for name, value in validation.items())] if validation else []
    shown += [f"{numbers['images_per_second']:.1f} images/s", f"data wait {numbers['wait_share']:.0%}"]
    return "  ".join(shown)


if __name__ == "__main__":
    from workflows.cli import main as cli

    sys.exit(cli(["train", *sys.argv[1:]]))
