"""The tasks of a study without Ray: joint splits, suited methods, as many steps for each."""

from dataclasses import replace

import pytest

from fusion.data.finding import PairRef
from fusion.data.pairs import find_pairs
from fusion.errors import UserError
from fusion.training.recipes import aenet
from workflows.commonness.options import Args
from workflows.commonness.tasks import crops_per_pair, draw_splits, methods_of, mixed_recipe, parse_tasks
from workflows.evolve.options import DEFAULT_METHODS
from workflows.evolve.store import LabelledPair, mix_tasks

ARGS = Args(out="o", sequences=False)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "uris", [("scenes:40", "multifocus:40"), ("combinedvision:61", "scenes:17", "multiexposure:40")]
)
def test_no_scene_is_on_both_sides_of_any_task(uris, seed):
    """Whatever the counts: a draw by each task's own keys, or its own share of one order, would leak."""
    pairs = {uri.partition(":")[0]: find_pairs(uri).refs for uri in uris}
    splits, _ = draw_splits(pairs, replace(ARGS, seed=seed))
    sides: dict[str, set[str]] = {}
    for refs in splits.values():
        for ref in refs:
            sides.setdefault(ref.visible.partition(":")[2], set()).add(ref.split)
    assert len(sides) == max(map(len, pairs.values())) and all(len(side) == 1 for side in sides.values())
    for refs in splits.values():
        held_out = sum(ref.split == "test" for ref in refs)
        assert 0 < held_out <= 0.5 * len(refs)


def test_a_patient_is_on_one_side_in_all_tasks_and_folders():
    def slices(task: str, patients: dict[int, int]) -> list[PairRef]:
        stems = [f"{patient}{5 + 2 * i:03d}" for patient, count in patients.items() for i in range(count)]
        return [PairRef(s, task, "", f"/{task}/visible/{s}.png", f"/{task}/infrared/{s}.png", None, ()) for s in stems]

    pairs = {
        "ct": slices("ct", {16: 6, 20: 9, 21: 8, 28: 8, 2: 9, 33: 8}),
        "spect": slices("spect", {21: 4, 28: 3, 35: 3, 10: 8, 11: 2, 40: 6}),
        "lytro": [
            PairRef(f"l{i}", "l", "", f"/l/visible/l-{i}.jpg", f"/l/infrared/l-{i}.jpg", None, ()) for i in range(9)
        ],
    }
    splits, sequence = draw_splits(pairs, replace(ARGS, sequence_pattern=r"(\d+)\d{3}"))
    assert sequence["ct/21005"] == sequence["spect/21007"] == "21" and "lytro/l0" not in sequence
    sides: dict[int, set[str]] = {}
    for task in ("ct", "spect"):
        for ref in splits[task]:
            sides.setdefault(int(ref.key) // 1000, set()).add(ref.split)
    assert all(len(side) == 1 for side in sides.values())
    assert all({"train", "test"} <= {ref.split for ref in refs} for refs in splits.values())


def test_labels_come_from_methods_that_suit_the_task():
    methods = methods_of(("roadscene", "multifocus", "medical_ct-mri", "multiexposure"), ARGS)
    assert methods["roadscene"] == DEFAULT_METHODS
    assert "sml" in methods["multifocus"] and "mertens" in methods["multiexposure"]
    assert all("ifevip" not in methods[name] for name in ("multifocus", "medical_ct-mri", "multiexposure"))
    chosen = replace(ARGS, methods="average,lp", task_methods=("b=sml",))
    assert methods_of(("a", "b"), chosen) == {"a": "average,lp", "b": "sml"}
    with pytest.raises(UserError, match="a, b"):
        methods_of(("a", "b"), replace(ARGS, task_methods=("c=sml",)))


def test_names_of_columns_are_no_tasks():
    assert list(parse_tasks("x=/a,/b/c/,scenes:4")) == ["x", "c", "scenes"]
    for name in ("mixed", "tuned", "beta", ".", "a/b"):
        with pytest.raises(UserError, match="--tasks"):
            parse_tasks(f"{name}=scenes:4,multifocus:4")


def test_every_network_makes_about_as_many_steps():
    def refs(count: int) -> list[PairRef]:
        return [PairRef(f"k{i}", "s", "train", "v", "i", None, ()) for i in range(count)]

    splits = {"large": refs(40), "small": refs(11), "one": refs(1)}
    recipe = replace(aenet(), epochs=30)
    crops = crops_per_pair(splits, recipe)
    assert crops == {"large": 1, "small": 4, "one": 40}
    labelled = {name: [LabelledPair(ref, "l.png") for ref in refs] for name, refs in splits.items()}
    mixed = mix_tasks(labelled)
    assert len(mixed) == 40 + 44 + 40 and len({pair.ref.key for pair in mixed}) == len(mixed)
    for_all = mixed_recipe(recipe, 3)
    assert for_all.epochs * len(mixed) == pytest.approx(recipe.epochs * 40, rel=0.05)
    assert for_all.optim.milestones == (3,)
    assert mix_tasks({"one": labelled["small"]}) == labelled["small"]
    with pytest.raises(UserError, match="empty"):
        crops_per_pair({"large": refs(3), "empty": []}, recipe)
