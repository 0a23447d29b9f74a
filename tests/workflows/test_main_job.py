"""The main job on a real local Ray, end to end, small: corpus -> stage 1 -> stage 2 -> fuse -> score -> report."""

import csv
import json
import re

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from fusion.data.corpus import open_corpus, read_group
from fusion.data.shards import build_shard
from fusion.images.decode import decode
from fusion.images.png import encode_png
from tests.helpers.command_line import one_line, write_pair

pytestmark = pytest.mark.ray

SCENES = "scenes:10:96x80:3"
SMALL = [
    "--recipe.crops.size",
    32,
    "--recipe.batch-size",
    4,
    "--recipe.validation.size",
    48,
    "--recipe.crops.per-image",
    1,
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("job")


@pytest.fixture(scope="module")
def corpus(local_ray, place):
    from workflows.cli import main

    assert main(["corpus", "--pairs", SCENES, "--preset", "noise2,haze2,stripes2", "--out", str(place / "corpus"),
                 "--shard-samples", "6", "--test-fraction", "0.2", "--val-fraction", "0.25"]) == 0  # fmt: skip
    return place / "corpus"


@pytest.fixture(scope="module")
def restore_run(local_ray, place, corpus):
    """Stage 1 by two workers: gloo, gradients averaged."""
    from workflows.cli import main

    out = place / "restore"
    words = ["train", "tgecnet-restore-tiny", "--corpus", corpus, "--out", out, "--workers", 2, "--recipe.epochs", 2]
    assert main([str(word) for word in [*words, *SMALL]]) == 0
    return out


@pytest.fixture(scope="module")
def fuse_run(local_ray, place, corpus, restore_run):
    from workflows.cli import main

    out = place / "fuse"
    words = ["train", "tgecnet-fuse-tiny", "--corpus", corpus, "--from", restore_run, "--out", out]
    assert main([str(word) for word in [*words, "--recipe.epochs", 1, *SMALL]]) == 0
    return out


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


def test_shards_do_not_depend_on_ray(corpus, place):
    """Built one after the other in this process: the same bytes as by four tasks at once."""
    from fusion.data.pairs import find_pairs
    from fusion.data.shards import CorpusConfig, plan_shards
    from fusion.data.splits import assign_splits

    config = CorpusConfig(SCENES, "noise2,haze2,stripes2", test_fraction=0.2, val_fraction=0.25, shard_samples=6)
    for plan in plan_shards(assign_splits(find_pairs(SCENES).refs, config), config):
        build_shard(plan, str(place / "alone"))
        assert (place / "alone" / "shards" / plan.name).read_bytes() == (corpus / "shards" / plan.name).read_bytes()


def test_restart_builds_only_what_is_missing(corpus, command):
    before = {path: path.stat().st_mtime_ns for path in sorted((corpus / "shards").iterdir())}
    manifest = (corpus / "manifest.json").read_bytes()
    lost = next(iter(before))
    bytes_lost = lost.read_bytes()
    lost.unlink()
    code, _, err = command("corpus", "verify", corpus)
    assert code == 2
    one_line(err, "1 of 5")
    words = ["--preset", "noise2,haze2,stripes2", "--shard-samples", 6, "--test-fraction", 0.2, "--val-fraction", 0.25]
    assert command("corpus", "--pairs", SCENES, "--out", corpus, *words)[0] == 0
    assert lost.read_bytes() == bytes_lost
    assert {p: p.stat().st_mtime_ns for p in before if p != lost} == {p: t for p, t in before.items() if p != lost}
    after = json.loads((corpus / "manifest.json").read_bytes())
    assert {k: v for k, v in after.items() if k != "provenance"} == {
        k: v for k, v in json.loads(manifest).items() if k != "provenance"
    }
    code, _, err = command("corpus", "--pairs", SCENES, "--out", corpus, *words, "--seed", 1)
    assert code == 2
    one_line(err, "config.seed is 0 there and 1 now")


def test_rejected_pairs_are_counted_and_named(local_ray, place, command):
    pairs = place / "pairs"
    for i in range(5):
        write_pair(pairs, f"good {i}", seed=i)
    write_pair(pairs, "sizes", seed=9)
    (pairs / "infrared" / "sizes.png").write_bytes(encode_png(np.zeros((23, 32), np.uint8)))
    write_pair(pairs, "cut", seed=8)
    whole = (pairs / "visible" / "cut.png").read_bytes()
    (pairs / "visible" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (pairs / "visible" / "alone.png").write_bytes(whole)
    words = ["corpus", "--pairs", pairs, "--preset", "noise1", "--out", place / "rejecting"]
    code, _, err = command(*words)
    assert code == 2
    one_line(err, "--max-rejected-fraction")
    assert not (place / "rejecting" / "manifest.json").exists()
    assert command(*words, "--max-rejected-fraction", 0.5)[0] == 0
    manifest = open_corpus(str(place / "rejecting"))
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


def test_stage_2_needs_a_stage_1_that_fits(restore_run, fuse_run, corpus, place, command):
    words = ["train", "tgecnet-fuse-tiny", "--corpus", corpus, "--out", place / "none"]
    code, _, err = command(*words)
    assert code == 2
    one_line(err, "--from")
    code, _, err = command(*words, "--from", fuse_run)
    assert code == 2
    one_line(err, "stage-2")
    code, _, err = command(*words, "--from", restore_run, "--recipe.model.width", 24)
    assert code == 2
    one_line(err, "do not fit")
    assert not (place / "none").exists()


def test_fused_images_keep_size_and_colour_and_are_not_made_twice(fuse_run, corpus, place, command):
    out = place / "fused"
    words = ["fuse", "--checkpoint", fuse_run, "--corpus", corpus, "--out", out]
    code, said, _ = command(*words)
    assert code == 0 and "6 images fused" in said
    files = sorted(out.rglob("*.png"))
    assert {str(path.parent.relative_to(out)) for path in files} == {"noise/2", "haze/2", "stripes/2"}
    for path in files:
        assert decode(path.read_bytes()).pixels.shape == (80, 96, 3)
    before = {path: path.stat().st_mtime_ns for path in files}
    files[0].write_bytes(files[1].read_bytes())  # a picture of something else
    code, said, _ = command(*words)
    assert code == 0 and "1 images fused, 5 were there" in said
    assert all(path.stat().st_mtime_ns == before[path] for path in files[1:])
    assert not np.array_equal(decode(files[0].read_bytes()).pixels, decode(files[1].read_bytes()).pixels)


def test_stage_1_writes_restored_pairs(restore_run, place, command):
    out = place / "restored"
    assert command("fuse", "--checkpoint", restore_run, "--pairs", "scenes:2:67x71:1", "--out", out)[0] == 0
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.png")) == [
        f"{modality}/scene-{i:06d}.png" for modality in ("infrared", "visible") for i in range(2)
    ]  # fmt: skip


def test_scores_and_report(fuse_run, corpus, place, command):
    fused, average = place / "fused", place / "average"
    assert command("fuse", "--checkpoint", fuse_run, "--corpus", corpus, "--out", fused)[0] == 0
    assert command("fuse", "--method", "average", "--corpus", corpus, "--out", average)[0] == 0
    broken = sorted((average / "haze" / "2").glob("*.png"))[0]
    broken.write_bytes(encode_png(np.zeros((10, 10), np.uint8)))
    scores = place / "scores"
    words = ["score", "--fused", f"TG-ECNet={fused}", "--fused", f"Average={average}", "--corpus", corpus]
    code, said, err = command(*words, "--out", scores)
    assert code == 0 and "1 problems" in said and "10x10" in err
    with open(scores / "per_image.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["method", "image", "degradation", "level", "metric", "value"]
    assert len(rows) == (6 + 5) * 10
    table = pq.read_table(scores / "per_image.parquet").to_pylist()
    assert [float(row["value"]) for row in rows] == [row["value"] for row in table]  # full precision in the csv
    with open(scores / "summary.csv") as file:
        summary = list(csv.DictReader(file))
    whole = {(r["method"], r["metric"]): r for r in summary if r["degradation"] == "all"}
    assert whole["Average", "en"]["count"] == "5" and whole["TG-ECNet", "en"]["count"] == "6"
    mean = np.mean([float(r["value"]) for r in rows if r["method"] == "Average" and r["metric"] == "en"])
    assert float(whole["Average", "en"]["mean"]) == pytest.approx(mean, rel=1e-12)

    page = place / "report.html"
    assert command("report", "--scores", scores, "--run", fuse_run, "--out", page, "--num-images", 3)[0] == 0
    html = page.read_text()
    for word in (
        "TG-ECNet",
        "Average",
        "Q_abf",
        open_corpus(str(corpus)).content,
        "duskfuse train tgecnet-fuse-tiny",
        "10x10",
    ):
        assert word in html, word
    assert not re.search(r"(src|href)=\"https?:", html)


def test_scores_are_the_metrics_of_the_files(place, command):
    """By hand from the files, against the clean pair: what the job computed."""
    import torch

    from fusion.images.colour import to_grey
    from fusion.metrics import score

    pairs, fused = place / "plain", place / "plain_fused"
    for i in range(3):
        write_pair(pairs, f"p{i}", 64, 72, seed=i)
    assert command("fuse", "--method", "maximum", "--pairs", pairs, "--out", fused)[0] == 0
    assert (
        command("score", "--fused", f"M={fused}", "--pairs", pairs, "--out", place / "s1", "--metrics", "en,qabf,psnr")[
            0
        ]
        == 0
    )
    rows = {
        (r["image"], r["metric"]): r["value"] for r in pq.read_table(place / "s1" / "per_image.parquet").to_pylist()
    }
    for i in range(3):
        v, r, f = (
            decode((folder / f"p{i}.png").read_bytes()).pixels
            for folder in (pairs / "visible", pairs / "infrared", fused)
        )
        expected = score(*(torch.tensor(to_grey(x))[None, None] for x in (f, v, r)), names=("en", "qabf", "psnr"))
        for name, value in expected.items():
            assert rows[f"p{i}", name] == pytest.approx(float(value), rel=1e-12)
        luma = cv2.cvtColor(f, cv2.COLOR_RGB2GRAY).astype(int)
        assert (
            abs(luma - np.maximum(cv2.cvtColor(v, cv2.COLOR_RGB2GRAY), r).astype(int)).mean() < 30
        )  # gamut clips colour
    assert len(rows) == 9


def test_a_damaged_shard_is_one_line(corpus, place, command):
    import shutil

    copy = place / "damaged"
    shutil.copytree(corpus, copy)
    shard = sorted((copy / "shards").glob("*-test.parquet"))[0]
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    code, _, err = command("fuse", "--method", "average", "--corpus", copy, "--out", place / "from_damaged")
    assert code == 2
    one_line(err, shard.name)
    assert not (place / "from_damaged" / "fused.json").exists()
