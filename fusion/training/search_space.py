"""What a hyperparameter search tries: fields of a recipe by dotted name, where their values lie, and the presets.

model.experts=2..16          whole numbers, both ends included (as the field is one)
model.experts=2..16:2        every second
loss.gradient=1..40          real numbers, evenly; 1..40:log evenly in the logarithm
model.top_k=1..model.experts up to another field of the same trial
model.ablation=none,no_mole  one of these

Of a recipe of two stages fields of a stage have its name in front: restore.optim.lr, fuse.loss.gradient. Those of the
model are of both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import yaml

from fusion.config import from_dict, from_yaml, to_dict
from fusion.errors import UserError
from fusion.legacy import RECIPE_FIELDS
from fusion.seeds import make_rng
from fusion.training.two_stage import FUSE, RESTORE, TwoStageRecipe

Values = dict[str, Any]  # dotted name -> value
MAX_CORNERS = 2000
ALPHA = ("loss.gradient", f"{FUSE}.loss.gradient")


@dataclass(frozen=True)
class Choice:
    """One of `values`."""

    name: str
    values: tuple[Any, ...]

    def draw(self, rng: np.random.Generator, values: Values) -> Any:
        """Draw a value; those of other dimensions play no part."""
        return self.values[int(rng.integers(len(self.values)))]


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, a number or the name of another dimension. `step` 0: real numbers."""

    name: str
    low: float
    high: float | str
    step: int = 0
    log: bool = False

    @property
    def depends(self) -> bool:
        """Whether its end is another dimension of the same trial."""
        return isinstance(self.high, str)

    def draw(self, rng: np.random.Generator, values: Values) -> Any:
        """Draw a value; `values` are those drawn before in this trial."""
        return self.at(float(rng.random()), values)

    def at(self, share: float, values: Values) -> float | int:
        """Return the value at a share in 0..1 of the way; whole numbers are all equally likely for an even share."""
        high = float(values[self.high]) if isinstance(self.high, str) else self.high
        if self.step:
            count = int((high - self.low) // self.step) + 1
            return int(self.low) + self.step * min(int(share * count), count - 1)
        if self.log:
            return math.exp(math.log(self.low) + share * (math.log(high) - math.log(self.low)))
        return self.low + share * (high - self.low)


Dimension = Choice | Range


def parse(text: str, recipe: Any) -> Dimension:
    """Read one `name=values` as above. UserError: no such field of the recipe, or values that cannot be read."""
    name, equals, words = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not words.strip():
        raise UserError(f"--space {text!r}: write NAME=LOW..HIGH or NAME=A,B,C, such as loss.gradient=1..40:log")
    value = field_of(recipe, name)
    if isinstance(value, dict):
        raise UserError(f"--space {text!r}: {name} is a group of fields: {', '.join(f'{name}.{k}' for k in value)}")
    match = re.fullmatch(r"([^,:]+?)\.\.([^,:]+)(?::(log|\d+))?", words.strip())
    if match is None:
        return Choice(name, _values(text, words))
    low, high, option = match.groups()
    try:
        low_number = float(low)
        high_number: float | str = float(high) if _is_number(high) else high.strip().replace("-", "_")
    except ValueError:
        raise UserError(f"--space {text!r}: {low!r} is not a number") from None
    whole = isinstance(value, int) and not isinstance(value, bool)
    step = int(option) if option and option != "log" else int(whole)
    if isinstance(value, (str, bool, list)) or value is None:
        raise UserError(f"--space {text!r}: {name} is {value!r}, no number. List its values: {name}=A,B")
    if whole and option == "log":
        raise UserError(f"--space {text!r}: {name} takes whole numbers; leave out :log, or list the values")
    if option and option != "log" and (not whole or step < 1):
        raise UserError(f"--space {text!r}: a step is for whole numbers, from 1 up")
    if isinstance(high_number, float) and not low_number < high_number:
        raise UserError(f"--space {text!r}: {low} is not below {high}")
    if option == "log" and low_number <= 0:
        raise UserError(f"--space {text!r}: with :log the values must be above 0")
    return Range(name, low_number, high_number, step, option == "log")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _values(text: str, words: str) -> tuple[Any, ...]:
    try:
        values = from_yaml(f"[{words}]")
    except yaml.YAMLError:
        raise UserError(f"--space {text!r}: cannot read the values {words!r}") from None
    return tuple(dict.fromkeys(tuple(value) if isinstance(value, list) else value for value in values))


def order(dimensions: Iterable[Dimension]) -> list[Dimension]:
    """Sort dimensions, each after the one that is its end.

    UserError: a name twice, an end that is not searched, or a circle.
    """
    left = list(dimensions)
    names = [dimension.name for dimension in left]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--space: {double} is there twice")
    ordered: list[Dimension] = []
    while left:
        known = {dimension.name for dimension in ordered}
        blocked = [d for d in left if isinstance(d, Range) and d.depends and d.high not in known]
        if len(blocked) == len(left):
            end = blocked[0].high
            raise UserError(
                f"--space {blocked[0].name}: its end {end!r} is neither a number nor another searched field"
            )
        ordered += [dimension for dimension in left if dimension not in blocked]
        left = list(blocked)
    return ordered


def grid(dimensions: Sequence[Dimension]) -> list[Values]:
    """Return every combination. UserError for a range, which has no list of values."""
    choices: dict[str, tuple[Any, ...]] = {}
    for dimension in dimensions:
        if not isinstance(dimension, Choice):
            raise UserError(f"--search grid: {dimension.name} is a range. List its values, or use --search random.")
        choices[dimension.name] = dimension.values
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def draws(dimensions: Sequence[Dimension], count: int, seed: int) -> list[Values]:
    """Draw `count` different random settings, or all there are; the first n are the same for every count."""
    settings: dict[tuple[str, ...], Values] = {}
    for number in range(50 * count):
        if len(settings) == count:
            break
        rng = make_rng(seed, "search", number)
        values: Values = {}
        for dimension in dimensions:
            values[dimension.name] = dimension.draw(rng, values)
        settings.setdefault(tuple(map(repr, values.values())), values)
    return list(settings.values())


def corners(dimensions: Sequence[Dimension]) -> list[Values]:
    """Return the settings of all choices and both ends of every range together, to check whether a recipe allows them.

    Of more than MAX_CORNERS only so many, drawn at random, always the same.
    """
    rng = make_rng(0, "corners")
    settings: list[Values] = [{}]
    for dimension in dimensions:
        settings = [values | {dimension.name: value} for values in settings for value in _ends(dimension, values)]
        if len(settings) > MAX_CORNERS:
            settings = [settings[i] for i in sorted(rng.choice(len(settings), MAX_CORNERS, replace=False))]
    return settings


def _ends(dimension: Dimension, values: Values) -> list[Any]:
    if isinstance(dimension, Choice):
        return list(dimension.values)
    return list(dict.fromkeys(dimension.at(share, values) for share in (0.0, 1.0)))


def field_of(recipe: Any, name: str) -> Any:
    """Return the value of a dotted field, as plain data.

    UserError, with the fields there are, when there is none; with the new name for one of an earlier version.
    """
    value: Any = to_dict(recipe)
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            if name in RECIPE_FIELDS:
                raise UserError(f"--space: {name} is now {RECIPE_FIELDS[name]}.")
            known = sorted(_leaves(to_dict(recipe)))
            near = [leaf for leaf in known if leaf.endswith(f".{name}")]  # of a stage
            raise UserError(f"--space: the recipe has no field {name!r}. It has {', '.join(near or known)}.")
        value = value[part]
    return value


def _leaves(settings: dict[str, Any], before: str = "") -> list[str]:
    names: list[str] = []
    for name, value in settings.items():
        names += _leaves(value, f"{before}{name}.") if isinstance(value, dict) else [before + name]
    return names


def apply(recipe: Any, values: Mapping[str, Any]) -> Any:
    """Return the recipe with these fields set. UserError where it does not allow them."""
    settings = to_dict(recipe)
    for name, value in values.items():
        field_of(recipe, name)
        *groups, last = name.split(".")
        section = settings
        for group in groups:
            section = section[group]
        section[last] = value
    return from_dict(type(recipe), settings, recipe.name)


def label(values: Mapping[str, Any]) -> str:
    """Return a short name of a setting: E4K2, alpha 10, experts 4, lr 0.001, restore lr 0.001."""
    rest = dict(values)
    words = []
    if {"model.experts", "model.top_k"} <= rest.keys():
        words.append(f"E{rest.pop('model.experts')}K{rest.pop('model.top_k')}")
    for name, value in rest.items():
        stage = f"{RESTORE} " if name.startswith(f"{RESTORE}.") else ""
        short = stage + ("alpha" if name in ALPHA else name.rpartition(".")[2])
        words.append(f"{short} {value:.3g}" if isinstance(value, float) else f"{short} {value}")
    return ", ".join(words) or "as in the recipe"


@dataclass(frozen=True)
class Preset:
    """`settings`: these, all of them; or `dimensions` to draw from, in the notation of `parse`."""

    about: str
    settings: Callable[[Any], list[Values]] | None = None
    dimensions: Callable[[Any], tuple[str, ...]] | None = None


def _experts(recipe: Any) -> list[Values]:
    pairs = ((2, 2), (4, 2), (6, 2), (8, 2), (4, 1), (4, 3), (4, 4))
    return [{"model.experts": experts, "model.top_k": kept} for experts, kept in pairs]


def _alpha(recipe: Any) -> list[Values]:
    return [{f"{_last_stage(recipe)}loss.gradient": alpha} for alpha in (1.0, 5.0, 10.0, 20.0, 40.0)]


def _ablations(recipe: Any) -> list[Values]:
    return [{"model.ablation": ablation} for ablation in ("no_mole", "no_moge", "att_local", "none")]


def _nka(recipe: Any) -> tuple[str, ...]:
    moefusion = recipe.model_name == "moefusion"  # half of its experts are for each modality
    stage = _last_stage(recipe)
    balance = "loss.load_global=0.002..0.2:log" if moefusion else f"{stage}loss.balance=0.01..1:log"
    experts = "model.experts=2..16:2" if moefusion else "model.experts=2..16"
    return (experts, "model.top_k=1..model.experts", f"{stage}loss.gradient=1..40:log", balance)


def _last_stage(recipe: Any) -> str:
    """Return what is in front of the fields of the last stage, which settings may differ in and share their stage 1."""
    return f"{FUSE}." if isinstance(recipe, TwoStageRecipe) else ""


PRESETS: dict[str, Preset] = {
    "experts": Preset("number of experts, and how many are kept: E2K2 E4K2 E6K2 E8K2 E4K1 E4K3 E4K4 "
                      "(MoE-Fusion, Fig. 7)", settings=_experts),
    "alpha": Preset("weight of the gradient loss: 1 5 10 20 40 (MoE-Fusion, Fig. 8)", settings=_alpha),
    "ablations": Preset("without MoLE, without MoGE, attention in place of local experts, and all of it: no_mole "
                        "no_moge att_local none (MoE-Fusion, Table 2)", settings=_ablations),
    "nka": Preset("N, K, alpha and the weight of the experts' balance together", dimensions=_nka),
}  # fmt: skip


def preset(name: str, recipe: Any) -> Preset:
    """Return the preset of this name. UserError: there is none, or the recipe has not its fields."""
    if name not in PRESETS:
        known = "; ".join(f"{key}: {row.about}" for key, row in PRESETS.items())
        raise UserError(f"--preset: unknown preset {name!r}. Known: {known}.")
    chosen = PRESETS[name]
    names = [text.partition("=")[0] for text in chosen.dimensions(recipe)] if chosen.dimensions else []
    if chosen.settings:
        names += chosen.settings(recipe)[0]
    for field in names:
        try:
            field_of(recipe, field)
        except UserError:
            raise UserError(f"preset {name}: {recipe.name} has no {field}. Use --space.") from None
    return chosen
