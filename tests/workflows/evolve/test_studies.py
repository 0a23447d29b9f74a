"""The studies of AE-Netv2's paper on a real local Ray, very small: blocks, and commonness of tasks."""

import json

import pandas as pd
import pytest

from tests.helpers.command_line import one_line, succeed

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

SIZES = ["--recipe.epochs", 2, "--recipe.batch-size", 4, "--recipe.crops.size", 64, "--recipe.validation.size", 64]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def common(place):
    tasks = "scenes:10:208x192,multifocus:14:208x192"
    words = ["commonness", "--tasks", tasks, "--methods", "average,lp", "--amounts", "1", "--out", place / "common"]
    succeed(*words, *SIZES)
    return place / "common", [*words, *SIZES]


def test_one_network_for_all_tasks(common, command):
    out, words = common
    table = pd.read_csv(out / "table.csv").set_index("task")
    assert list(table.index) == ["scenes", "multifocus", "mean"]
    names = ["scenes", "multifocus", "mixed", "tuned", "kept", "beta", "unique"]
    assert list(table.columns) == ["pairs", "unscored", *names]
    assert table["pairs"].min() >= 2 and table.loc["mean", "pairs"] == table["pairs"].iloc[:2].sum()
    for task, row in table.drop("mean").iterrows():
        assert row["kept"] == pytest.approx(row["mixed"] / row["tuned"])
        assert 0 <= row["unique"] <= 1
        assert table.loc["mean", task] == pytest.approx(table[task].iloc[:2].mean())
    before = (out / "table.csv").read_bytes()
    code, said, _ = command(*words)
    assert code == 0 and said.count("nothing new") == 2
    assert (out / "table.csv").read_bytes() == before


def test_sums_of_parts_begin_and_end_at_the_networks(common):
    out, _ = common
    table = pd.read_csv(out / "table.csv").set_index("task")
    unique = pd.read_csv(out / "unique.csv").set_index(["task", "a"])["e2"]
    transfer = pd.read_csv(out / "transfer.csv").set_index(["task", "from", "a"])
    for task, other in (("scenes", "multifocus"), ("multifocus", "scenes")):
        assert unique[task, 1.0] == pytest.approx(table.loc[task, "tuned"], rel=2e-3)
        assert transfer.loc[(task, other, 0.0), "e2"] == pytest.approx(unique[task, 1.0])
        assert set(transfer.loc[(task, other)].index) == {0.0, 1.0}
    similarity = pd.read_csv(out / "similarity.csv").set_index("task")
    assert similarity.loc["scenes", "scenes"] == pytest.approx(1)


def test_no_scene_is_on_both_sides_of_any_task(common):
    sides: dict[str, set[str]] = {}
    for task in ("scenes", "multifocus"):
        splits = pd.read_csv(common[0] / "tasks" / task / "splits.csv")
        for key, split in zip(splits["key"], splits["split"], strict=True):
            sides.setdefault(key.rpartition("-")[2], set()).add(split)
    assert len(sides) == 14 and all(len(side) == 1 for side in sides.values())


def test_blocks_side_by_side(common, command, tmp_path):
    out = tmp_path / "blocks"
    words = ["variants", "--evolution", common[0] / "tasks" / "scenes", "--out", out, "--blocks", "gcb,plain"]
    words += ["--steps", 4, "--num-seeds", 2, "--batch-size", 4, "--patch", 64]
    code, _, err = command(*words)
    assert code == 0, err
    table = pd.read_csv(out / "table.csv").set_index("block")
    assert table["parameters"].to_dict() == {"gcb": 5378, "plain": 1537}
    assert table["seeds"].tolist() == [2, 2] and (table["e2_sd"] > 0).all() and (table["ms"] > 0).all()
    runs = pd.read_csv(out / "runs.csv")
    assert runs.groupby("block")["e2"].mean().to_dict() == pytest.approx(table["e2"].to_dict())
    assert b"gcb (0.0645 MB)" in (out / "bubbles.svg").read_bytes()
    assert json.loads((out / "variants.json").read_text())["pairs"] == pd.read_csv(common[0] / "table.csv")["pairs"][0]
    trained = {path: path.stat().st_mtime_ns for path in out.rglob("run.json")}
    assert command(*words)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("run.json")} == trained


def test_blocks_on_several_tasks(common, command, tmp_path):
    out = tmp_path / "blocks"
    words = [
        "variants",
        "--out",
        out,
        "--blocks",
        "plain",
        "--steps",
        4,
        "--num-seeds",
        1,
        "--batch-size",
        4,
        "--patch",
        64,
    ]
    for task in ("scenes", "multifocus"):
        words += ["--evolution", common[0] / "tasks" / task]
    code, _, err = command(*words)
    assert code == 0, err
    row = pd.read_csv(out / "table.csv").iloc[0]
    assert row["e2"] == pytest.approx((row["e2_of_scenes"] + row["e2_of_multifocus"]) / 2)
    assert json.loads((out / "variants.json").read_text())["tasks"] == ["scenes", "multifocus"]


def test_wrong_words(command, tmp_path):
    for words, parts in (
        (["variants", "--evolution", tmp_path], ["no finished evolution"]),
        (["variants"], ["--evolution", "duskfuse evolve"]),
        (["variants", "--evolution", tmp_path, "--blocks", "gcb,magic"], ["magic", "gcb_inception"]),
        (["commonness", "--tasks", "scenes:10"], ["two tasks"]),
        (["commonness", "--tasks", "scenes:10,scenes:12"], ["scenes", "twice"]),
        (["commonness", "--amounts", "0.5,2"], ["--amounts", "0 to 1"]),
        (["commonness", "--task-methods", "lytro=lp"], ["--task-methods", "multifocus"]),
        (["commonness", "--methods", "lp,magic"], ["magic", "mertens"]),
        (["commonness", "--splits", "s.csv"], ["--splits", "several tasks"]),
    ):
        code, _, err = command(*words, "--out", tmp_path / "out")
        assert code == 2, words
        one_line(err, *parts)
