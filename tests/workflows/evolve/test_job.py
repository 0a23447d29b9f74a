"""`duskfuse evolve` on a real local Ray: two methods, then a third that joins."""

import csv
import json
import shutil

import pytest

from fusion import inference
from fusion.classical import CLASSICAL
from fusion.data.pairs import find_pairs, read_pair
from fusion.images.colour import to_grey
from fusion.images.png import encode_png
from tests.helpers.command_line import one_line

pytestmark = pytest.mark.ray

SIZES = ["--recipe.epochs", 2, "--recipe.batch-size", 4, "--recipe.crops.size", 64, "--recipe.validation.size", 64]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("evolve")


@pytest.fixture(scope="module")
def words(place):
    return ["evolve", "--pairs", "scenes:14:208x192:6", "--out", place / "out", *SIZES, "--finetune-epochs", 1]


@pytest.fixture(scope="module")
def first(local_ray, place, words):
    from workflows.cli import main

    assert main([str(word) for word in [*words, "--methods", "average,tif"]]) == 0
    return json.loads((place / "out" / "evolve.json").read_text())["evolutions"]


def labels(place, number):
    with open(place / "out" / "evolutions" / str(number) / "labels.csv", newline="") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


def test_the_first_evolution(first, place):
    (one,) = first
    assert one["library"] == one["joined"] == ["average", "tif"] and one["replaced"] == 0
    assert one["forgetting"] is None and one["epochs"] == 2
    assert sum(one["wins"].values()) == one["labels"] == 11 and one["held_out_pairs"] == 3
    assert set(one["held_out_scores"]) == {"average", "tif", "network-1"}
    scores = {name: json.loads((place / "out/library" / name / "scores.json").read_text()) for name in one["library"]}
    for key, row in labels(place, 1).items():
        best = max(scores, key=lambda name: float(scores[name][key][0]))
        assert (row["method"], float(row["score"])) == (best, float(scores[best][key][0]))
    assert (place / "out/checkpoint/model.safetensors").stat().st_size < 60_000


def test_again_does_nothing(first, place, words, command):
    before = {path: path.stat().st_mtime_ns for path in (place / "out").rglob("*") if path.is_file()}
    code, out, _ = command(*words, "--methods", "average,tif")
    assert code == 0 and "nothing new" in out
    assert {path: path.stat().st_mtime_ns for path in (place / "out").rglob("*") if path.is_file()} == before


def test_a_method_joins(first, place, words, command):
    """A folder of fused images (LP's) that wins, lacks a pair, and has an image of another size and one of stripes."""
    keys = sorted(labels(place, 1))
    fused = place / "sharp"
    fused.mkdir()
    scored = place / "out" / "library"
    pairs = {ref.key: read_pair(ref) for ref in find_pairs(words[2]).refs if ref.key in keys[1:]}
    for key, pair in pairs.items():
        image = inference.fuse(CLASSICAL["lp"].fuse, to_grey(pair.visible), pair.infrared)
        if key == keys[2]:
            image[:, ::4] = image[:, 1::4] = 0
        (fused / f"{key}.png").write_bytes(encode_png(image[:-1] if key == keys[1] else image))
    before = {path: path.stat().st_mtime_ns for name in ("average", "tif") for path in (scored / name).iterdir()}
    shutil.rmtree(scored / "network-1")  # a network whose results are gone is scored again
    code, _, err = command(*words, "--methods", "average,tif", "--fused", f"sharp={fused}")
    assert code == 0, err
    assert {
        path: path.stat().st_mtime_ns for name in ("average", "tif") for path in (scored / name).iterdir()
    } == before
    one, two = json.loads((place / "out" / "evolve.json").read_text())["evolutions"]
    assert one == first[0]
    assert two["joined"] == ["sharp"] and two["replaced"] == two["wins"]["sharp"] == len(keys) - 3
    assert two["failures"]["sharp"] == 6  # one missing, one of another size, one of stripes, and three held-out pairs
    refused = json.loads((scored / "sharp" / "scores.json").read_text())[keys[2]]
    assert refused[0] == "nan" and "times as sharp as both images together" in refused[1]
    assert not (scored / "sharp" / f"{keys[2]}.png").exists()
    assert two["forgetting"]["pairs"] == 1 and two["epochs"] == 1
    assert two["label_score"] > one["label_score"]
    assert two["held_out_scores"]["network-1"] == one["held_out_scores"]["network-1"]
    assert len(json.loads((scored / "network-1" / "scores.json").read_text())) == 3  # on held-out pairs only
    new, old = labels(place, 2), labels(place, 1)
    assert [new[key] == old[key] for key in keys] == [True] * 3 + [False] * (len(keys) - 3)
    run = json.loads((place / "out/evolutions/2/training/run.json").read_text())
    assert run["settings"]["init_checkpoint"] is not None and run["settings"]["recipe"]["optim"]["lr"] == pytest.approx(
        1e-4
    )


def test_a_method_that_wins_nothing_joins(first, place, words, command):
    """It is scored, and the network, which has nothing new to learn, stays."""
    network = place / "out/checkpoint/model.safetensors"
    before = network.read_bytes()
    fused = ["--fused", f"sharp={place / 'sharp'}", "--fused", f"dull={place / 'out/library/average'}"]
    code, _, err = command(*words, "--methods", "average,tif", *fused)
    assert code == 0 and "no label is replaced" in err, err
    *earlier, last = json.loads((place / "out" / "evolve.json").read_text())["evolutions"]
    assert last["evolution"] == 3 and last["joined"] == ["dull"] and last["epochs"] == last["replaced"] == 0
    assert last["wins"] == earlier[-1]["wins"] and labels(place, 3) == labels(place, 2)
    assert last["held_out_scores"]["dull"] == last["held_out_scores"]["average"]
    assert last["held_out_scores"]["network-3"] == last["held_out_scores"]["network-2"]
    assert last["forgetting"]["before"] == last["forgetting"]["after"]
    assert network.read_bytes() == before


def test_wrong_words(command, place, words, tmp_path):
    for more, parts in (
        (["--methods", "adf,magic"], ["magic", "adf"]),
        (["--methods", ""], ["library is empty"]),
        (["--methods", "tif", "--fused", f"tif={tmp_path}"], ["tif", "twice"]),
        (["--methods", "tif", "--checkpoint", f"m={tmp_path}"], [tmp_path, "checkpoint"]),
        (["--methods", "tif", "--max-sharpness", -1], ["--max-sharpness", "at least 0"]),
        (["--methods", "tif", "--recipe.seed", 5], ["recipe.seed", "another"]),
    ):
        code, _, err = command(*words, *more)
        assert code == 2, (more, err)
        one_line(err, *parts)
