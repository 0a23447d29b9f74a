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
    tasks = "scenes:10:208x192,multifocus:10:208x192"
    words = ["commonness", "--tasks", tasks, "--methods", "average,lp", "--out", place / "common", *SIZES]
    succeed(*words)
    return place / "common", words


def test_one_network_for_all_tasks(common, command):
    out, words = common
    table = pd.read_csv(out / "table.csv").set_index("task")
    assert list(table.index) == ["scenes", "multifocus"]
    assert list(table.columns) == ["pairs", "unscored", "scenes", "multifocus", "mixed", "kept"]
    assert table["pairs"].tolist() == [2, 2]
    for task, row in table.iterrows():
        assert row["kept"] == pytest.approx(row["mixed"] / row[task])
    before = (out / "table.csv").read_bytes()
    code, said, _ = command(*words)
    assert code == 0 and said.count("nothing new") == 2
    assert (out / "table.csv").read_bytes() == before


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
    assert json.loads((out / "variants.json").read_text())["pairs"] == 2
    trained = {path: path.stat().st_mtime_ns for path in out.rglob("run.json")}
    assert command(*words)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("run.json")} == trained


def test_wrong_words(command, tmp_path):
    for words, parts in (
        (["variants", "--evolution", tmp_path], ["no finished evolution"]),
        (["variants", "--evolution", tmp_path, "--blocks", "gcb,magic"], ["magic", "gcb_inception"]),
        (["commonness", "--tasks", "scenes:10"], ["two tasks"]),
        (["commonness", "--tasks", "scenes:10,scenes:12"], ["scenes", "twice"]),
    ):
        code, _, err = command(*words, "--out", tmp_path / "out")
        assert code == 2, words
        one_line(err, *parts)
