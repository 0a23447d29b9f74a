"""Sequences of near-duplicates stay in one split; frozen split files."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest

from fusion import scenes
from fusion.data import near_duplicates
from fusion.data.finding import PairRef
from fusion.data.near_duplicates import NEAR, group_near_duplicates, image_signature
from fusion.data.shards import CorpusConfig
from fusion.data.splits import assign_splits, match_sequences, read_frozen_splits, splits_to_csv
from fusion.errors import UserError

CONFIG = CorpusConfig("p", "noise1", seed=4, val_fraction=0.25, test_fraction=0.25)


def refs(count, source="s", split="") -> list[PairRef]:
    return [
        PairRef(f"{source}{i:03d}", source, split, "scenes:0:64x64", "scenes:0:64x64", None, ()) for i in range(count)
    ]


def frames(seed: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Neighbouring frames of one scene: shifted by a pixel each, with sensor noise."""
    scene = scenes.render(seed, 0, 160, 200)
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        shifted = [np.roll(image, i, axis=1).astype(float) for image in (scene.visible, scene.infrared)]
        found.append(tuple(np.clip(x + rng.normal(0, 3, x.shape), 0, 255).astype(np.uint8) for x in shifted))
    return found


def test_frames_of_a_scene_are_near_and_scenes_apart():
    signatures = {}
    for scene in range(6):
        for i, frame in enumerate(frames(scene, 4)):
            signatures[f"{scene}-{i}"] = image_signature(*frame)
    found = group_near_duplicates(signatures)
    assert found == {key: f"{key[0]}-0" for key in signatures}


