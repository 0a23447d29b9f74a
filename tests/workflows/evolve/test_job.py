"""`duskfuse evolve` on a real local Ray: two methods, then a third that joins.

Each evolution is computed once; every test has the folder as that evolution left it.
"""

import csv
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from fusion import inference
from fusion.classical import CLASSICAL
from fusion.data.pairs import find_pairs, read_pair
from fusion.images.colour import to_grey
from fusion.images.png import encode_png
from tests.helpers.command_line import one_line, run, succeed
from tests.helpers.folders import put_back, times

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

SIZES = ["--recipe.epochs", 2, "--recipe.batch-size", 4, "--recipe.crops.size", 64, "--recipe.validation.size", 64]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("evolve")


@pytest.fixture(scope="module")
def words(place):
    return ["evolve", "--pairs", "scenes:14:208x192:6", "--out", place / "out", *SIZES, "--finetune-epochs", 1]


class Evolved(NamedTuple):
    """What a command left: its evolutions, a copy of its folder, and how old the methods' results were before it."""

    evolutions: list[dict]
    saved: Path
    before: dict[Path, int]


@pytest.fixture(scope="module")
def first(place, words) -> Evolved:
    """Two methods."""
    succeed(*words, "--methods", "average,tif")
    shutil.copytree(place / "out", place / "first")
    return Evolved(evolutions(place), place / "first", {})


@pytest.fixture(scope="module")
def keys(first, place) -> list[str]:
    """The labelled pairs, in order."""
    return sorted(labels(first.saved, 1))


@pytest.fixture(scope="module")
def sharp(place, words, keys) -> Path:
    """Fused images (LP's) that win, but lack the first pair; the second has another size, the third has stripes."""
    folder = place / "sharp"
    folder.mkdir()
    pairs = {ref.key: read_pair(ref) for ref in find_pairs(words[2]).refs if ref.key in keys[1:]}
    for key, pair in pairs.items():
        image = inference.fuse(CLASSICAL["lp"].fuse, to_grey(pair.visible), pair.infrared)
        if key == keys[2]:
            image[:, ::4] = image[:, 1::4] = 0
        (folder / f"{key}.png").write_bytes(encode_png(image[:-1] if key == keys[1] else image))
    return folder


@pytest.fixture(scope="module")
def second(first, place, words, sharp) -> Evolved:
    """The third method has joined; the results of the first network were gone."""
    put_back(first.saved, place / "out")
    before = results(place / "out")
    shutil.rmtree(place / "out" / "library" / "network-1")
    code, _, err = run(*words, "--methods", "average,tif", "--fused", f"sharp={sharp}")
    assert code == 0, err
    shutil.copytree(place / "out", place / "second")
    return Evolved(evolutions(place), place / "second", before)


@pytest.fixture
def after_first(first, place) -> Path:
    put_back(first.saved, place / "out")
    return place / "out"


@pytest.fixture
def after_second(second, place) -> Path:
    put_back(second.saved, place / "out")
    return place / "out"


def evolutions(place: Path) -> list[dict]:
    return json.loads((place / "out" / "evolve.json").read_text())["evolutions"]


def results(out: Path) -> dict[Path, int]:
    """When the results of the two methods were written, below OUT."""
    written = {name: times(out / "library" / name) for name in ("average", "tif")}
    return {path.relative_to(out): when for files in written.values() for path, when in files.items()}


def labels(out: Path, number: int) -> dict[str, dict[str, str]]:
    with open(out / "evolutions" / str(number) / "labels.csv", newline="") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


def test_the_first_evolution(first):
    (one,) = first.evolutions
    assert one["library"] == one["joined"] == ["average", "tif"] and one["replaced"] == 0
    assert one["forgetting"] is None and one["epochs"] == 2
    assert sum(one["wins"].values()) == one["labels"] == 11 and one["held_out_pairs"] == 3
    assert set(one["held_out_scores"]) == {"average", "tif", "network-1"}
    assert (first.saved / "checkpoint/model.safetensors").stat().st_size < 60_000


def test_labels_are_the_best_results(first):
    names = first.evolutions[0]["library"]
    scores = {name: json.loads((first.saved / "library" / name / "scores.json").read_text()) for name in names}
    for key, row in labels(first.saved, 1).items():
        best = max(scores, key=lambda name: float(scores[name][key][0]))
        assert (row["method"], float(row["score"])) == (best, float(scores[best][key][0]))


