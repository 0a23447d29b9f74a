"""The main job on a real local Ray, end to end, small: corpus -> stage 1 -> stage 2 -> fuse -> score -> report."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from fusion.data.corpus import open_corpus, read_group
from fusion.data.pairs import find_pairs
from fusion.data.shards import CorpusConfig, build_shard, plan_shards
from fusion.data.splits import assign_splits
from fusion.images.colour import to_grey
from fusion.images.decode import decode
from fusion.images.png import encode_png
from fusion.metrics import score
from tests.helpers.command_line import one_line, run, succeed, write_pair

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

SCENES = "scenes:10:96x80:3"
CORPUS = ["--preset", "noise2,haze2,stripes2", "--shard-samples", 6, "--test-fraction", 0.2, "--val-fraction", 0.25]
SMALL = ["--recipe.crops.size", 32, "--recipe.crops.per-image", 1, "--recipe.batch-size", 4]
SMALL += ["--recipe.validation.size", 48]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("job")


@pytest.fixture(scope="module")
def corpus(place):
    succeed("corpus", "--pairs", SCENES, "--out", place / "corpus", *CORPUS)
    return place / "corpus"


@pytest.fixture(scope="module")
def restore_run(place, corpus):
    """Stage 1 by two workers: gloo, gradients averaged."""
    out = place / "restore"
    words = ["train", "tgecnet-restore-tiny", "--corpus", corpus, "--out", out, "--workers", 2, "--recipe.epochs", 2]
    succeed(*words, *SMALL)
    return out


@pytest.fixture(scope="module")
def fuse_run(place, corpus, restore_run):
    out = place / "fuse"
    words = ["train", "tgecnet-fuse-tiny", "--corpus", corpus, "--from", restore_run, "--out", out]
    succeed(*words, "--recipe.epochs", 1, *SMALL)
    return out


class Written(NamedTuple):
    """The folder that a command wrote, and what the command said."""

    out: Path
    said: str


@pytest.fixture(scope="module")
def fused(place, corpus, fuse_run) -> Written:
    """The test images of the corpus, by stage 2."""
    words = ["fuse", "--checkpoint", fuse_run, "--corpus", corpus, "--out", place / "fused"]
    return Written(place / "fused", succeed(*words))


@pytest.fixture(scope="module")
def scored(place, corpus, fused) -> Written:
    """Scores of those and of a folder with a broken image; stderr is part of what was said."""
    average = place / "average"
    succeed("fuse", "--method", "average", "--corpus", corpus, "--out", average)
    broken = sorted((average / "haze" / "2").glob("*.png"))[0]
    broken.write_bytes(encode_png(np.zeros((10, 10), np.uint8)))
    words = ["score", "--fused", f"TG-ECNet={fused.out}", "--fused", f"Average={average}", "--corpus", corpus]
    code, out, err = run(*words, "--out", place / "scores")
    assert code == 0, err
    return Written(place / "scores", out + err)


def test_corpus_is_what_its_manifest_says(corpus, command):
    manifest = open_corpus(str(corpus))
    samples = [sample for path, group in manifest.groups() for sample in read_group(path, group)]
    assert len(samples) == manifest.rows() == 30
    assert {(s.key, s.degradation, s.level) for s in samples} == {
        (f"scene-{i:06d}", d, "2") for i in range(10) for d in ("noise", "haze", "stripes")
    }
    assert {split: manifest.rows(split) for split in ("train", "val", "test")} == {"train": 18, "val": 6, "test": 6}
    by_split = [{s.key for s in samples if s.split == split} for split in ("train", "val", "test")]
    assert not by_split[0] & by_split[1] and not by_split[0] & by_split[2] and not by_split[1] & by_split[2]
    code, out, _ = command("corpus", "verify", corpus)
    assert code == 0 and "30 samples" in out


def test_shards_do_not_depend_on_ray(corpus, tmp_path):
    """Built one after the other in this process: the same bytes as by four tasks at once."""
    config = CorpusConfig(SCENES, "noise2,haze2,stripes2", test_fraction=0.2, val_fraction=0.25, shard_samples=6)
    for plan in plan_shards(assign_splits(find_pairs(SCENES).refs, config), config):
        build_shard(plan, str(tmp_path))
        assert (tmp_path / "shards" / plan.name).read_bytes() == (corpus / "shards" / plan.name).read_bytes()


def test_restart_builds_only_what_is_missing(corpus, tmp_path, command):
    corpus = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    before = {path: path.stat().st_mtime_ns for path in sorted((corpus / "shards").iterdir())}
    manifest = (corpus / "manifest.json").read_bytes()
    lost = next(iter(before))
    bytes_lost = lost.read_bytes()
    lost.unlink()
    code, _, err = command("corpus", "verify", corpus)
    assert code == 2
    one_line(err, "1 of 5")
    assert command("corpus", "--pairs", SCENES, "--out", corpus, *CORPUS)[0] == 0
    assert lost.read_bytes() == bytes_lost
    assert {p: p.stat().st_mtime_ns for p in before if p != lost} == {p: t for p, t in before.items() if p != lost}
    after = json.loads((corpus / "manifest.json").read_bytes())
    assert {k: v for k, v in after.items() if k != "provenance"} == {
        k: v for k, v in json.loads(manifest).items() if k != "provenance"
    }
    code, _, err = command("corpus", "--pairs", SCENES, "--out", corpus, *CORPUS, "--seed", 1)
    assert code == 2
    one_line(err, "config.seed is 0 there and 1 now")


def test_rejected_pairs_are_counted_and_named(tmp_path, command):
    pairs = tmp_path / "pairs"
    for i in range(5):
        write_pair(pairs, f"good {i}", seed=i)
    write_pair(pairs, "sizes", seed=9)
    (pairs / "infrared" / "sizes.png").write_bytes(encode_png(np.zeros((23, 32), np.uint8)))
    write_pair(pairs, "cut", seed=8)
    whole = (pairs / "visible" / "cut.png").read_bytes()
    (pairs / "visible" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (pairs / "visible" / "alone.png").write_bytes(whole)
    words = ["corpus", "--pairs", pairs, "--preset", "noise1", "--out", tmp_path / "corpus"]
    code, _, err = command(*words)
    assert code == 2
    one_line(err, "--max-rejected-fraction")
    assert not (tmp_path / "corpus" / "manifest.json").exists()
    assert command(*words, "--max-rejected-fraction", 0.5)[0] == 0
    manifest = open_corpus(str(tmp_path / "corpus"))
    reasons = {item["key"]: item["reason"] for item in manifest.data["rejected"]}
    assert set(reasons) == {"sizes", "cut", "alone"}
    assert "32x24" in reasons["sizes"] and "32x23" in reasons["sizes"]
    assert "truncated" in reasons["cut"] and "partner" in reasons["alone"]
    assert manifest.rows() == 5


def test_stage_1_leaves_a_whole_run(restore_run):
    run = json.loads((restore_run / "run.json").read_text())
    assert run["workers"] == 2 and [entry["epoch"] for entry in run["history"]] == [1, 2]
    for name in ("train/loss", "train/l1", "val/psnr", "val/ssim", "val/psnr_input", "data_time_fraction"):
        assert all(np.isfinite(entry[name]) for entry in run["history"]), name
    assert run["history"][1]["train/loss"] < run["history"][0]["train/loss"]
    assert {path.name for path in (restore_run / "checkpoint").iterdir()} == {
        "model.safetensors", "config.json", "state.json",
    }  # fmt: skip


def test_a_finished_run_is_not_trained_again(restore_run, corpus, command):
    before = (restore_run / "run.json").stat().st_mtime_ns
    words = ["train", "tgecnet-restore-tiny", "--corpus", corpus, "--out", restore_run, "--workers", 2, *SMALL]
    code, out, _ = command(*words, "--recipe.epochs", 2)
    assert code == 0 and "finished" in out
    assert (restore_run / "run.json").stat().st_mtime_ns == before
    code, _, err = command(*words, "--recipe.epochs", 3)
    assert code == 2
    one_line(err, "recipe.epochs is 2 there and 3 now")


def test_stage_2_needs_a_stage_1_that_fits(restore_run, fuse_run, corpus, tmp_path, command):
    words = ["train", "tgecnet-fuse-tiny", "--corpus", corpus, "--out", tmp_path / "none"]
    code, _, err = command(*words)
    assert code == 2
    one_line(err, "--from")
    code, _, err = command(*words, "--from", fuse_run)
    assert code == 2
    one_line(err, "stage-2")
    code, _, err = command(*words, "--from", restore_run, "--recipe.model.width", 24)
    assert code == 2
    one_line(err, "model.width is 12 there and 24 here")
    code, _, err = command(*words, "--from", restore_run, "--recipe.model.top-k", 1)
    assert code == 2
    one_line(err, "model.top_k is 2 there and 1 here")
    assert not (tmp_path / "none").exists()


def test_fused_images_keep_size_and_colour(fused):
    assert "6 images fused" in fused.said
    files = sorted(fused.out.rglob("*.png"))
    assert {str(path.parent.relative_to(fused.out)) for path in files} == {"noise/2", "haze/2", "stripes/2"}
    for path in files:
        assert decode(path.read_bytes()).pixels.shape == (80, 96, 3)


def test_fused_images_are_not_made_twice(fused, fuse_run, corpus, tmp_path, command):
    out = Path(shutil.copytree(fused.out, tmp_path / "fused"))
    files = sorted(out.rglob("*.png"))
    before = {path: path.stat().st_mtime_ns for path in files}
    files[0].write_bytes(files[1].read_bytes())  # a picture of something else
    code, said, _ = command("fuse", "--checkpoint", fuse_run, "--corpus", corpus, "--out", out)
    assert code == 0 and "1 images fused, 5 were there" in said
    assert all(path.stat().st_mtime_ns == before[path] for path in files[1:])
    assert not np.array_equal(decode(files[0].read_bytes()).pixels, decode(files[1].read_bytes()).pixels)


def test_stage_1_writes_restored_pairs(restore_run, tmp_path, command):
    out = tmp_path / "restored"
    assert command("fuse", "--checkpoint", restore_run, "--pairs", "scenes:2:67x71:1", "--out", out)[0] == 0
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.png")) == [
        f"{modality}/scene-{i:06d}.png" for modality in ("infrared", "visible") for i in range(2)
    ]  # fmt: skip


def test_scores_in_three_formats(scored):
    with open(scored.out / "per_image.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["method", "image", "degradation", "level", "metric", "value"]
    assert len(rows) == (6 + 5) * 10
    table = pq.read_table(scored.out / "per_image.parquet").to_pylist()
    assert [float(row["value"]) for row in rows] == [row["value"] for row in table]  # full precision in the csv
    with open(scored.out / "summary.csv") as file:
        summary = list(csv.DictReader(file))
    whole = {(r["method"], r["metric"]): r for r in summary if r["degradation"] == "all"}
    assert whole["Average", "en"]["count"] == "5" and whole["TG-ECNet", "en"]["count"] == "6"
    mean = np.mean([float(r["value"]) for r in rows if r["method"] == "Average" and r["metric"] == "en"])
    assert float(whole["Average", "en"]["mean"]) == pytest.approx(mean, rel=1e-12)


def test_a_broken_fused_image_is_a_problem_that_is_named(scored):
    assert "1 problems" in scored.said and "10x10" in scored.said


def test_the_report(scored, fuse_run, corpus, tmp_path, command):
    page = tmp_path / "report.html"
    assert command("report", "--scores", scored.out, "--run", fuse_run, "--out", page, "--num-images", 3)[0] == 0
    html = page.read_text()
    words = ("TG-ECNet", "Average", "Q_abf", open_corpus(str(corpus)).content, "duskfuse train tgecnet-fuse-tiny")
    for word in (*words, "10x10"):
        assert word in html, word
    assert not re.search(r"(src|href)=\"https?:", html)


def test_scores_are_the_metrics_of_the_files(tmp_path, command):
    """By hand from the files, against the clean pair: what the job computed."""
    pairs, fused, scores = tmp_path / "pairs", tmp_path / "fused", tmp_path / "scores"
    for i in range(3):
        write_pair(pairs, f"p{i}", 64, 72, seed=i)
    assert command("fuse", "--method", "maximum", "--pairs", pairs, "--out", fused)[0] == 0
    words = ["score", "--fused", f"M={fused}", "--pairs", pairs, "--out", scores, "--metrics", "en,qabf,psnr"]
    assert command(*words)[0] == 0
    table = pq.read_table(scores / "per_image.parquet").to_pylist()
    values = {(row["image"], row["metric"]): row["value"] for row in table}
    for i in range(3):
        folders = (pairs / "visible", pairs / "infrared", fused)
        v, r, f = (decode((folder / f"p{i}.png").read_bytes()).pixels for folder in folders)
        expected = score(*(torch.tensor(to_grey(x))[None, None] for x in (f, v, r)), names=("en", "qabf", "psnr"))
        for name, value in expected.items():
            assert values[f"p{i}", name] == pytest.approx(float(value), rel=1e-12)
        luma = cv2.cvtColor(f, cv2.COLOR_RGB2GRAY).astype(int)
        wanted = np.maximum(cv2.cvtColor(v, cv2.COLOR_RGB2GRAY), r).astype(int)
        assert abs(luma - wanted).mean() < 30  # gamut clips colour
    assert len(values) == 9


def test_a_damaged_shard_is_one_line(corpus, tmp_path, command):
    copy = tmp_path / "damaged"
    shutil.copytree(corpus, copy)
    shard = sorted((copy / "shards").glob("*-test.parquet"))[0]
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    code, _, err = command("fuse", "--method", "average", "--corpus", copy, "--out", tmp_path / "out")
    assert code == 2
    one_line(err, shard.name)
    assert not (tmp_path / "out" / "fused.json").exists()