def test_signatures_do_not_see_size_or_brightness():
    visible, infrared = frames(1, 1)[0]
    larger = [cv2.resize(x, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) // 2 + 20 for x in (visible, infrared)]
    signatures = {"a": image_signature(visible, infrared), "b": image_signature(*larger)}
    assert len(signatures["a"]) == 128
    assert group_near_duplicates(signatures) == {"a": "a", "b": "a"}


@pytest.mark.parametrize("dark", ["visible", "infrared", "both"])
def test_dark_pictures_are_not_alike_for_being_dark(dark):
    """What has no steps says nothing; a single pair of two dark images is compared with none."""
    signatures = {}
    for scene in range(20):
        for i, (visible, infrared) in enumerate(frames(scene, 2)):
            visible = visible // 128 * 3 if dark in ("visible", "both") else visible  # lamps in the night
            infrared = np.full_like(infrared, 7) if dark in ("infrared", "both") else infrared
            signatures[f"{scene:02d}-{i}"] = image_signature(visible, infrared)
    found = group_near_duplicates(signatures)
    assert max(Counter(found.values()).values()) <= 2
    if dark == "visible":
        assert all(found[f"{scene:02d}-1"] == f"{scene:02d}-0" for scene in range(20))


def test_links_form_chains():
    base = np.zeros(64, np.uint8)
    signatures = {}
    for i in range(4):  # each differs from the next in a sixth of the bits, the ends in half
        base = base.copy()
        base[i * 11 : (i + 1) * 11] = 255
        signatures[f"k{i}"] = base.tobytes() + b"\xff" * 64
    assert set(group_near_duplicates(signatures).values()) == {"k0"}
    assert 11 * 8 / 512 < NEAR < 33 * 8 / 512
    assert group_near_duplicates({}) == {}


def test_many_pairs_are_compared_in_pieces(monkeypatch):
    rng = np.random.default_rng(0)
    signatures = {f"{i:04d}": rng.bytes(64) + b"\xff" * 64 for i in range(300)}
    signatures["0299"] = signatures["0001"]
    for i in range(120, 140):
        signatures[f"{i:04d}"] = signatures["0120"]
    whole = group_near_duplicates(signatures)
    assert whole["0299"] == "0001" and whole["0139"] == "0120" and len(set(whole.values())) == 300 - 1 - 19
    monkeypatch.setattr(near_duplicates, "CHUNK", 7)
    assert group_near_duplicates(signatures) == whole
    monkeypatch.setattr(near_duplicates, "ALL_PAIRS", 10)
    monkeypatch.setattr(near_duplicates, "NEIGHBOURS", 5)
    near = group_near_duplicates(signatures)
    assert near["0299"] == "0299" and near["0139"] == "0120"


@pytest.mark.parametrize("seed", range(5))
def test_a_sequence_is_in_one_split(seed):
    sequence = {f"s{i:03d}": f"s{i // 5 * 5:03d}" for i in range(40)}  # eight sequences of five
    placed = {r.key: r.split for r in assign_splits(refs(60), replace(CONFIG, seed=seed), sequence)}
    for name in set(sequence.values()):
        assert len({placed[key] for key in sequence if sequence[key] == name}) == 1
    counts = Counter(placed.values())
    assert counts["test"] == 15 and 9 <= counts["val"] <= 11  # 15 fits always; single pairs fill what fives leave


def test_shares_are_never_exceeded_by_a_long_sequence():
    sequence = {f"s{i:03d}": "s000" for i in range(30)}
    placed = {r.key: r.split for r in assign_splits(refs(40), CONFIG, sequence)}
    assert {placed[f"s{i:03d}"] for i in range(30)} == {"train"}
    assert Counter(placed.values())["test"] == 10


def test_long_videos_still_give_a_test_and_a_val_split():
    sequence = {f"s{i:03d}": f"s{i // 25 * 25:03d}" for i in range(100)}  # four videos of a quarter each
    placed = {
        r.key: r.split for r in assign_splits(refs(100), replace(CONFIG, test_fraction=0.2, val_fraction=0.1), sequence)
    }
    assert Counter(placed.values()) == {"train": 50, "test": 25, "val": 25}
    one = {key: "s000" for key in sequence}
    placed = {r.key: r.split for r in assign_splits(refs(100), CONFIG, one)}
    assert set(placed.values()) == {"train"}


@pytest.mark.parametrize("seed", range(4))
def test_a_sequence_over_two_sources_is_in_one_split(seed):
    given = [*refs(40, "a"), *refs(60, "b")]
    sequence = {f"b{i:03d}": f"a{i:03d}" for i in range(40)}
    placed = {r.key: r.split for r in assign_splits(given, replace(CONFIG, seed=seed), sequence)}
    assert all(placed[f"a{i:03d}"] == placed[f"b{i:03d}"] for i in range(40))
    counts = {source: Counter(v for k, v in placed.items() if k[0] == source) for source in "ab"}
    assert counts["b"]["test"] == 15 and 10 <= counts["a"]["test"] <= 15  # b's draw may take more of what they share
    assert counts["a"]["val"] and counts["b"]["train"] > 20
    mixed = {r.key: r.split for r in assign_splits(given[::-1], replace(CONFIG, seed=seed), sequence)}
    assert mixed == placed


def test_what_hangs_on_a_fixed_test_set_goes_there():
    given = [*refs(6, "a", "train"), *refs(4, "t", "test"), *refs(20, "b")]
    given = [replace(ref, source="one" if ref.key[0] != "b" else "two") for ref in given]
    sequence = {"t000": "x", "b000": "x", "b001": "x", "a000": "y", "b002": "y"}
    placed = {r.key: r.split for r in assign_splits(given, CONFIG, sequence)}
    assert placed["b000"] == placed["b001"] == "test" and placed["t000"] == "test"
    assert placed["a000"] == placed["b002"] and placed["a000"] in ("train", "val")
    assert Counter(v for k, v in placed.items() if k[0] == "b")["test"] == 5


def test_folders_go_before_sequences_and_loose_frames_follow():
    given = [*refs(3, "a", "test"), *refs(20, "b")]
    given = [replace(ref, source="one") for ref in given]
    sequence = {"a000": "x", "b000": "x", "b001": "x"}
    placed = {r.key: r.split for r in assign_splits(given, CONFIG, sequence)}
    assert placed["b000"] == placed["b001"] == "test" and placed["a001"] == "test"
    assert Counter(placed.values())["test"] == 5  # the folder's three, the two that hang on one of them, no draw


def test_split_files_come_back(tmp_path):
    sequence = {"s000": "s000", "s001": "s000"}
    placed = assign_splits(refs(12), CONFIG, sequence)
    path = tmp_path / "splits.csv"
    path.write_text(splits_to_csv(placed, sequence))
    again, found = read_frozen_splits(refs(12), str(path))
    assert again == placed
    assert found["s001"] == "s000" and found["s005"] == "s005"
    fewer, _ = read_frozen_splits(refs(5), str(path))
    assert fewer == placed[:5]
    assert path.read_text().splitlines()[0] == "key,split,sequence"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no split file"),
        ("a,b\n1,2\n", "no split file"),
        ("key,split\ns000,training\n", "'training'"),
        ("key,split\ns000,train\n", "does not name 2 of the pairs, s001 first"),
        (b"\xff\xfe\x00", "cannot read"),
        ("key,split\ns000,train\ns001,val\ns002,val\ns000,test\n", "s000 twice"),
    ],
)
def test_other_files_are_named(tmp_path, text, named):
    path = tmp_path / "splits.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=named):
        read_frozen_splits(refs(3), str(path))
    with pytest.raises(UserError, match="cannot read"):
        read_frozen_splits(refs(3), str(tmp_path / "none.csv"))


def named(names: list[str]) -> list[PairRef]:
    return [
        PairRef(f"k{name}", "s", "", f"/d/visible/{name}.png", f"/d/infrared/{name}.png", None, ()) for name in names
    ]


def test_slices_of_a_patient_stay_together_by_their_file_names():
    patients = {2: 9, 16: 6, 20: 9, 21: 8, 28: 8, 32: 8, 33: 8, 34: 6}
    found = named([f"{patient}{3 + 2 * i:03d}" for patient, slices in patients.items() for i in range(slices)])
    sequence = match_sequences([*found, *named(["lytro-01"])], r"(\d+)\d{3}")
    assert sequence == {ref.key: str(int(ref.key[1:]) // 1000) for ref in found}
    split = {ref.key: ref.split for ref in assign_splits(found, CONFIG, sequence)}
    sides = {patient: {split[key] for key, name in sequence.items() if name == str(patient)} for patient in patients}
    assert all(len(side) == 1 for side in sides.values())
    assert set.union(*sides.values()) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("pattern", "word"), [(r"(\d+", "no regular expression"), (r"\d+", "no group"), (r"x(\d+)", "fits no file name")]
)
def test_a_pattern_that_names_no_sequence_is_told(pattern, word):
    with pytest.raises(UserError, match=word):
        match_sequences(named(["21004"]), pattern)
