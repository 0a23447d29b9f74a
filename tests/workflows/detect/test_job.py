"""`duskfuse detect` on a real local Ray: labelled pairs in, tables, boxes, pictures and a report out."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from detection.average_precision import ap, match
from detection.boxes import Detections, Truth
from fusion import scenes
from fusion.data.pairs import find_pairs
from fusion.images.decode import decode
from fusion.images.png import encode_png
from tests.helpers.command_line import one_line, succeed, write_pair
from workflows.detect.labels import LabelTask, count_boxes

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

CLASSES = ("person", "bicycle", "car")


def labelled(root, count: int = 16, height: int = 96, width: int = 128) -> None:
    """Scenes as a folder with YOLO labels; the last quarter is the test split."""
    for i in range(count):
        scene = scenes.render(21, i, height, width)
        split = "test" if i >= count - count // 4 else "train"
        for name in ("visible", "infrared", "labels"):
            (root / name / split).mkdir(parents=True, exist_ok=True)
        for name in ("visible", "infrared"):
            (root / name / split / f"s{i:02}.png").write_bytes(encode_png(getattr(scene, name)))
        lines = []
        for (x1, y1, x2, y2), name in zip(scene.boxes, scene.classes, strict=True):
            box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            lines.append(" ".join([str(CLASSES.index(name)), *(f"{value:.6f}" for value in box)]))
        (root / "labels" / split / f"s{i:02}.txt").write_text("\n".join(lines) + "\n")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("detect")
    labelled(place / "pairs")
    test = sorted((place / "pairs" / "visible" / "test").iterdir())
    (place / "average").mkdir()
    for path in test[1:]:  # the first one is lacking
        infrared = cv2.imread(str(place / "pairs" / "infrared" / "test" / path.name), 0)
        mean = cv2.imread(str(path)).astype(float) / 2 + infrared[..., None] / 2
        cv2.imwrite(str(place / "average" / path.name), mean.astype(np.uint8))
    return place


@pytest.fixture(scope="module")
def faster(place):
    """Two workers, two epochs."""
    words = ["detect", "--pairs", place / "pairs", "--fused", f"average={place / 'average'}", "--out", place / "fr"]
    words += ["--detector", "faster-rcnn-small", "--recipe.epochs", 2, "--recipe.batch-size", 4, "--resamples", 50]
    words += [
        "--recipe.model.size",
        96,
        "--recipe.model.channels",
        16,
        "--recipe.model.box-head-dim",
        32,
        "--num-images",
        2,
    ]
    words += ["--val-fraction", 0.2, "--classes", "person,car", "--workers", 2]
    succeed(*words)
    return place / "fr", words


def test_the_tables(faster):
    out, _ = faster
    about = json.loads((out / "detect.json").read_text())
    assert about["classes"] == ["person", "car"] and about["train_on"] == "visible+infrared"
    table = pd.read_csv(out / "table.csv").set_index("method")
    assert list(table.index) == ["visible", "infrared", "average"]
    assert table["images"].tolist() == [4, 4, 3]
    assert (table["map50_low"] <= table["map50"]).all() and (table["map50"] <= table["map50_high"]).all()
    boxes = pd.read_parquet(out / "detections.parquet")
    truth = boxes[boxes["method"] == "truth"]
    assert len(truth) == table["boxes"]["visible"]
    assert set(boxes["class"]) <= {"person", "car"}
    counted = boxes[boxes["method"] != "truth"].groupby("method").size()
    assert (counted >= table["detections"][counted.index]).all()
    problems = pd.read_csv(out / "problems.csv")
    assert problems[["method", "image"]].values.tolist() == [["average", "s12"]]
    assert "no fused image" in problems["problem"][0]
    differences = pd.read_csv(out / "differences.csv")
    assert set(differences["images"]) == {3, 4} or set(differences["images"]) == {4}
    assert len(list((out / "pictures").iterdir())) == 2
    run = json.loads((out / "training" / "run.json").read_text())
    assert [row["epoch"] for row in run["history"]] == [1, 2] and run["workers"] == 2


def test_ap_is_that_of_the_detections(faster):
    """From detections.parquet alone, by pycocotools, the numbers of table.csv."""
    out, _ = faster
    boxes = pd.read_parquet(out / "detections.parquet")
    place = {"person": 0, "car": 1}
    corners = ["x1", "y1", "x2", "y2"]
    truths, found = [], []
    for image in ("s12", "s13", "s14", "s15"):
        mine = boxes[boxes["image"] == image]
        true, seen = mine[mine["method"] == "truth"], mine[mine["method"] == "infrared"]
        truths.append(Truth(true[corners].to_numpy(), true["class"].map(place), 96, 128))
        found.append(Detections(seen[corners].to_numpy(), seen["score"], seen["class"].map(place)))
    expected = ap(match(truths, found, ["person", "car"]))[0]
    table = pd.read_csv(out / "table.csv").set_index("method")
    got = table.loc["infrared", ["ap50_person", "ap50_car"]].to_numpy(float)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_again_trains_nothing(faster, command):
    out, words = faster
    before = (out / "table.csv").read_bytes(), (out / "detections.parquet").read_bytes()
    code, _, err = command(*words)
    assert code == 0 and "the detector is there" in err
    assert ((out / "table.csv").read_bytes(), (out / "detections.parquet").read_bytes()) == before


def test_another_setting_is_refused(faster, command):
    out, words = faster
    code, _, err = command(*words, "--recipe.seed", 3)
    assert code == 2
    one_line(err, "seed", out / "training")


def test_degraded_images_by_level(faster, place, command, tmp_path):
    """A trained detector on the degraded rows of a corpus, with a fused folder of it."""
    out, _ = faster
    corpus, fused = tmp_path / "corpus", tmp_path / "maximum"
    assert command("corpus", "--pairs", place / "pairs", "--preset", "noise1,noise3,haze2", "--out", corpus)[0] == 0
    assert command("fuse", "--method", "maximum", "--corpus", corpus, "--out", fused)[0] == 0
    scored = tmp_path / "degraded"
    code, _, err = command(
        "detect", "--corpus", corpus, "--weights", out / "training" / "detector", "--classes", "person,car",
        "--fused", f"maximum={fused}", "--out", scored, "--resamples", 20, "--num-images", 1,
    )  # fmt: skip
    assert code == 0, err
    table = pd.read_csv(scored / "table.csv", dtype={"level": str})
    rows = table[["degradation", "level", "method", "images"]].values.tolist()
    conditions = [("all", "all", 12), ("noise", "1", 4), ("noise", "3", 4), ("haze", "2", 4)]
    assert rows == [[d, lv, m, n] for d, lv, n in conditions for m in ("visible", "infrared", "maximum")]
    page = tmp_path / "report.html"
    code, _, err = command("report", "--detect", out, "--detect", scored, "--run", out / "training", "--out", page)
    assert code == 0, err
    text = page.read_text()
    for part in ("mAP50 over the level", "noise, level 3", "faster-rcnn-small", "detect --pairs", "points of mAP50"):
        assert part in text, part


@pytest.mark.slow
def test_yolo(place, command, tmp_path):
    out = tmp_path / "yolo"
    words = ["detect", "--pairs", place / "pairs", "--out", out, "--detector", "yolo-small", "--recipe.epochs", 1]
    words += [
        "--recipe.size",
        96,
        "--resamples",
        20,
        "--num-images",
        0,
        "--train-on",
        "infrared",
        "--val-fraction",
        0.2,
    ]
    code, _, err = command(*words)
    assert code == 0, err
    table = pd.read_csv(out / "table.csv")
    assert table["images"].tolist() == [4, 4]
    run = json.loads((out / "training" / "run.json").read_text())
    assert "val/map50" in run["history"][0] and "train/box_loss" in run["history"][0]
    # Its weights score alone, also by their file.
    weights = out / "training" / "detector" / "yolo.pt"
    again = tmp_path / "yolo-again"
    code, _, err = command(*words[:3], "--out", again, "--weights", weights, "--recipe.size", 96, "--resamples", 20)
    assert code == 0, err
    assert (again / "table.csv").read_bytes() == (out / "table.csv").read_bytes()


def test_bad_labels_are_named_by_file_and_line(command, tmp_path):
    root = tmp_path / "pairs"
    labelled(root, 8)
    file = root / "labels" / "train" / "s01.txt"
    file.write_text("0 0.5 0.5 0.2 0.2\n1 nan 0.5 0.1 0.1\n2 1.8 0.5 0.1 0.1\n")
    words = ["detect", "--pairs", root, "--detector", "faster-rcnn-small", "--out", tmp_path / "out"]
    code, _, err = command(*words, "--classes", "tram")
    assert code == 2
    one_line(err, "class 'tram' has no box in the training pairs", "car")
    (root / "labels" / "train" / "s02.txt").write_text("0 0.5 0.5 0.2 0.2\n9 0.5 0.5 0.1 0.1\n")
    code, _, err = command(*words)
    assert code == 2
    one_line(err, "1 of 8", "s02.txt: labels: line 2: class id 9", "3 names")
    (ref,) = (ref for ref in find_pairs(str(root)).refs if ref.key == "s01")
    (found,) = count_boxes(LabelTask((ref,), {}))
    assert found.boxes == {"person": 1}
    said = found.problems
    assert len(said) == 2 and "s01.txt: line 2" in said[0] and "s01.txt: line 3" in said[1]


def test_wrong_words(command, place, tmp_path):
    write_pair(tmp_path / "bare", "a")
    cases = (
        (["--detector", "ssd"], ["ssd", "yolo-small"]),
        ([], ["--pairs"]),
        (["--pairs", place / "pairs", "--fused", f"visible={place / 'average'}"], ["visible"]),
        (["--pairs", place / "pairs", "--split", "half"], ["half"]),
        (["--pairs", place / "pairs", "--class-aliases", "people"], ["people", "NAME=NAME"]),
        (["--pairs", place / "pairs", "--train-on", "visible+magic", "--val-fraction", 0.2], ["magic"]),
        (["--pairs", tmp_path / "bare"], ["no labelled box"]),
    )
    for number, (words, parts) in enumerate(cases):
        code, _, err = command("detect", *words, "--out", tmp_path / f"o{number}")
        assert code == 2, words
        one_line(err, *parts)
    code, _, err = command("report", "--out", tmp_path / "r.html")
    assert code == 2
    one_line(err, "--scores", "--detect")


def test_pictures_have_boxes(faster):
    out, _ = faster
    for path in (out / "pictures").iterdir():
        sheet = decode(path.read_bytes()).pixels
        assert sheet.shape[1] > 2 * 400  # two or three methods
        assert (sheet == (255, 40, 60)).all(-1).any()  # something was missed after two epochs
