"""Presets with numbers of samples: those of the paper, by data set, and what is drawn of other numbers of pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from fusion.data import quotas
from fusion.data.finding import PairRef
from fusion.data.quotas import ANY, DATA_SETS, compare_with_quota, find_data_sets
from fusion.data.shards import CorpusConfig, ShardPlan, plan_shards
from fusion.degrade import PRESETS
from fusion.errors import UserError

COUNTS = CorpusConfig("p", "demmi-rf-counts", seed=4)
MIXTURES = CorpusConfig("p", "demmi-rf-combinations", seed=4)


def refs(count: int, source: str, split: str) -> list[PairRef]:
    paths = ("scenes:0:64x64", "scenes:0:64x64", None, ())
    return [PairRef(f"{source}-{split}-{i}", source, split, *paths) for i in range(count)]


def made(plans: Iterable[ShardPlan]) -> Counter[tuple[str, str, str]]:
    return Counter(
        (plan.split, text, ref.source)
        for plan in plans
        for ref, texts in zip(plan.refs, plan.degradations, strict=True)
        for text in texts
    )


def test_the_numbers_of_the_paper_add_up():
    """By degradation, the last column of the README's tables, and in all 26,631, 9,895 and 510."""
    sums = {
        split: {name: sum(numbers.values()) for name, numbers in wanted.items()}
        for split, wanted in quotas.DEMMI_RF.items()
    }
    names = ("noise1", "noise2", "noise3", "haze2", "defocus2", "stripes2")
    assert sums["train"] == dict(zip(names, (3508, 3505, 3506, 3538, 5165, 7409), strict=True))
    assert sums["test"] == dict(zip(names, (1518, 1518, 1518, 1678, 2229, 1434), strict=True))
    assert (sum(sums["train"].values()), sum(sums["test"].values())) == (26_631, 9_895)
    assert sum(sum(numbers.values()) for numbers in quotas.DEMMI_RF_COMBINATIONS["test"].values()) == 510
    assert set(quotas.DEMMI_RF_COMBINATIONS) == {"test"}


def test_which_data_sets_have_which_degradations():
    train, test = quotas.DEMMI_RF["train"], quotas.DEMMI_RF["test"]
    assert "M3FD" not in train["defocus2"] and "M3FD" not in test["defocus2"]
    assert set(train["stripes2"]) == {"M3FD", "MSRS", "DroneVehicle", "DroneRGBT"}
    assert test["stripes2"]["LLVIP"] == 50 and "LLVIP" not in train["haze2"]
    assert {name for wanted in (*train.values(), *test.values()) for name in wanted} == set(DATA_SETS)


def test_the_page_has_these_numbers():
    text = (Path(__file__).parents[3] / "docs" / "demmi_rf.md").read_text()
    rows = {line.split("|")[1].strip(): line.split("|")[2:-2] for line in text.splitlines() if line.startswith("|")}
    assert [cell.strip() for cell in rows[""]] == list(DATA_SETS)
    for degradation in quotas.DEMMI_RF["train"]:
        for name, cell in zip(DATA_SETS, rows[degradation], strict=True):
            numbers = [quotas.DEMMI_RF[split][degradation].get(name, 0) for split in ("train", "test")]
            train, test = f"{numbers[0]:,}" * (numbers[0] > 0), f"({numbers[1]:,})" * (numbers[1] > 0)
            assert cell.strip() == f"{train} {test}".strip()


def test_every_data_set_gives_its_number():
    given = [*refs(150, "M3FD", "train"), *refs(30, "M3FD", "val"), *refs(60, "M3FD", "test")]
    given += [*refs(60, "msrs_night", "train"), *refs(20, "MSRS-day", "train"), *refs(20, "TNO", "train")]
    plans = plan_shards(given, COUNTS)
    found = made(plans)
    assert found["train", "noise1", "M3FD"] + found["val", "noise1", "M3FD"] == 130  # of 180
    assert (
        found["train", "stripes2", "M3FD"] == 150 and found["val", "stripes2", "M3FD"] == 30
    )  # all there are, of 3,900
    assert found["test", "noise3", "M3FD"] == 56 and found["test", "stripes2", "M3FD"] == 60
    assert found["train", "noise2", "msrs_night"] + found["train", "noise2", "MSRS-day"] == 19
    assert 0 < found["train", "noise2", "MSRS-day"] < 19  # two folders of one data set share its number
    assert not any(source == "TNO" for _, _, source in found)
    assert not any(text == "defocus2" and source == "M3FD" for _, text, source in found)
    assert plan_shards(given[::-1], COUNTS) == plans

    data_sets = find_data_sets({ref.source for ref in given}, COUNTS.preset)
    rows = {
        (row.split, row.degradation, row.data_set): row for row in compare_with_quota(COUNTS.preset, found, data_sets)
    }
    assert (rows["train", "noise2", "MSRS"].made, rows["train", "noise2", "MSRS"].wanted) == (19, 19)
    assert (rows["train", "noise1", ANY].made, rows["train", "noise1", ANY].wanted) == (130 + 19, 3508)
    assert ("train", "noise1", "LLVIP") not in rows  # no pair of it is there
    assert compare_with_quota("demmi-rf", found, {}) == []


