"""From pairs to shards: splits, plans, and building them in any order, process and number of times."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusion.config import to_dict
from fusion.data import shards as planning
from fusion.data.corpus import SPLITS, from_row, read_group, read_shard
from fusion.data.finding import PairRef
from fusion.data.pairs import find_pairs, read_pair
from fusion.data.shards import CorpusConfig, ShardPlan, build_shard, plan_shards
from fusion.data.splits import assign_splits
from fusion.degrade import PRESETS, degrade, parse_degradation
from fusion.errors import UserError
from fusion.images.png import encode_png
from tests.helpers.shards import shard_bytes

ROOT = Path(__file__).resolve().parents[3]
SCENES = "scenes:6:96x64:1"
CONFIG = CorpusConfig(SCENES, "demmi-rf,clean", seed=4, val_fraction=0.25, test_fraction=1 / 3, shard_samples=14)


def refs(count, source="s", split="", prefix="k") -> list[PairRef]:
    return [PairRef(f"{source}-{prefix}{i}", source, split, "v", "i", None, ()) for i in range(count)]


def splits_of(found, **changes) -> dict[str, str]:
    return {ref.key: ref.split for ref in assign_splits(found, replace(CONFIG, **changes))}


def plans(config=CONFIG) -> list[ShardPlan]:
    return plan_shards(assign_splits(find_pairs(config.pairs).refs, config), config)


def samples_of(path):
    return [from_row(row) for row in read_shard(str(path)).to_pylist()]


# splits


@pytest.mark.parametrize("count", [1, 2, 5, 10, 97])
@pytest.mark.parametrize(("test_fraction", "val_fraction"), [(0.2, 0.1), (0.0, 0.5), (0.9, 0.0), (0.0, 0.0)])
def test_shares_are_exact(count, test_fraction, val_fraction):
    found = Counter(splits_of(refs(count), test_fraction=test_fraction, val_fraction=val_fraction).values())
    test = round(test_fraction * count)
    val = round(val_fraction * (count - test))
    assert [found["test"], found["val"], found["train"]] == [test, val, count - test - val]


def test_shares_are_exact_in_every_source():
    given = refs(20, "a") + refs(50, "b") + refs(10, "c")
    placed = splits_of(given, test_fraction=0.2, val_fraction=0.25)
    for source, expected in (("a", (4, 4, 12)), ("b", (10, 10, 30)), ("c", (2, 2, 6))):
        counts = Counter(split for key, split in placed.items() if key.startswith(source))
        assert (counts["test"], counts["val"], counts["train"]) == expected


def test_every_pair_is_in_one_split_and_stays_in_its_place():
    given = refs(30, "a") + refs(9, "b", "val")
    out = assign_splits(given, CONFIG)
    assert [replace(ref, split="") for ref in out] == [replace(ref, split="") for ref in given]
    assert {ref.split for ref in out} == set(SPLITS)


def test_splits_do_not_depend_on_the_order_of_the_pairs_but_on_the_seed():
    given = refs(40, "a") + refs(25, "b")
    mixed = given[:]
    random.Random(0).shuffle(mixed)
    assert splits_of(given) == splits_of(mixed)
    assert splits_of(given) != splits_of(given, seed=5)
    assert splits_of(given[:40]).items() <= splits_of(given).items()  # other sources do not matter


def test_the_draw_is_not_by_name():
    placed = splits_of(refs(100), test_fraction=0.5, val_fraction=0.0)
    first = [placed[f"s-k{i}"] for i in range(50)]
    assert 15 < first.count("test") < 35


def test_splits_of_the_folders_are_kept():
    given = refs(10, split="train", prefix="r") + refs(5, split="val", prefix="v") + refs(7, split="test", prefix="t")
    placed = splits_of(given)
    assert placed == {ref.key: ref.split for ref in given}


def test_missing_splits_are_drawn_from_what_is_left():
    only_train = splits_of(refs(20, split="train"))
    assert Counter(only_train.values()) == {"train": 15, "val": 5}  # no test: all were meant for training
    with_test = splits_of(refs(20, split="train") + refs(8, split="test", prefix="t"))
    assert Counter(with_test.values()) == {"train": 15, "val": 5, "test": 8}
    loose = splits_of(refs(12, prefix="loose") + refs(8, split="test", prefix="t"))
    assert Counter(loose.values()) == {"train": 9, "val": 3, "test": 8}
    with_val = splits_of(refs(12, prefix="loose") + refs(8, split="val", prefix="v"))
    assert Counter(with_val.values()) == {"train": 8, "val": 8, "test": 4}
    assert all(split == "val" for key, split in with_val.items() if "-v" in key)


# plans


def test_every_pair_and_degradation_is_planned_once():
    made = plans()
    assert len({plan.name for plan in made}) == len(made)
    planned = Counter(
        (ref.key, text)
        for plan in made
        for ref, texts in zip(plan.refs, plan.degradations, strict=True)
        for text in texts
    )
    names = [str(degradation) for degradation in PRESETS["demmi-rf"]] + ["clean"]
    assert planned == {(f"scene-{i:06d}", name): 1 for i in range(6) for name in names}
    for plan in made:
        assert {ref.split for ref in plan.refs} == {plan.split}
        assert plan.name.endswith(f"-{plan.split}.parquet")
        assert plan.seed == CONFIG.seed
    assert [(plan.split, len(plan.refs)) for plan in made] == [("train", 2), ("train", 1), ("val", 1), ("test", 2)]


def test_plans_do_not_depend_on_the_order_of_the_pairs():
    found = assign_splits(find_pairs(SCENES).refs, CONFIG)
    assert plan_shards(found, CONFIG) == plan_shards(found[::-1], CONFIG)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"shard_samples": 64, "preset": "noise1"}, [64, 36]),
        ({"shard_samples": 64, "preset": "demmi-rf"}, [10] * 10),
        ({"shard_samples": 5, "preset": "demmi-rf"}, [1] * 100),  # a pair is never torn
        # 400 x 250: 0.4 MB a pair and degradation; clean and six degraded: 2.8 MB a pair
        ({"shard_samples": 10_000, "preset": "demmi-rf", "shard_megabytes": 9}, [3] * 33 + [1]),
        ({"shard_samples": 10_000, "preset": "demmi-rf", "shard_megabytes": 1}, [1] * 100),
    ],
)
def test_shards_keep_to_their_size(changes, expected):
    config = replace(CONFIG, pairs="scenes:100:400x250", val_fraction=0.0, test_fraction=0.0, **changes)
    assert [len(plan.refs) for plan in plans(config)] == expected


def test_the_size_of_images_in_files_counts(tmp_path):
    for name in ("visible", "infrared"):
        (tmp_path / name).mkdir()
        for i in range(4):
            (tmp_path / name / f"{i}.png").write_bytes(encode_png(np.zeros((500, 500), np.uint8)))
    config = replace(CONFIG, pairs=str(tmp_path), preset="noise1", val_fraction=0, test_fraction=0, shard_megabytes=4)
    assert [len(plan.refs) for plan in plans(config)] == [2, 2]  # 1 MB an image pair, clean and degraded


def test_fingerprints_follow_all_that_shapes_the_bytes(monkeypatch):
    plan = plans()[0]
    others = [
        replace(plan, seed=5),
        replace(plan, degradations=tuple(texts[::-1] for texts in plan.degradations)),
        replace(plan, refs=plan.refs[::-1]),
        replace(plan, refs=(replace(plan.refs[0], depth="d.png"), *plan.refs[1:])),
    ]
    prints = {one.fingerprint for one in (plan, *others)}
    assert len(prints) == 5
    assert replace(plan).fingerprint == plan.fingerprint
    for module in (planning.np, planning.cv2, planning.pa, planning.PIL):
        with monkeypatch.context() as patch:
            patch.setattr(module, "__version__", "0.0")
            prints.add(plan.fingerprint)
    assert len(prints) == 9


# building


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, list[ShardPlan], list[dict]]:
    root = tmp_path_factory.mktemp("corpus")
    made = plans()
    return root, made, [build_shard(plan, str(root)) for plan in made]


def shard_hashes(root: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((root / "shards").iterdir())}


def test_every_pair_has_every_degradation_once(built):
    root, made, _ = built
    rows = Counter()
    for plan in made:
        for sample in samples_of(root / "shards" / plan.name):
            assert sample.split == plan.split
            assert sample.source == "scenes"
            rows[sample.key, sample.degradation, sample.level] += 1
    expected = [(d.name, d.level) for d in PRESETS["demmi-rf"]] + [("clean", "0")]
    assert rows == {(f"scene-{i:06d}", *what): 1 for i in range(6) for what in expected}


def test_rows_hold_the_pair_and_its_degraded_images(built):
    root, made, _ = built
    plan = made[0]
    samples = {(s.key, s.degradation, s.level): s for s in samples_of(root / "shards" / plan.name)}
    for ref in plan.refs:
        pair = read_pair(ref)
        for text in plan.degradations[0]:
            what = parse_degradation(text)
            sample = samples[ref.key, what.name, what.level]
            expected = degrade(pair.visible, pair.infrared, what, seed=4, key=ref.key, depth=pair.depth)
            for name, image in {
                "visible": pair.visible,
                "infrared": pair.infrared,
                "degraded_visible": expected.visible,
                "degraded_infrared": expected.infrared,
            }.items():
                assert np.array_equal(getattr(sample, name), image), (text, name)
            assert np.array_equal(sample.boxes, pair.boxes)
            assert sample.classes == pair.classes
            assert json.loads(sample.parameters) == json.loads(json.dumps(expected.parameters))
    assert any(len(sample.boxes) for sample in samples.values())


def test_records_tell_what_is_in_a_shard(built):
    root, made, records = built
    for plan, record in zip(made, records, strict=True):
        data = (root / "shards" / plan.name).read_bytes()
        samples = samples_of(root / "shards" / plan.name)
        assert record.name == plan.name
        assert record.split == plan.split
        assert record.bytes == len(data)
        assert record.sha256 == hashlib.sha256(data).hexdigest()
        assert record.rows == len(samples) == 7 * len(plan.refs)
        assert record.pairs == len(plan.refs)
        assert record.rejected == ()
        assert record.boxes == sum(len(sample.boxes) for sample in samples)
        counted = Counter((sample.source, sample.degradation, sample.level) for sample in samples)
        assert {tuple(what): count for *what, count in record.counts} == counted
        assert json.loads((root / "records" / plan.name.replace(".parquet", ".json")).read_text()) == to_dict(record)


def test_row_groups_hold_whole_pairs(built, tmp_path):
    root, made, _ = built
    path = str(root / "shards" / made[0].name)
    assert [len({s.key for s in read_group(path, group)}) for group in range(2)] == [1, 1]
    config = replace(CONFIG, preset="noise1,noise2,noise3", shard_samples=64, val_fraction=0.0, test_fraction=0.0)
    (plan,) = plans(config)
    build_shard(plan, str(tmp_path))
    path = str(tmp_path / "shards" / plan.name)
    groups = [Counter(s.key for s in read_group(path, group)) for group in range(3)]
    assert all(len(group) == 2 and set(group.values()) == {3} for group in groups)


def test_clean_images_are_stored_once_in_a_shard(built):
    root, made, _ = built
    shard = (root / "shards" / made[0].name).stat().st_size
    samples = samples_of(root / "shards" / made[0].name)
    alone = sum(len(shard_bytes([sample], 1)) for sample in samples)
    assert shard < 0.75 * alone


def test_other_processes_in_another_order_write_the_same_bytes(built, tmp_path):
    root, made, _ = built
    code = (
        "import json, sys\n"
        "from fusion.config import from_dict\n"
        "from fusion.data.shards import ShardPlan, build_shard\n"
        "for plan in reversed(json.loads(sys.stdin.read())):\n"
        "    build_shard(from_dict(ShardPlan, plan), sys.argv[1])\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        input=json.dumps([to_dict(plan) for plan in made]),
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "77"},
    )
    assert shard_hashes(tmp_path) == shard_hashes(root)


def test_another_seed_writes_other_bytes(built, tmp_path):
    root, made, records = built
    record = build_shard(replace(made[1], seed=5), str(tmp_path))
    assert record.sha256 != records[1].sha256
    ours = {(s.key, s.degradation, s.level): s for s in samples_of(tmp_path / "shards" / made[1].name)}
    for other in samples_of(root / "shards" / made[1].name):
        one = ours[other.key, other.degradation, other.level]
        assert np.array_equal(one.visible, other.visible)
        if other.degradation == "noise":
            assert not np.array_equal(one.degraded_visible, other.degraded_visible)


# restarting


@pytest.fixture
def one(tmp_path) -> tuple[Path, ShardPlan, dict]:
    config = replace(CONFIG, pairs="scenes:1:64x64:1", preset="noise1", val_fraction=0.0, test_fraction=0.0)
    (plan,) = plans(config)
    return tmp_path, plan, build_shard(plan, str(tmp_path))


def age(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def make_old(root: Path) -> dict[str, int]:
    for path in root.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return age(root)


def test_a_finished_shard_is_not_built_again(one, monkeypatch):
    root, plan, record = one
    before = make_old(root)
    monkeypatch.setattr(planning, "read_pair", lambda ref: pytest.fail("a pair was read"))
    assert build_shard(plan, str(root)) == record
    assert age(root) == before


@pytest.mark.parametrize("damage", ["cut", "shard gone", "record gone", "record cut", "record of another plan"])
def test_an_unfinished_shard_is_built_again(one, damage):
    root, plan, record = one
    shard, about = root / "shards" / plan.name, root / "records" / plan.name.replace(".parquet", ".json")
    data = shard.read_bytes()
    if damage == "cut":
        shard.write_bytes(data[:-1])
    elif damage == "shard gone":
        shard.unlink()
    elif damage == "record gone":
        about.unlink()
    elif damage == "record cut":
        about.write_bytes(about.read_bytes()[:40])
    else:
        about.write_text(json.dumps(to_dict(record) | {"plan": replace(plan, seed=9).fingerprint}))
    assert planning.read_finished_record(plan, str(root)) is None
    before = make_old(root)
    assert build_shard(plan, str(root)) == record
    assert shard.read_bytes() == data
    assert json.loads(about.read_text()) == to_dict(record)
    assert age(root)[str(shard)] != before.get(str(shard))


def test_another_plan_of_the_same_name_is_built(one):
    root, plan, record = one
    assert build_shard(replace(plan, seed=9), str(root)).sha256 != record.sha256


@pytest.mark.parametrize(
    ("grey", "preset", "kept"), [(True, "noise1", False), (True, "stripes1,clean", True), (False, "noise1", True)]
)
def test_an_old_shard_with_degraded_grey_images_is_built_again(tmp_path, grey, preset, kept):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 1 if grey else 3), dtype=np.uint8)
    for name, image in (("visible", np.broadcast_to(pixels, (20, 30, 3))), ("infrared", pixels[..., 0])):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        (tmp_path / "pairs" / name / "a.png").write_bytes(encode_png(np.ascontiguousarray(image)))
    config = replace(CONFIG, pairs=str(tmp_path / "pairs"), preset=preset, val_fraction=0.0, test_fraction=0.0)
    (plan,) = plans(config)
    record = build_shard(plan, str(tmp_path))
    assert planning.read_finished_record(plan, str(tmp_path)) == record and record.grey_version == 2
    about = tmp_path / "records" / plan.name.replace(".parquet", ".json")
    old = {name: value for name, value in to_dict(record).items() if name != "grey_version"}
    about.write_text(json.dumps(old))
    expected = replace(record, grey_version=1) if kept else None
    assert planning.read_finished_record(plan, str(tmp_path)) == expected
    assert build_shard(plan, str(tmp_path)) == (expected or record)


# pairs from files


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four good pairs (one with boxes), one of two sizes, one that is no image."""
    rng = np.random.default_rng(0)
    root = tmp_path / "pairs"
    for name in ("visible", "infrared", "labels"):
        (root / name).mkdir(parents=True)
    for i in range(4):
        (root / "visible" / f"{i}.png").write_bytes(encode_png(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)))
        (root / "infrared" / f"{i}.png").write_bytes(encode_png(rng.integers(0, 256, (20, 30), dtype=np.uint8)))
    (root / "labels" / "1.txt").write_text("1 0.5 0.5 0.2 0.4\n")
    (root / "labels" / "classes.txt").write_text("car\nperson\n")
    (root / "visible" / "small.png").write_bytes(encode_png(np.zeros((20, 29, 3), np.uint8)))
    (root / "infrared" / "small.png").write_bytes(encode_png(np.zeros((20, 30), np.uint8)))
    (root / "visible" / "text.png").write_bytes(b"no image")
    (root / "infrared" / "text.png").write_bytes(encode_png(np.zeros((20, 30), np.uint8)))
    return root


