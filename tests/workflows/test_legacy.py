"""Folders that revision 103a0ad wrote: they are read, and what was interrupted goes on with today's commands.

tests/fixtures/103a0ad was made by that revision's own commands; paths in its JSON begin with ROOT, in whose place a
test puts its own folder. Images of the library and Ray's checkpoints of finished trainings were left out.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fusion.data.corpus import open_corpus, verify
from fusion.data.shards import library_versions
from fusion.images.decode import decode
from tests.helpers.command_line import one_line
from workflows.evolve.store import count_evolutions, read_evolution, read_spec
from workflows.legacy import upgrade_evolve, upgrade_result, upgrade_score, upgrade_settings

OLD = Path(__file__).parents[1] / "fixtures" / "103a0ad"
ROOT = "/fixtures"
CORPUS = ["--pairs", "scenes:5:64x64:3", "--preset", "noise2,haze2", "--shard-samples", 4]
CORPUS += ["--test-fraction", 0.2, "--val-fraction", 0.2]
SMALL = ["--recipe.crops.size", 32, "--recipe.batch-size", 2, "--recipe.validation.size", 48, "--workers", 1]
TINY = ["--recipe.model.width", 4, "--recipe.model.heads", 1, 1, 1, 1, "--recipe.model.expansion", 0.5]
TINY += ["--recipe.model.experts", 2, "--recipe.model.top-k", 1, "--recipe.model.prompt-atoms", 2]
TINY += ["--recipe.model.prompt-width", 4, "--recipe.model.bank-maps", 1, "--recipe.model.bank-channels", 4, 4, 4]
TINY += ["--recipe.model.bank-sizes", 4, 2, 1, "--recipe.model.bank-heads", 1, *SMALL]
EVOLVE = ["evolve", "--pairs", "scenes:5:208x192:6", "--recipe.epochs", 1, "--recipe.batch-size", 2]
EVOLVE += ["--recipe.crops.size", 64, "--recipe.validation.size", 64, "--test-fraction", 0.2, "--val-fraction", 0.2]


@pytest.fixture
def old(tmp_path):
    """The folders of the old revision, at a place of this test's own."""
    folder = tmp_path / "old"
    for name in ("corpus", "interrupted", "aenet", "fused", "scores", "evolve"):
        shutil.copytree(OLD / name, folder / name)
    for path in folder.rglob("*.json"):
        path.write_text(path.read_text().replace(ROOT, str(folder)))
    return folder


def read(path):
    return json.loads(path.read_text())


def old_keys(value):
    """Keys that are only in files of the old revision, at any depth."""
    if isinstance(value, list):
        return set().union(*map(old_keys, value))
    if not isinstance(value, dict):
        return set()
    known = {"stamp", "content", "from", "val_share", "test_share", "sources", "held out", "label score", "wait_share"}
    return (known & set(value)).union(*map(old_keys, value.values()))


def test_a_corpus_is_whole(old, command):
    manifest = open_corpus(str(old / "corpus"))
    assert verify(manifest) == [] and manifest.rows() == 10
    assert manifest.content == read(old / "corpus" / "manifest.json")["content"]
    assert manifest.data["config"]["val_fraction"] == 0.2 and "command" in manifest.data["provenance"]
    assert not old_keys(manifest.data)
    code, out, _ = command("corpus", "verify", old / "corpus")
    assert code == 0 and "10 samples" in out


@pytest.mark.parametrize(
    ("file", "upgrade"),
    [
        ("corpus/plan.json", upgrade_settings),
        ("interrupted/settings.json", upgrade_settings),
        ("evolve/settings.json", upgrade_settings),
        ("evolve/evolutions/2/training/settings.json", upgrade_settings),
        ("aenet/run.json", upgrade_result),
        ("fused/fused.json", upgrade_result),
        ("scores/score.json", upgrade_score),
        ("evolve/evolve.json", upgrade_evolve),
    ],
)
def test_no_old_key_is_left(file, upgrade):
    before = read(OLD / file)
    assert old_keys(before)
    after = upgrade(before)
    assert not old_keys(after)
    assert upgrade(after) == after


def test_the_preset_that_had_one_number_for_all_data_sets_is_another_one():
    config = read(OLD / "corpus" / "plan.json")["config"] | {"preset": "demmi-rf-counts"}
    old, new = upgrade_settings({"config": config})["config"], upgrade_settings({"config": config | {"data_sets": ""}})
    assert old["preset"] == "demmi-rf-counts by totals" and new["config"]["preset"] == "demmi-rf-counts"
    assert upgrade_settings({"config": old})["config"] == old


