"""duskfuse tune RECIPE: a search over fields of a recipe, with Ray Tune; every trial is a run of `duskfuse train`.

    duskfuse tune moefusion-tiny --corpus DIR --preset experts --seeds 2 --out DIR     the grid of the paper's Fig. 7
    duskfuse tune moefusion --corpus DIR --preset nka --samples 40 --out DIR           N, K, alpha and balance at once
    duskfuse tune tgecnet-fuse --from RUN1 --corpus DIR --out DIR \\
        --space model.experts=2..16 --space model.top-k=1..model.experts --space loss.gradient=1..40:log

All trials read one finished corpus. The same command goes on after a kill and keeps what was finished; more --samples
or --seeds add trials. OUT/trials/NAME are the runs, OUT/trials.csv and summary.csv the tables, OUT/figures the
pictures, OUT/best.json the best recipe, which `duskfuse train` takes; OUT/tune.json is written last.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, make_dataclass, replace
from typing import Annotated, Any

import tyro

from fusion.errors import UserError
from fusion.recipes import Recipe
from workflows.cluster import connect, resources, say
from workflows.options import Repeated

SEARCHES = ("grid", "random", "optuna")
READING_CPUS = 1.0  # of each trial
DRIVER_CPUS = 0.01  # its own process only waits for its training
CROWD = 2  # on one machine: reading needs little of its CPU


@dataclass(frozen=True)
class Args:
    recipe: Recipe
    """What every trial starts from; any field of it can be set, as in --recipe.epochs 8."""
    corpus: str
    """A finished corpus: a folder or s3://bucket/path."""
    out: str
    """Folder or s3://bucket/path of the search. Every node must reach it."""
    preset: str = ""
    """experts or alpha, the paper's grids; or nka, N, K, alpha and balance together."""
    space: Repeated = ()
    """A field and its values, as often as needed: loss.gradient=1,5,10 or model.experts=2..16 or optim.lr=1e-4..0.1:log
    or model.top-k=1..model.experts."""
    search: str = ""
    """grid (every combination), random or optuna (TPE). By default grid where all values are listed, else random."""
    samples: int = 20
    """Settings that random and optuna try."""
    seeds: int = 1
    """Trainings of each setting, from different random weights and crops."""
    objective: str = "qabf"
    """What is to be best: metrics of the validation after the last epoch (qabf, vif, ssim ...), map50 and map50_95
    with --detector, or loss, that of the training. Several, separated by commas, give a Pareto front; the first one
    stops trials early."""
    early_stopping: bool | None = None
    """Stop what is behind (ASHA). By default for random and optuna, not for a grid."""
    grace: int = 0
    """Epochs that each trial gets at least; 0: an eighth of the recipe's."""
    reduction: int = 3
    """Of so many trials one goes on at each rung of ASHA."""
    detector: str | None = None
    """A detector that `duskfuse detect` trained, for map50 and map50_95."""
    start: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """The stage-1 run that stage 2 of TG-ECNet starts from."""
    workers: int = 1
    """Training workers of each trial."""
    at_once: int = 0
    """Trials that run at once; 0: as many as the cluster has room for."""
    cpus_per_worker: float = 0
    """CPUs that Ray sets aside for a worker; 0: one, or less where reading data would have none left."""
    seed: int = 0
    """Of the random draws and Optuna's; the trials' own seeds count up from the recipe's."""


def main(arguments: list[str]) -> None:
    from workflows.cli import parse
    from workflows.named_recipes import find_recipe, show_recipes

    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        show_recipes("tune")
        return
    recipe = find_recipe(first)
    options = make_dataclass(Args.__name__, [("recipe", type(recipe))], bases=(Args,), frozen=True)
    default = options(recipe=recipe, corpus=tyro.MISSING, out=tyro.MISSING)
    run(
        parse(options, f"tune {first}", arguments[1:], default=default, config=(tyro.conf.AvoidSubcommands,)), arguments
    )