def test_a_corpus_of_files(folder, tmp_path):
    config = replace(CONFIG, pairs=str(folder), preset="noise2,stripes2", val_fraction=0.0, test_fraction=0.0)
    (plan,) = plans(config)
    record = build_shard(plan, str(tmp_path / "out"))
    assert record.rows == 8
    assert record.pairs == 4
    assert {item.key for item in record.rejected} == {"small", "text"}
    reasons = {item.key: item.reason for item in record.rejected}
    assert "sizes differ" in reasons["small"]
    assert reasons["text"].startswith("visible:")
    for sample in samples_of(tmp_path / "out" / "shards" / plan.name):
        pair = read_pair(next(ref for ref in plan.refs if ref.key == sample.key))
        assert np.array_equal(sample.visible, pair.visible)
        assert np.array_equal(sample.infrared, pair.infrared)
        assert sample.source == "pairs"
        boxed = sample.key == "1"
        assert sample.boxes.tolist() == ([[12, 6, 18, 14]] if boxed else [])
        assert sample.classes == (("person",) if boxed else ())
        assert (sample.degradation == "noise") != np.array_equal(sample.degraded_visible, sample.visible)
        assert (sample.degradation == "stripes") != np.array_equal(sample.degraded_infrared, sample.infrared)


def test_a_shard_of_which_all_pairs_are_rejected_is_empty(folder, tmp_path):
    config = replace(CONFIG, pairs=str(folder), preset="noise2", val_fraction=0.0, test_fraction=0.0)
    (plan,) = plans(config)
    refs = tuple(ref for ref in plan.refs if ref.key in ("small", "text"))
    bad = replace(plan, refs=refs, degradations=(("noise2",),) * len(refs))
    record = build_shard(bad, str(tmp_path / "out"))
    assert (record.rows, record.pairs, len(record.rejected)) == (0, 0, 2)
    assert samples_of(tmp_path / "out" / "shards" / plan.name) == []


# settings


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"val_fraction": 1.0}, "--val-fraction"),
        ({"test_fraction": -0.1}, "--test-fraction"),
        ({"shard_samples": 0}, "--shard-samples .* at least 1"),
        ({"shard_megabytes": 0}, "at least 1"),
        ({"preset": "fog"}, "fog"),
        ({"preset": "demmi-rf-counts,clean"}, "stands alone"),
        ({"data_sets": "day=M3FD"}, "--preset demmi-rf,clean has none"),
        ({"preset": "demmi-rf-counts", "data_sets": "day=TNO"}, "'day=TNO'.*M3FD"),
    ],
)
def test_impossible_settings_are_named(changes, named):
    with pytest.raises(UserError, match=named):
        replace(CONFIG, **changes)
