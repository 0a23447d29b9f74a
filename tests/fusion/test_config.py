"""Dataclasses to JSON and back, and messages that name the setting."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace

import pytest

from fusion.config import fingerprint, from_dict, from_yaml, to_dict
from fusion.data.finding import PairRef
from fusion.data.shards import CorpusConfig, ShardPlan
from fusion.errors import UserError
from fusion.training.configs import FuseLoss, OptimConfig, RestoreLoss
from fusion.training.recipes import RECIPES, Recipe, recipe


@dataclass(frozen=True)
class Inner:
    size: int = 3
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    pair: tuple[int, float]
    inner: Inner = Inner()
    many: tuple[str, ...] = ()
    rows: tuple[Inner, ...] = ()
    maybe: int | None = None
    loss: RestoreLoss | FuseLoss = field(default_factory=RestoreLoss)
    flag: bool = False


FULL = Outer("x", (1, 2.0), Inner(4), ("a", "b"), (Inner(1), Inner(2, 0.1)), 7, FuseLoss(gradient=2.0), True)


def through_json(value):
    return json.loads(json.dumps(to_dict(value)))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name):
    made = recipe(name)
    assert made.name == name
    back = from_dict(Recipe, through_json(made))
    assert back == made
    assert type(back.loss) is type(made.loss)
    assert hash(back) == hash(made)
    assert fingerprint(back) == fingerprint(made)


@pytest.mark.parametrize("value", [FULL, Outer("y", (0, 0.0)), replace(FULL, maybe=None)])
def test_every_kind_of_field_survives_json(value):
    back = from_dict(Outer, through_json(value))
    assert back == value
    assert type(back.pair) is type(back.rows) is tuple


def test_a_shard_plan_survives_json():
    ref = PairRef("k", "s", "train", "v.png", "i.png", None, ("car", "person"))
    plan = ShardPlan(
        "000000-train.parquet", "train", (ref, replace(ref, depth="d.png")), (("noise1", "haze2"), ("noise1",)), 8, 3
    )
    assert from_dict(ShardPlan, through_json(plan)) == plan
    config = CorpusConfig("scenes:3", seed=2)
    assert from_dict(CorpusConfig, through_json(config)) == config


def test_defaults_fill_in_and_whole_numbers_serve_as_floats():
    made = from_dict(Outer, {"name": "x", "pair": [1, 2], "inner": {"share": 1}})
    assert made == Outer("x", (1, 2.0), Inner(3, 1.0))
    assert type(made.inner.share) is type(made.pair[1]) is float


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"nmae": 1}, "config.nmae"),
        ({"inner": {"sice": 1}}, "config.inner.sice"),
        ({"inner": {"size": 1.5}}, "config.inner.size"),
        ({"inner": {"size": True}}, "config.inner.size"),
        ({"inner": {"size": "3"}}, "config.inner.size"),
        ({"inner": {"share": "much"}}, "config.inner.share"),
        ({"inner": {"share": True}}, "config.inner.share"),
        ({"inner": {"share": None}}, "config.inner.share"),
        ({"inner": 3}, "config.inner"),
        ({"inner": None}, "config.inner"),
        ({"name": 3}, "config.name"),
        ({"flag": 1}, "config.flag"),
        ({"pair": [1]}, "config.pair"),
        ({"pair": [1, 2, 3]}, "config.pair"),
        ({"pair": 1}, "config.pair"),
        ({"pair": [1, "x"]}, r"config.pair\[1\]"),
        ({"many": "ab"}, "config.many"),
        ({"many": ["a", 2]}, r"config.many\[1\]"),
        ({"rows": [{}, {"size": []}]}, r"config.rows\[1\].size"),
        ({"maybe": "x"}, "config.maybe"),
        ({"loss": {"l2": 1.0}}, "config.loss.l2"),
    ],
)
def test_what_is_unknown_or_of_another_type_is_named(change, named):
    with pytest.raises(UserError, match=rf"^{named}:") as caught:
        from_dict(Outer, through_json(FULL) | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-2.5E+3", -2500.0),
        (".5e1", 5.0),
        ("3", 3),
        ("0.5", 0.5),
        ("a1e-4", "a1e-4"),
        ("1e-4x", "1e-4x"),
        ('"1e-4"', "1e-4"),
        ("[1e-4, 2]", [1e-4, 2]),
        ('{"lr": 1e-05}', {"lr": 1e-5}),
    ],
)
def test_powers_of_ten_are_numbers_in_yaml(text, value):
    assert from_yaml(text) == value and type(from_yaml(text)) is type(value)


@pytest.mark.parametrize("name", ["name", "pair"])
def test_what_is_missing_is_named(name):
    data = through_json(FULL)
    del data[name]
    with pytest.raises(UserError, match=rf"^recipe\.{name}: missing"):
        from_dict(Outer, data, "recipe")


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_table_is_refused(data):
    with pytest.raises(UserError, match=r"^config: expected a table"):
        from_dict(Outer, data)


def test_values_are_checked_as_always():
    data = through_json(recipe("tgecnet-restore-tiny"))
    data["model"]["top_k"] = 9
    with pytest.raises(UserError, match="top_k"):
        from_dict(Recipe, data)
    with pytest.raises(UserError, match=r"optim\.lr"):
        OptimConfig(lr=0)
    for change in ({"epochs": 0}, {"batch_size": 0}):
        with pytest.raises(UserError, match="epochs, batch_size and repeats"):
            replace(recipe("tgecnet-fuse-tiny"), **change)


def test_unknown_recipes_are_refused_with_the_known_ones():
    with pytest.raises(UserError, match="tgecnet-restore-tiny"):
        recipe("tgecnet")


def test_fingerprints_tell_settings_apart_and_ignore_the_order_of_names():
    prints = {fingerprint(recipe(name)) for name in RECIPES}
    assert len(prints) == len(RECIPES)
    assert fingerprint({"a": 1, "b": [2, 3]}) == fingerprint({"b": [2, 3], "a": 1})
    assert fingerprint({"a": [2, 3]}) != fingerprint({"a": [3, 2]})
    assert fingerprint(Inner()) == fingerprint({"size": 3, "share": 0.5})
    assert fingerprint(Inner()) == hashlib.sha256(b'{"share":0.5,"size":3}').hexdigest()