def run(args: Args, command: list[str]) -> None:
    from fusion import storage
    from fusion.config import to_dict
    from fusion.corpus import open_corpus
    from workflows import tune_results, tune_search, tune_trial
    from workflows.folders import Lease, claim

    objectives = objectives_of(args)
    args = replace(args, recipe=watched(args.recipe, objectives))
    plan = plan_of(args)
    check(args, plan)
    manifest = open_corpus(args.corpus)
    if list(objectives) != ["loss"] and not (manifest.rows("val") and args.recipe.validation.rows):
        raise UserError(
            f"{args.corpus} has no rows to validate on, which --objective {args.objective} needs. Build a corpus with "
            "--val-share, and leave recipe.validation.rows above 0."
        )
    settings = {"recipe": to_dict(args.recipe), "corpus": manifest.content, "space": plan.about, "search": plan.search}
    settings |= {"objective": list(objectives), "seed": args.seed, "from": args.start and start_of(args)}
    settings |= {"detector": storage.absolute(args.detector)} if args.detector else {}
    claim(args.out, "search.json", settings, "search")
    with Lease(args.out):
        ended = tune_trial.ended(args.out)
        # Optuna may try a setting again: fewer trials than samples are there when it is done
        todo = 0 if plan.samples and finished_samples(args.out) >= plan.samples else plan.todo(ended)
        if todo:
            storage.remove(storage.join(args.out, "tune.json"))  # from here to the end the search is not complete
            crowd = connect(CROWD)
            say(f"{args.recipe.name}: {todo} trials, {len(ended)} are there; {plan.search} over {plan.words}")
            tune_search.search(args, plan, objectives, ended, room(args, crowd))
        else:
            say(f"{args.out}: all {len(ended)} trials are there")
        tune_results.write(args, command, objectives, plan)


def objectives_of(args: Args) -> dict[str, bool]:
    """{metric: higher is better}, by name. UserError: unknown, or one that needs a detector."""
    from fusion.metrics import METRICS
    from workflows.train_detect import METRICS as DETECTED

    found: dict[str, bool] = {}
    for name in (word.strip() for word in args.objective.split(",")):
        if name in DETECTED:
            if args.detector is None:
                raise UserError(f"--objective {name} needs --detector, a detector that `duskfuse detect` trained.")
            found[name] = True
        elif name == "loss":
            found[name] = False
        elif name in METRICS:
            found[name] = METRICS[name].higher_is_better
        else:
            known = ", ".join((*METRICS, *DETECTED, "loss"))
            raise UserError(f"--objective: unknown metric {name!r}. Known: {known}.")
    return found


def finished_samples(out: str) -> int:
    """How many samples of Optuna the finished search in OUT is of."""
    from fusion import storage

    path = storage.join(out, "tune.json")
    return json.loads(storage.read_bytes(path)).get("samples", 0) if storage.exists(path) else 0


def start_of(args: Args) -> str:
    """The fingerprint of the stage 1 that all trials start from."""
    from fusion import checkpoint

    return checkpoint.load(checkpoint.fetch(args.start), expect=args.recipe.model_name).fingerprint


def watched(recipe: Any, objectives: dict[str, bool]) -> Any:
    """The recipe with a validation that has every objective."""
    from fusion.metrics import METRICS
    from fusion.stages import STAGES

    own = STAGES[recipe.model.stage].metrics
    more = tuple(name for name in objectives if name in METRICS and name not in own)
    names = tuple(dict.fromkeys((*recipe.validation.metrics, *more)))
    return replace(recipe, validation=replace(recipe.validation, metrics=names))


@dataclass(frozen=True)
class Plan:
    """What is tried: `settings`, one by one; or, for Optuna, `samples` of `dimensions`."""

    search: str
    about: Any  # for the claim of the folder
    words: str
    names: tuple[str, ...]  # the searched fields
    settings: tuple[dict, ...]
    seeds: tuple[int, ...]
    dimensions: tuple = ()
    samples: int = 0
    stops: bool = False

    @property
    def trials(self) -> list[tuple[dict, int]]:
        """(values, seed): all seeds of a setting after each other would leave the last settings for the morning."""
        return [(values, seed) for seed in self.seeds for values in self.settings]

    def todo(self, ended: dict[str, dict]) -> int:
        from workflows.tune_trial import name_of

        if self.search == "optuna":
            return max(0, self.samples - len(ended))
        return sum(name_of(values, seed) not in ended for values, seed in self.trials)


