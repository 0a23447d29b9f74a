from collections import Counter

import pytest

from fusion.config import to_dict
from fusion.errors import UserError
from fusion.training import search_space
from fusion.training.recipes import RECIPES

MOE = RECIPES["moefusion-tiny"]()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.experts=2..16", search_space.Range("model.experts", 2, 16, 1)),
        ("model.experts=2..16:2", search_space.Range("model.experts", 2, 16, 2)),
        ("model.top-k=1..model.experts", search_space.Range("model.top_k", 1, "model.experts", 1)),
        ("loss.gradient=1..40:log", search_space.Range("loss.gradient", 1, 40, 0, True)),
        ("optim.lr=1e-4..1e-2", search_space.Range("optim.lr", 1e-4, 1e-2)),
        ("loss.gradient=1, 5,10", search_space.Choice("loss.gradient", (1, 5, 10))),
        ("model.ablation=none,no_mole", search_space.Choice("model.ablation", ("none", "no_mole"))),
        ("model.grid=[6,8],[15,20]", search_space.Choice("model.grid", ((6, 8), (15, 20)))),
    ],
)
def test_notation(text, expected):
    assert search_space.parse(text, MOE) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("model.experts", "NAME=LOW..HIGH"),
        ("model.expert=2..4", "no field 'model.expert'"),
        ("model=2..4", "group of fields: model.experts"),
        ("model.experts=4..2", "4 is not below 2"),
        ("model.experts=2..16:log", "leave out :log"),
        ("loss.gradient=0..4:log", "above 0"),
        ("loss.gradient=1..4:2", "a step is for whole numbers"),
        ("loss.gradient=a..4", "'a' is not a number"),
        ("model.ablation=1..2", "List its values"),
        ("model.grid=[6", "cannot read the values"),
    ],
)
def test_mistakes_name_what_is_wrong(text, part):
    with pytest.raises(UserError, match=part.replace("[", r"\[")):
        search_space.parse(text, MOE)


def test_an_end_named_by_a_field_comes_after_it():
    texts = ("model.top_k=1..model.experts", "model.experts=2..16")
    assert [one.name for one in search_space.order(search_space.parse(text, MOE) for text in texts)] == [
        "model.experts",
        "model.top_k",
    ]
    with pytest.raises(UserError, match="neither a number nor another searched field"):
        search_space.order([search_space.parse(texts[0], MOE)])
    with pytest.raises(UserError, match="there twice"):
        search_space.order([search_space.parse(texts[1], MOE)] * 2)


def test_random_settings_are_allowed_spread_and_always_the_same():
    dimensions = search_space.order(
        search_space.parse(text, MOE) for text in search_space.PRESETS["nka"].dimensions(MOE)
    )
    drawn = search_space.draws(dimensions, 400, seed=3)
    assert drawn[:10] == search_space.draws(dimensions, 10, seed=3) and drawn[:10] != search_space.draws(
        dimensions, 10, seed=4
    )
    for values in drawn:
        assert search_space.apply(MOE, values).model.top_k <= values["model.experts"] <= 16
        assert values["model.experts"] % 2 == 0 and 1 <= values["loss.gradient"] <= 40
    assert set(Counter(values["model.experts"] for values in drawn)) == set(range(2, 17, 2))
    kept = Counter(values["model.top_k"] for values in drawn if values["model.experts"] == 2)
    assert set(kept) == {1, 2}
    below = sum(values["loss.gradient"] < 40**0.5 for values in drawn)
    assert 150 < below < 250  # evenly in the logarithm


def test_whole_numbers_are_equally_likely():
    one = search_space.Range("model.top_k", 1, "model.experts", 1)
    counts = Counter(one.at(i / 999, {"model.experts": 5}) for i in range(1000))
    assert set(counts) == {1, 2, 3, 4, 5} and max(counts.values()) - min(counts.values()) <= 2