def test_again_does_nothing(after_first, words, command):
    before = times(after_first)
    code, out, _ = command(*words, "--methods", "average,tif")
    assert code == 0 and "nothing new" in out
    assert times(after_first) == before


def test_a_method_joins(first, second, keys):
    one, two = second.evolutions
    assert one == first.evolutions[0]
    assert two["joined"] == ["sharp"] and two["replaced"] == two["wins"]["sharp"] == len(keys) - 3
    assert two["forgetting"]["pairs"] == 1 and two["epochs"] == 1
    assert two["label_score"] > one["label_score"]
    new, old = labels(second.saved, 2), labels(second.saved, 1)
    assert [new[key] == old[key] for key in keys] == [True] * 3 + [False] * (len(keys) - 3)
    settings = json.loads((second.saved / "evolutions/2/training/run.json").read_text())["settings"]
    assert settings["init_checkpoint"] is not None and settings["recipe"]["optim"]["lr"] == pytest.approx(1e-4)


def test_results_that_are_there_are_kept(second):
    assert results(second.saved) == second.before and second.before


def test_images_that_cannot_win_are_named(second, keys):
    scored = second.saved / "library" / "sharp"
    assert second.evolutions[1]["failures"]["sharp"] == 6  # missing, another size, stripes, and three held-out pairs
    refused = json.loads((scored / "scores.json").read_text())[keys[2]]
    assert refused[0] == "nan" and "times as sharp as both images together" in refused[1]
    assert not (scored / f"{keys[2]}.png").exists()


def test_a_network_whose_results_are_gone_is_scored_again(second):
    one, two = second.evolutions
    assert two["held_out_scores"]["network-1"] == one["held_out_scores"]["network-1"]
    scored = json.loads((second.saved / "library" / "network-1" / "scores.json").read_text())
    assert len(scored) == 3  # on held-out pairs only


def test_a_method_that_wins_nothing_joins(after_second, sharp, words, command):
    """It is scored, and the network, which has nothing new to learn, stays."""
    network = after_second / "checkpoint/model.safetensors"
    before = network.read_bytes()
    fused = ["--fused", f"sharp={sharp}", "--fused", f"dull={after_second / 'library/average'}"]
    code, _, err = command(*words, "--methods", "average,tif", *fused)
    assert code == 0 and "no label is replaced" in err, err
    *earlier, last = json.loads((after_second / "evolve.json").read_text())["evolutions"]
    assert last["evolution"] == 3 and last["joined"] == ["dull"] and last["epochs"] == last["replaced"] == 0
    assert last["wins"] == earlier[-1]["wins"] and labels(after_second, 3) == labels(after_second, 2)
    assert last["held_out_scores"]["dull"] == last["held_out_scores"]["average"]
    assert last["held_out_scores"]["network-3"] == last["held_out_scores"]["network-2"]
    assert last["forgetting"]["before"] == last["forgetting"]["after"]
    assert network.read_bytes() == before


def test_an_evolution_begins_with_an_earlier_one_in_a_folder_of_its_own(first, second, place, words, sharp, command):
    """The same comes of it as in one folder, nothing is fused again, and the earlier one stays as it is."""
    before, out = times(first.saved), place / "elsewhere"
    fused = ["--methods", "average,tif", "--fused", f"sharp={sharp}"]
    elsewhere = [out if word == place / "out" else word for word in words]
    code, _, err = command(*elsewhere, *fused, "--from", first.saved)
    assert code == 0 and "copying 1 evolution with" in err, err
    result = json.loads((out / "evolve.json").read_text())["evolutions"]
    for ours, theirs in zip(result, second.evolutions, strict=True):
        assert ours["held_out_scores"] == pytest.approx(theirs["held_out_scores"], rel=1e-4, nan_ok=True)
        assert ours["forgetting"] == theirs["forgetting"] or ours["forgetting"] == pytest.approx(theirs["forgetting"])
        for name in ("library", "joined", "labels", "replaced", "wins", "epochs"):
            assert ours[name] == theirs[name], name
    assert labels(out, 2) == labels(second.saved, 2)
    assert times(first.saved) == before
    code, said, err = command(*elsewhere, *fused, "--from", first.saved)
    assert code == 0 and "nothing new" in said and "copying" not in err
    code, _, err = command(*elsewhere, *fused, "--from", first.saved, "--recipe.seed", 5)
    assert code == 2
    one_line(err, "--from", "recipe.seed is 0 there and 5 now")


def test_wrong_words(after_first, command, words, tmp_path):
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