def plan_of(args: Args) -> Plan:
    """UserError where the options do not make a search."""
    from fusion import search

    if bool(args.preset) == bool(args.space):
        raise UserError("give --preset (experts, alpha or nka) or --space NAME=VALUES, one of them.")
    if args.search and args.search not in SEARCHES:
        raise UserError(f"--search is {args.search!r}; it must be one of {', '.join(SEARCHES)}")
    if args.samples < 1 or args.seeds < 1 or args.reduction < 2:
        raise UserError("--samples and --seeds must be at least 1, --reduction at least 2")
    seeds = tuple(args.recipe.seed + number for number in range(args.seeds))
    preset = search.preset(args.preset, args.recipe) if args.preset else None
    if preset is not None and preset.settings is not None:
        if args.search not in ("", "grid"):
            raise UserError(f"--preset {args.preset} is a grid; it has no --search {args.search}.")
        settings = tuple(preset.settings(args.recipe))
        words = f"the preset {args.preset}"
        return Plan("grid", args.preset, words, tuple(settings[0]), settings, seeds, stops=bool(args.early_stopping))
    texts = preset.dimensions(args.recipe) if preset is not None else args.space
    dimensions = search.order(search.parse(text, args.recipe) for text in texts)
    listed = all(isinstance(one, search.Choice) for one in dimensions)
    kind = args.search or ("grid" if listed else "random")
    words = ", ".join(texts)
    names = tuple(one.name for one in dimensions)
    if "seed" in names:
        raise UserError("--space seed: trials of one setting from several seeds are --seeds.")
    stops = kind != "grid" if args.early_stopping is None else args.early_stopping
    if kind == "grid":
        return Plan(kind, list(texts), words, names, tuple(search.grid(dimensions)), seeds, stops=stops)
    if kind == "random":
        settings = tuple(search.draws(dimensions, args.samples, args.seed))
        return Plan(kind, list(texts), words, names, settings, seeds, stops=stops)
    if args.seeds > 1:
        raise UserError("--search optuna trains each setting once; use --seeds with grid or random.")
    return Plan(kind, list(texts), words, names, (), seeds, tuple(dimensions), args.samples, stops)


def check(args: Args, plan: Plan) -> None:
    """UserError, before anything runs, where a setting, the start or the detector cannot be used."""
    from fusion import search
    from fusion.stages import STAGES
    from workflows import train, train_detect

    weighed = [name for name in plan.names if name.startswith("loss.")]
    if weighed and "loss" in args.objective.split(","):
        raise UserError(f"--objective loss: {weighed[0]} changes what the loss is. Choose a metric of the images.")
    ends = [] if plan.settings else search.corners(plan.dimensions)
    for values in (*plan.settings, *ends):
        search.apply(args.recipe, values)
    if args.detector is not None:
        train_detect.check(args.detector, args.recipe)
    if STAGES[args.recipe.model.stage].continues and args.start is None:
        raise UserError(f"{args.recipe.name} starts from stage 1: give --from, the run of its restore recipe.")
    for values in plan.settings[:1]:
        if args.start is not None:
            recipe = search.apply(args.recipe, values)
            train.check_start(train.Args(recipe, args.corpus, args.out, start=args.start))
    if args.workers < 1 or args.recipe.batch_size % args.workers:
        raise UserError(f"a batch of {args.recipe.batch_size} cannot be shared by {args.workers} workers.")
    if plan.search == "optuna":
        try:
            import optuna  # noqa: F401
        except ModuleNotFoundError:
            raise UserError("--search optuna needs Optuna: pip install 'duskfuse[optuna]'") from None


@dataclass(frozen=True)
class Room:
    """How the cluster is shared out: trials at once, CPUs and threads of each of their workers."""

    at_once: int
    cpus: float
    threads: int


def room(args: Args, crowd: int) -> Room:
    """As many trials as there is room for; CPUs are counted `crowd` times. UserError where not even one has room.

    Each trial has a CPU of its own for reading. Ray Data would share out what all trials leave free, rounded down to
    whole CPUs on every node, which is none for each where there are more trials than free CPUs.
    """
    from workflows.training import largest_node

    cpus, gpus = resources()
    if gpus:
        at_once = args.at_once or min(gpus // args.workers, int(cpus // (1 + args.workers)))
    else:
        at_once = args.at_once or int(cpus // (1 + args.workers))
    share = (cpus / max(at_once, 1) - READING_CPUS - DRIVER_CPUS) / args.workers
    each = args.cpus_per_worker or min(share, 1.0 if gpus else largest_node() - READING_CPUS - DRIVER_CPUS)
    if not at_once or each <= 0 or each > share or (gpus and at_once * args.workers > gpus):
        there = f"{cpus:g} CPUs" + (f" and {gpus} GPUs" if gpus else "")
        raise UserError(
            f"no room for {max(at_once, 1)} trials at once of {args.workers} workers and a CPU for reading each: the "
            f"cluster has {there}. Lower --at-once, --workers or --cpus-per-worker."
        )
    threads = 1 if gpus else max(1, int(cpus / crowd / (at_once * args.workers)))
    return Room(at_once, each, threads)


if __name__ == "__main__":
    import sys

    from workflows.cli import main as cli

    sys.exit(cli(["tune", *sys.argv[1:]]))