def test_few_settings_are_not_drawn_twice():
    assert len(search_space.draws([search_space.parse("loss.gradient=1,5", MOE)], 10, 0)) == 2


def test_grid():
    dimensions = [search_space.parse("loss.gradient=1,5", MOE), search_space.parse("model.experts=2,4", MOE)]
    assert search_space.grid(dimensions) == [
        {"loss.gradient": alpha, "model.experts": experts} for alpha in (1, 5) for experts in (2, 4)
    ]
    with pytest.raises(UserError, match="is a range"):
        search_space.grid([search_space.parse("loss.gradient=1..5", MOE)])


def test_the_papers_grids():
    labels = [search_space.label(values) for values in search_space.PRESETS["experts"].settings(MOE)]
    assert labels == ["E2K2", "E4K2", "E6K2", "E8K2", "E4K1", "E4K3", "E4K4"]
    assert [search_space.label(v) for v in search_space.PRESETS["alpha"].settings(MOE)] == [
        f"alpha {alpha}" for alpha in (1, 5, 10, 20, 40)
    ]
    ablations = [search_space.label(v) for v in search_space.PRESETS["ablations"].settings(MOE)]
    assert ablations == ["ablation no_mole", "ablation no_moge", "ablation att_local", "ablation none"]
    for name in ("experts", "alpha", "ablations"):
        for values in search_space.PRESETS[name].settings(MOE):
            search_space.apply(MOE, values)


def test_a_setting_that_the_recipe_forbids():
    with pytest.raises(UserError, match=r"top_k.*1\.\.N"):
        search_space.apply(MOE, {"model.experts": 2, "model.top_k": 3})
    with pytest.raises(UserError, match="expected int"):
        search_space.apply(MOE, {"model.experts": 2.5})


def test_presets_need_their_fields():
    with pytest.raises(UserError, match=r"preset experts: aenet-tiny has no model\.experts"):
        search_space.preset("experts", RECIPES["aenet-tiny"]())
    with pytest.raises(UserError, match="Known: experts"):
        search_space.preset("nothing", MOE)
    for name in ("tgecnet-fuse-tiny", "tgecnet-restore-tiny", "moefusion"):
        for preset in search_space.PRESETS:
            if preset != "ablations" or name == "moefusion":
                search_space.preset(preset, RECIPES[name]())


def test_choices_and_both_ends_of_ranges_are_looked_at_together():
    dimensions = search_space.order(
        search_space.parse(t, MOE) for t in ("model.experts=2..16:2", "model.top_k=1..model.experts")
    )
    assert search_space.corners(dimensions) == [
        {"model.experts": experts, "model.top_k": top_k} for experts, top_k in ((2, 1), (2, 2), (16, 1), (16, 16))
    ]
    choices = [search_space.parse("loss.gradient=1,5,9", MOE), search_space.parse("optim.lr=1e-4..1e-2:log", MOE)]
    found = search_space.corners(choices)
    assert [values["loss.gradient"] for values in found] == [1, 1, 5, 5, 9, 9]
    assert [values["optim.lr"] for values in found] == pytest.approx([1e-4, 1e-2] * 3)


def test_of_very_many_combinations_some_of_every_value_are_looked_at():
    names = [f"loss.{name}" for name in to_dict(MOE.loss)] + ["optim.lr", "optim.weight_decay"]
    choices = [search_space.parse(f"{name}=0.1,0.5,0.9", MOE) for name in names]
    assert 3 ** len(names) > search_space.MAX_CORNERS
    found = search_space.corners(choices)
    assert len(found) == search_space.MAX_CORNERS and found == search_space.corners(choices)
    assert all({values[name] for values in found} == {0.1, 0.5, 0.9} for name in names)


def test_a_field_of_an_earlier_version_is_refused_with_its_name_of_today():
    with pytest.raises(UserError, match=r"^--space: optim\.clip is now optim\.max_grad_norm\.$"):
        search_space.parse("optim.clip=0,1", MOE)
