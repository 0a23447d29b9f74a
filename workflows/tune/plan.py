"""What a search tries: objectives, settings or dimensions, seeds; checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fusion.data.corpus import Manifest
from fusion.errors import UserError
from fusion.metrics import METRICS
from fusion.models.configs import TGECNetConfig
from fusion.training import search_space
from fusion.training.engine import check_validation
from fusion.training.search_space import Dimension
from fusion.training.stages import STAGES
from fusion.training.two_stage import FUSE, AnyRecipe, TwoStageRecipe, changes_stage_1, of_stage, stages_of
from workflows.train import detection_metric
from workflows.train import options as train_options
from workflows.train.detection_metric import METRICS as DETECTED
from workflows.train.job import check_steps
from workflows.tune.options import SEARCHES, Args
from workflows.tune.records import TrialRecord, trial_name


def parse_objectives(args: Args) -> dict[str, bool]:
    """Return {metric: higher is better}. Raises UserError for an unknown one, or one that needs a detector."""
    objectives: dict[str, bool] = {}
    for name in (word.strip() for word in args.objective.split(",")):
        if name in DETECTED:
            if args.detector is None:
                raise UserError(f"--objective {name} needs --detector, a detector that `duskfuse detect` trained.")
            objectives[name] = True
        elif name == "loss":
            objectives[name] = False
        elif name in METRICS:
            objectives[name] = METRICS[name].higher_is_better
        else:
            known = ", ".join((*METRICS, *DETECTED, "loss"))
            raise UserError(f"--objective: unknown metric {name!r}. Known: {known}.")
    return objectives


def with_objective_metrics(recipe: AnyRecipe, objectives: dict[str, bool]) -> AnyRecipe:
    """Return the recipe with every objective among the metrics of its validation, of the last stage."""
    last = of_stage(recipe, FUSE)
    own = STAGES[last.model.stage].metrics
    more = tuple(name for name in objectives if name in METRICS and name not in own)
    names = tuple(dict.fromkeys((*last.validation.metrics, *more)))
    validation = replace(last.validation, metrics=names)
    if isinstance(recipe, TwoStageRecipe):
        return replace(recipe, fuse=replace(recipe.fuse, validation=validation))
    return replace(recipe, validation=validation)


@dataclass(frozen=True)
class Plan:
    """What is tried: `settings`, one by one; or, for Optuna, `samples` of `dimensions`.

    `stage`: which stage of a recipe of two is trained ("restore", "fuse").
    """

    search: str
    about: Any  # for the claim of the folder
    words: str
    names: tuple[str, ...]  # the searched fields
    settings: tuple[dict[str, Any], ...]
    seeds: tuple[int, ...]
    dimensions: tuple[Dimension, ...] = ()
    samples: int = 0
    stops: bool = False
    stage: str = FUSE

    @property
    def trials(self) -> list[tuple[dict[str, Any], int]]:
        """The (values, seed) of all trials. Seeds are the outer loop, so every setting gets a first result early."""
        return [(values, seed) for seed in self.seeds for values in self.settings]

    def num_left(self, ended: Mapping[str, TrialRecord]) -> int:
        """Return how many trials are to be run yet."""
        if self.search == "optuna":
            return max(0, self.samples - len(ended))
        return sum(trial_name(values, seed) not in ended for values, seed in self.trials)


def plan_search(args: Args) -> Plan:
    """Plan what is tried. Raises UserError where the options do not make a search."""
    if bool(args.preset) == bool(args.space):
        raise UserError("give --preset (experts, alpha, ablations or nka) or --space NAME=VALUES, one of them.")
    if args.search and args.search not in SEARCHES:
        raise UserError(f"--search is {args.search!r}; it must be one of {', '.join(SEARCHES)}")
    if args.num_samples < 1 or args.num_seeds < 1 or args.reduction < 2:
        raise UserError("--num-samples and --num-seeds must be at least 1, --reduction at least 2")
    seeds = tuple(args.recipe.seed + number for number in range(args.num_seeds))
    preset = search_space.preset(args.preset, args.recipe) if args.preset else None
    if preset is not None and preset.settings is not None:
        if args.search not in ("", "grid"):
            raise UserError(f"--preset {args.preset} is a grid; it has no --search {args.search}.")
        settings = tuple(preset.settings(args.recipe))
        words = f"the preset {args.preset}"
        return Plan("grid", args.preset, words, tuple(settings[0]), settings, seeds, stops=bool(args.early_stopping))
    texts = args.space if preset is None or preset.dimensions is None else preset.dimensions(args.recipe)
    dimensions = search_space.order(search_space.parse(text, args.recipe) for text in texts)
    listed = all(isinstance(one, search_space.Choice) for one in dimensions)
    kind = args.search or ("grid" if listed else "random")
    names = tuple(one.name for one in dimensions)
    if "seed" in names:
        raise UserError("--space seed: trials of one setting from several seeds are --num-seeds.")
    stops = kind != "grid" if args.early_stopping is None else args.early_stopping
    plan = Plan(kind, list(texts), ", ".join(texts), names, (), seeds, tuple(dimensions), stops=stops)
    if kind == "grid":
        return replace(plan, settings=tuple(search_space.grid(dimensions)))
    if kind == "random":
        return replace(plan, settings=tuple(search_space.draws(dimensions, args.num_samples, args.seed)))
    if args.num_seeds > 1:
        raise UserError("--search optuna trains each setting once; use --num-seeds with grid or random.")
    return replace(plan, samples=args.num_samples)


def check_search(args: Args, plan: Plan) -> None:
    """Raise UserError, before anything runs, where a setting, the start or the detector cannot be used."""
    loss_weights = [name for name in plan.names if name.startswith(("loss.", f"{FUSE}.loss."))]
    if loss_weights and "loss" in args.objective.split(","):
        raise UserError(f"--objective loss: {loss_weights[0]} changes what the loss is. Choose a metric of the images.")
    check_stages(args, plan)
    check_settings(args, plan)
    if args.detector is not None:
        detection_metric.check(args.detector, of_stage(args.recipe, FUSE))
    if plan.search == "optuna":
        try:
            import optuna  # noqa: F401
        except ModuleNotFoundError:
            raise UserError("--search optuna needs Optuna: pip install 'duskfuse[optuna]'") from None


def check_stages(args: Args, plan: Plan) -> None:
    """Raise UserError where --from is missing or not wanted, or the space changes a stage 1 that is not trained."""
    recipe = args.recipe
    if isinstance(recipe, TwoStageRecipe):
        if args.start is not None:
            raise UserError(f"{recipe.name} trains its own stage 1; --from is for stage 2 alone, as in tgecnet-fuse.")
        first = next((name for name in plan.names if changes_stage_1(name)), None)
        if plan.search == "optuna" and first is not None:
            raise UserError(
                f"--search optuna: {first} changes stage 1, which is trained before settings of stage 2 are proposed. "
                f"Search it with --search random, or fields of stage 2 alone ({FUSE}.*, model.fusion_*)."
            )
        return
    if not STAGES[recipe.model.stage].continues:
        if args.start is not None:
            raise UserError(f"{recipe.name} starts afresh; --from is for stage 2 of TG-ECNet.")
        return
    assert isinstance(recipe.model, TGECNetConfig)
    fields = {f"model.{name}" for name in recipe.model.restoration_fields()}
    if frozen := next((name for name in plan.names if name in fields), None):
        raise UserError(
            f"{recipe.name}: {frozen} is of stage 1, which stage 2 keeps as it was trained. `duskfuse tune tgecnet` "
            "(or tgecnet-tiny) searches over both stages; N and K of stage 2's own gate are model.fusion_experts and "
            "model.fusion_top_k."
        )
    if args.start is None:
        raise UserError(f"{recipe.name} starts from stage 1: give --from, the run of its restore recipe.")


def check_settings(args: Args, plan: Plan, manifest: Manifest | None = None) -> None:
    """Raise UserError where a setting, or an end of what they are drawn from, cannot be trained; on a corpus, if given.

    One error stands for all, with the first of them.
    """
    if args.workers < 1:
        raise UserError(f"--workers is {args.workers}; a trial needs at least one.")
    ends = search_space.corners(plan.dimensions) if plan.search != "grid" else []
    settings = {repr(values): values for values in (*plan.settings, *ends)}
    refused: dict[str, UserError] = {}
    for values in settings.values():
        try:
            for recipe in stages_of(search_space.apply(args.recipe, values)):
                check_validation(recipe)
                if manifest is not None:
                    check_steps(train_options.Args(recipe, args.corpus, args.out), manifest, args.workers)
        except UserError as error:
            refused[search_space.label(values)] = error
    for name, reason in refused.items():
        count = f" ({len(refused)} of {len(settings)} settings cannot be trained)" if len(settings) > 1 else ""
        raise UserError(f"the setting {name}: {reason}{count}")