def test_an_evolution_is_read(old):
    assert count_evolutions(str(old / "evolve")) == 2
    result, before = read_evolution(str(old / "evolve"), 2), read(old / "evolve" / "evolve.json")["evolutions"][1]
    assert result.joined == ["tif"] and result.held_out_pairs == before["held out"]["pairs"] == 1
    assert result.label_score == before["label score"]
    assert result.held_out_scores | {"pairs": 1} == before["held out"]
    assert result.held_out_scored == before["held out scored"]
    assert result.forgetting is not None and result.forgetting.after == before["forgetting"]["after"]
    assert read_spec(str(old / "evolve"), "tif").kind == "library"


def test_a_report_of_old_results(old, command, tmp_path):
    page = tmp_path / "r.html"
    words = ["report", "--scores", old / "scores", "--evolution", old / "evolve", "--run", old / "aenet"]
    code, _, err = command(*words, "--out", page)
    assert code == 0, err
    text = page.read_text()
    for word in ("duskfuse corpus --pairs", "duskfuse train aenet-tiny", "duskfuse score", "duskfuse fuse --method"):
        assert word in text, word
    assert open_corpus(str(old / "corpus")).content in text and "tif took over" in text


@pytest.mark.ray
def test_an_unfinished_corpus_goes_on(local_ray, old, command):
    if not same_libraries(old):
        pytest.skip("made with other versions of the libraries that draw and pack the pixels")
    corpus = old / "corpus"
    lost = corpus / "shards" / "000001-train.parquet"
    data, content = lost.read_bytes(), open_corpus(str(corpus)).content
    lost.unlink()
    (corpus / "manifest.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in (corpus / "shards").iterdir()}
    code, _, err = command("corpus", *CORPUS, "--out", corpus)
    assert code == 0, err
    assert lost.read_bytes() == data and open_corpus(str(corpus)).content == content
    assert {path: path.stat().st_mtime_ns for path in before} == before
    code, _, err = command("corpus", *CORPUS, "--seed", 1, "--out", corpus)
    assert code == 2
    one_line(err, "config.seed is 0 there and 1 now")


def same_libraries(old):
    """Whether the fixture's corpus was drawn and packed by the versions of today."""
    versions = read(old / "corpus" / "manifest.json")["stamp"]["versions"]
    names = {"numpy": "numpy", "cv2": "opencv-python", "pyarrow": "pyarrow", "PIL": "pillow"}
    now = library_versions()
    return all(versions[names[name]].startswith(now[name]) for name in names)


@pytest.mark.ray
def test_an_interrupted_training_goes_on(local_ray, old, command):
    run = old / "interrupted"
    words = ["train", "tgecnet-restore-tiny", "--corpus", old / "corpus", "--out", run, *TINY]
    code, out, err = command(*words, "--recipe.epochs", 4)
    assert code == 0, err
    history = read(run / "run.json")["history"]
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3, 4] and not old_keys(history)
    assert all(np.isfinite(epoch["val/psnr_input"]) for epoch in history)
    code, out, err = command("fuse", "--checkpoint", run, "--corpus", old / "corpus", "--out", old / "restored")
    assert code == 0 and "2 images fused" in out, err


@pytest.mark.ray
def test_an_old_run_fuses_and_old_images_are_kept(local_ray, old, command):
    code, out, err = command("fuse", "--checkpoint", old / "aenet", "--corpus", old / "corpus", "--out", old / "new")
    assert code == 0 and "2 images fused" in out, err
    words = ["fuse", "--method", "average", "--corpus", old / "corpus", "--out", old / "fused"]
    code, out, err = command(*words)
    assert code == 0 and "0 images fused, 2 were there" in out, err
    assert not old_keys(read(old / "fused" / "fused.json"))
    for path in (old / "fused").rglob("*.png"):
        assert decode(path.read_bytes()).pixels.shape == (64, 64, 3)


@pytest.mark.ray
def test_an_old_evolution_has_nothing_new(local_ray, old, command):
    code, out, err = command(*EVOLVE, "--methods", "average,maximum,tif", "--out", old / "evolve")
    assert code == 0 and "nothing new in the library" in out, err