def test_another_seed_draws_other_pairs():
    given = refs(200, "LLVIP", "test")
    drawn = []
    for seed in (4, 4, 5):
        plans = plan_shards(given, replace(COUNTS, seed=seed))
        pairs = [pair for plan in plans for pair in zip(plan.refs, plan.degradations, strict=True)]
        drawn.append({(ref.key, text) for ref, texts in pairs for text in texts})
    assert drawn[0] == drawn[1] != drawn[2]
    assert Counter(text for _, text in drawn[0]) == Counter(text for _, text in drawn[2])


def test_the_multi_task_test_set_is_17_times_30():
    given = [*refs(300, "here", "test"), *refs(900, "there", "test"), *refs(50, "here", "train")]
    plans = plan_shards(given, MIXTURES)
    found = Counter((plan.split, text) for plan in plans for texts in plan.degradations for text in texts)
    assert found == {("test", str(mixture)): 30 for mixture in PRESETS["combinations"]}
    assert len(found) == 17 and found.total() == 510
    assert len({ref.key for plan in plans for ref in plan.refs}) > 350  # hardly an image twice
    assert max(plan.samples for plan in plans) <= 64 and len(plans) < 40  # shards are not all but empty
    few = plan_shards(refs(20, "here", "test"), MIXTURES)
    assert made(few).total() == 17 * 20


@pytest.mark.parametrize(
    ("source", "name"),
    [("M3FD", "M3FD"), ("llvip_small", "LLVIP"), ("Drone-Vehicle", "DroneVehicle"), ("data_roadscene", "RoadScene"),
     ("DroneRGBT_crops", "DroneRGBT"), ("scenes", ""), ("EMS_dataset_vis_Low_Light", "")],
)  # fmt: skip
def test_the_name_of_a_folder_says_its_data_set(source, name):
    assert find_data_sets([source, "FMB"], COUNTS.preset) == {"FMB": "FMB", source: name}


def test_an_option_says_it_too():
    assert find_data_sets(["a", "b=c", "msrs"], COUNTS.preset, "a=m3fd, b=c=LLVIP") == {
        "a": "M3FD", "b=c": "LLVIP", "msrs": "MSRS",
    }  # fmt: skip
    assert find_data_sets(["M3FD_on_MSRS"], COUNTS.preset, "M3FD_on_MSRS=MSRS") == {"M3FD_on_MSRS": "MSRS"}
    assert find_data_sets(["a"], "demmi-rf") == {}
    assert find_data_sets(["a"], MIXTURES.preset) == {"a": ""}  # the mixtures are of any pairs


@pytest.mark.parametrize(
    ("sources", "named", "said"),
    [
        (["a", "scenes"], "", r"sources here are a, scenes.*--data-sets SOURCE=NAME"),
        (["FMB", "a"], "c=M3FD", "names 'c'; the sources of these pairs are FMB, a"),
        (["M3FD_MSRS"], "", "M3FD or MSRS.*--data-sets M3FD_MSRS=M3FD"),
        (["a"], "a", "cannot read --data-sets 'a'"),
        (["a"], "a=KAIST", "M3FD, FMB, LLVIP"),
    ],
)
def test_what_cannot_be_told_is_refused(sources, named, said):
    with pytest.raises(UserError, match=said):
        find_data_sets(sources, COUNTS.preset, named)


def test_pairs_without_a_split_that_the_preset_takes_are_refused():
    with pytest.raises(UserError, match=r"takes none of these pairs: a \(train\).*splits test"):
        plan_shards(refs(5, "a", "train"), MIXTURES)
