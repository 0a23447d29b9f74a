"""The tasks of a study: their pairs, split so that no scene is on both sides, and the methods that label them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fusion import storage
from fusion.classical import CLASSICAL
from fusion.data.finding import PairList, PairRef
from fusion.data.pairs import find_pairs
from fusion.data.splits import assign_splits, read_frozen_splits, splits_to_csv
from fusion.data.synthetic import is_synthetic
from fusion.errors import UserError
from fusion.training.recipes import Recipe
from workflows.commonness.options import Args
from workflows.evolve.options import DEFAULT_METHODS
from workflows.splits import find_sequences, warn_empty_splits

# How a task's name begins -> the methods that make sense for it. IFEVIP, HMSD-GF and TIF look for hot targets, and ADF
# and VSM-WLS for what infrared adds: of two foci or exposures they make halos and doubled edges.
METHODS = {
    "multifocus": "sml,lp,gff,mgff",
    "multiexposure": "mertens,lp,gff,mgff",
    "medical": "lp,gff,mgff,vsm_wls,tif",
}
RESERVED = ("mixed", "task", "pairs", "unscored", "kept", "tuned", "beta", "unique", "mean")


@dataclass(frozen=True)
class Task:
    """A fusion task.

    Args:
        name: Of its folder, its row and its column.
        uri: Where its pairs are, or what draws them.
        methods: Those that label its pairs, separated by commas.
        found: Its pairs.
    """

    name: str
    uri: str
    methods: str
    found: PairList


def find_tasks(args: Args) -> list[Task]:
    """Find the pairs of all tasks. UserError: what `parse_tasks` and `methods_of` say, or no pairs."""
    uris = parse_tasks(args.tasks)
    methods = methods_of(tuple(uris), args)
    return [Task(name, uri, methods[name], find_pairs(uri)) for name, uri in uris.items()]


def parse_tasks(text: str) -> dict[str, str]:
    """Parse --tasks into name -> pairs. UserError: fewer than two, or a name used twice."""
    tasks: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, where = part.partition("=")
        if not equals:
            name, where = (part.partition(":")[0] if is_synthetic(part) else part.rstrip("/").rpartition("/")[2]), part
        if name in (*tasks, "", *RESERVED) or "/" in name or name[0] == ".":
            raise UserError(f"--tasks: the name {name!r} is used twice, empty or reserved. Give NAME=DIR.")
        tasks[name] = where
    if len(tasks) < 2:
        raise UserError("--tasks needs two tasks at least, such as scenes:80,multifocus:80.")
    return tasks


def methods_of(names: Sequence[str], args: Args) -> dict[str, str]:
    """Return task -> its methods. UserError: an unknown task or method."""
    given: dict[str, str] = {}
    for text in args.task_methods:
        name, _, methods = text.partition("=")
        if name not in names or not methods.strip():
            raise UserError(f"--task-methods {text}: give TASK=METHOD,METHOD with a task of {', '.join(names)}.")
        given[name] = methods
    suited = {
        name: next((m for start, m in METHODS.items() if name.startswith(start)), DEFAULT_METHODS) for name in names
    }
    chosen = {name: given.get(name) or args.methods or suited[name] for name in names}
    for name, methods in chosen.items():
        for method in filter(None, (part.strip() for part in methods.split(","))):
            if method not in CLASSICAL:
                raise UserError(f"task {name}: unknown method {method!r}. Known: {', '.join(CLASSICAL)}.")
    return chosen


def splits_file(out: str, task: str) -> str:
    """Return the path of a task's frozen splits."""
    return storage.join(out, "splits", f"{task}.csv")


def split_tasks(tasks: Sequence[Task], args: Args) -> dict[str, list[PairRef]]:
    """Return task -> its pairs with their splits, which are kept in OUT/splits.

    The splits of all tasks are drawn together: a scene, near-duplicates and what --sequence-pattern names alike are on
    one side in every task. Where a task is made of the pairs of another, a network of the one is no better known to the
    held-out pairs of the other.
    """
    if args.splits:
        raise UserError("--splits is of one folder of pairs; give --seed and the fractions for several tasks.")
    paths = {task.name: splits_file(args.out, task.name) for task in tasks}
    if not all(storage.exists(path) for path in paths.values()):
        joint, sequence = draw_splits({task.name: task.found.refs for task in tasks}, args)
        for task in tasks:
            own = {ref.key: sequence.get(f"{task.name}/{ref.key}", f"{task.name}/{ref.key}") for ref in task.found.refs}
            storage.write_text(paths[task.name], splits_to_csv(joint[task.name], own))
    return {task.name: read_frozen_splits(task.found.refs, paths[task.name])[0] for task in tasks}


def draw_splits(pairs: Mapping[str, Sequence[PairRef]], args: Args) -> tuple[dict[str, list[PairRef]], dict[str, str]]:
    """Draw the splits of all tasks' pairs together.

    Returns task -> pairs with splits, and TASK/KEY -> sequence of those that are in one.
    """
    joined = [
        replace(ref, key=f"{task}/{ref.key}", source=f"{task}/{ref.source}")
        for task, refs in pairs.items()
        for ref in refs
    ]
    sequence = find_sequences(joined, args)
    split = {ref.key: ref.split for ref in assign_splits(joined, args, sequence)}
    drawn = {task: [replace(ref, split=split[f"{task}/{ref.key}"]) for ref in refs] for task, refs in pairs.items()}
    for refs in drawn.values():
        warn_empty_splits(refs, args)
    return drawn, sequence


def count_training(refs: Sequence[PairRef]) -> int:
    """Return how many pairs are for training."""
    return sum(ref.split == "train" for ref in refs)


def crops_per_pair(splits: Mapping[str, Sequence[PairRef]], recipe: Recipe) -> dict[str, int]:
    """Return task -> crops of a pair and epoch, so that every task gives about as many as the largest.

    UserError: a task has no pair to train on.
    """
    counts = {name: count_training(refs) for name, refs in splits.items()}
    empty = [name for name, count in counts.items() if not count]
    if empty:
        raise UserError(f"task {empty[0]} has no pair to train on. Lower --test-fraction and --val-fraction.")
    return {name: recipe.crops.per_image * round(max(counts.values()) / n) for name, n in counts.items()}


def task_recipe(recipe: Recipe, crops: int) -> Recipe:
    """Return the recipe of a task with so many crops of a pair and epoch."""
    return replace(recipe, crops=replace(recipe.crops, per_image=crops))


def mixed_recipe(recipe: Recipe, num_tasks: int) -> Recipe:
    """Return the recipe of the mixed network: an epoch is that of all tasks, so it has fewer, for as many steps."""
    milestones = tuple(max(1, round(epoch / num_tasks)) for epoch in recipe.optim.milestones)
    optim = replace(recipe.optim, milestones=milestones)
    return replace(recipe, epochs=max(1, round(recipe.epochs / num_tasks)), optim=optim)


def tuned_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe of the training that goes on from the mixed network: a tenth of its rate, none lowered."""
    return replace(recipe, optim=replace(recipe.optim, lr=recipe.optim.lr * 0.1, milestones=()))
