"""YOLO: the data folder, offline training in two epochs, resuming, weights, and detections as its own validation's."""

from __future__ import annotations

import io
import os
import random
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from detection import average_precision
from detection.boxes import Detections, Truth, truth
from detection.yolo.config import YoloConfig
from detection.yolo.data import read_dataset, write_dataset
from detection.yolo.detector import Yolo
from detection.yolo.offline import import_ultralytics, load_network
from detection.yolo.train import train
from fusion.errors import UserError
from fusion.scenes import CLASSES, render
from tests.helpers.jobs import CHECKOUT

SIDE = 160
CONFIG = YoloConfig(size=SIDE, epochs=2, batch=4, seed=3)


def scene(index: int) -> tuple[np.ndarray, np.ndarray, Truth]:
    found = render(3, index, 120, SIDE)
    return found.visible, found.infrared, truth(found.boxes, found.classes, CLASSES, 120, SIDE)


def rows(count: int = 6):
    for index in range(count):
        visible, infrared, boxes = scene(index)
        split = "train" if index < count - 2 else "val"
        yield split, f"night/{index}-visible", visible, boxes
        yield split, f"night/{index}-infrared", infrared, boxes


def state(weights: Path) -> dict[str, torch.Tensor]:
    return load_network(weights)[0].state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def no_network(self, address):
    raise AssertionError(f"connects to {address}")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One training for all tests, in a working folder of its own, with the network forbidden."""
    root = tmp_path_factory.mktemp("yolo")
    (root / "cwd").mkdir()
    patch = pytest.MonkeyPatch()
    patch.chdir(root / "cwd")
    patch.setenv("HOME", str(root / "home"))
    patch.delenv("XDG_CACHE_HOME", raising=False)
    patch.delenv("YOLO_CONFIG_DIR", raising=False)
    patch.setattr(socket.socket, "connect", no_network)
    patch.setattr(socket, "getaddrinfo", no_network)
    data = write_dataset(root / "data", rows(), CLASSES)
    reports: list[dict] = []
    copies: list[bytes] = []

    def on_epoch(report: dict) -> None:
        reports.append(report)
        copies.append((Path(report["checkpoint"]) / "last.pt").read_bytes())
        print(f"epoch {report['epoch']}")

    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state(), torch.get_num_threads()
    was_imported = "ultralytics" in sys.modules
    printed, stdout = io.StringIO(), sys.stdout
    sys.stdout = printed
    try:
        trained = train(data, CONFIG, root / "out", on_epoch=on_epoch)
    finally:
        sys.stdout = stdout
    after = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state(), torch.get_num_threads()
    first = root / "first"
    first.mkdir()
    (first / "last.pt").write_bytes(copies[0])
    yield {
        **{"root": root, "data": data, "trained": trained, "reports": reports, "first": first},
        **{"before": before, "after": after, "printed": printed.getvalue()},
        "was_imported": was_imported,
    }
    patch.undo()


@pytest.fixture(scope="module")
def lively(small):
    """Two epochs leave a network that finds the same in all images: here are the statistics of its normalisation layers
    as in longer trainings, its scores spread, and its boxes a few cells wide."""
    network, _ = load_network(small["trained"].weights)
    fit = Yolo(small["trained"].weights, size=SIDE)._fit
    pixels = np.stack([fit(scene(index)[0])[0] for index in range(6)])
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    raw: dict = {}
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
            layer.reset_running_stats()
    network.train()
    with torch.no_grad():
        for box, score in zip(network.model[-1].cv2, network.model[-1].cv3, strict=True):
            box[-1].bias.copy_(-0.7 * torch.arange(16.0).repeat(4))
            score[-1].register_forward_hook(lambda layer, given, out: raw.update({layer: out}))
        network.predict(batch)
        network.eval().predict(batch)
        for layer, out in raw.items():
            layer._forward_hooks.clear()
            scale = 4 / (out - out.mean()).abs().max()
            layer.weight.mul_(scale)
            layer.bias.copy_((layer.bias - out.mean()) * scale - 3)
    path = small["root"] / "lively.pt"
    torch.save({"model": network, "train_args": {}, "epoch": -1}, path)
    return path


# ------------------------------------------------------------------------------------------------------- data folder


def test_folder_has_the_boxes(tmp_path):
    boxes = np.array([[10, 20, 30, 60], [-5, 0, 16, 8], [3, 3, 9, 9], [200, 5, 210, 9]], np.float32)
    given = Truth(boxes, np.array([2, 0, 1, 1]), 120, 160, np.array([False, False, True, False]))
    image = np.arange(120 * 160 * 3, dtype=np.uint32).astype(np.uint8).reshape(120, 160, 3)
    path = write_dataset(
        tmp_path / "a[b]", [("train", "set/1", image, given), ("val", "1", image[:, :, 0], given)], CLASSES
    )
    assert path == tmp_path / "a[b]" / "data.yaml"
    table = yaml.safe_load(path.read_text())
    assert table["names"] == dict(enumerate(CLASSES))
    assert (path.parent / table["train"]).read_text() == "./images/train/set%2F1.png\n"
    lines = (path.parent / "labels/train/set%2F1.txt").read_text().splitlines()
    assert len(lines) == 2, "the ignored one and the one outside are left out"
    values = np.array([line.split() for line in lines], float)
    assert values[:, 0].tolist() == [2, 0]
    back = np.hstack([values[:, 1:3] - values[:, 3:] / 2, values[:, 1:3] + values[:, 3:] / 2]) * [160, 120, 160, 120]
    np.testing.assert_allclose(back, [[10, 20, 30, 60], [0, 0, 16, 8]], atol=1e-5)
    saved = cv2.imread(str(path.parent / "images/train/set%2F1.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(saved[:, :, ::-1], image)
    contents = read_dataset(path)
    assert contents.images == {"train": 1, "val": 1} and contents.boxes["train"] == (1, 0, 1)
    assert any("bicycle" in note and "train" in note for note in contents.notes)


def test_folder_refuses(tmp_path):
    image, boxes = np.zeros((120, 160), np.uint8), Truth(np.array([[1, 1, 9, 9]]), np.array([0]), 120, 160)
    good = [("train", "a", image, boxes), ("val", "b", image, boxes)]
    empty = Truth(np.zeros((0, 4)), np.zeros(0), 120, 160)
    for bad, message in (
        (good[:1], "no 'val' images"),
        (good[1:], "no 'train' images"),
        ([*good, good[0]], "twice"),
        ([*good, ("val", "c", image[:-1], boxes)], "119 x 160"),
        ([*good, ("val", "c", image, Truth(boxes.boxes, np.array([3]), 120, 160))], "class number"),
    ):
        with pytest.raises(UserError, match=message):
            write_dataset(tmp_path / "bad", bad, CLASSES)
        with pytest.raises(UserError, match="no data set"):
            read_dataset(tmp_path / "bad" / "data.yaml")  # never there half written
    with pytest.raises(ValueError, match="float64"):
        write_dataset(tmp_path / "bad", [("train", "a", image / 255, boxes)], CLASSES)
    path = write_dataset(tmp_path / "none", [("train", "a", image, empty), ("val", "b", image, boxes)], CLASSES)
    with pytest.raises(UserError, match="nothing can be learned"):
        read_dataset(path)
    (tmp_path / "other.yaml").write_text("names: [person]\ntrain: nowhere.txt\nval: nowhere.txt\n")
    with pytest.raises(UserError, match=r"nowhere\.txt.*missing"):
        read_dataset(tmp_path / "other.yaml")


def test_long_keys_get_names_of_their_own(tmp_path):
    image, boxes = np.zeros((64, 64), np.uint8), Truth(np.array([[1, 1, 9, 9]]), np.array([0]), 64, 64)
    keys = ["x" * 300 + end for end in "ab"]
    path = write_dataset(tmp_path, [("train", keys[0], image, boxes), ("val", keys[1], image, boxes)], CLASSES)
    names = [(path.parent / f"{split}.txt").read_text() for split in ("train", "val")]
    assert names[0].rsplit("/", 1)[1] != names[1].rsplit("/", 1)[1] and max(map(len, names)) < 240


# ---------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 100}, "multiple of 32"),
        ({"model": "yolo11n"}, ".yaml"),
        ({"epochs": 0}, "epochs"),
        ({"lr0": float("nan")}, "lr0"),
        ({"extra": ("mosaic",)}, "key=value"),
        ({"extra": ("device=0",)}, "device"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(UserError, match=message):
        YoloConfig(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": ("mosaik=0",)}, "mosaik"),
        ({"extra": ("mosaic=much",)}, "mosaic"),
        ({"model": "yolo99q.yaml"}, "yolo99q"),
        ({"model": "yolo11n-seg.yaml"}, "segment"),
        ({"model": "nowhere/best.pt"}, "nowhere/best.pt"),
        ({"model": "yolo11n.pt"}, "download"),
        ({"model": "yolo11z.pt"}, "published"),
    ],
)
def test_training_refuses(small, tmp_path, change, message):
    with pytest.raises(UserError, match=message) as caught:
        train(small["data"], YoloConfig(**{"size": SIDE, "epochs": 1, **change}), tmp_path / "out")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- training


def test_training_reports_every_epoch(small):
    assert [report["epoch"] for report in small["reports"]] == [1, 2]
    for report in small["reports"]:
        for name in ("box_loss", "cls_loss", "dfl_loss", "val_box_loss", "map50", "map50_95", "lr", "seconds"):
            assert np.isfinite(report[name]), name
        assert report["box_loss"] > 0 and 0 <= report["map50"] <= 1
    assert small["trained"].metrics["epoch"] == 2
    assert small["printed"] == "epoch 1\nepoch 2\n", "nothing but what the caller prints"


def test_training_leaves_no_trace(small):
    for one, other in zip(small["before"], small["after"], strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    assert not torch.are_deterministic_algorithms_enabled()
    root = small["root"]
    assert list((root / "cwd").iterdir()) == []
    home = [path.relative_to(root / "home").parts for path in (root / "home").rglob("*") if path.is_file()]
    own = [parts for parts in home if parts[:2] != (".cache", "matplotlib")]  # its list of fonts, whoever imports it
    assert bool(own) != small["was_imported"]  # its settings, where this training was the first to need them
    assert all(parts[:3] == (".cache", "duskfuse", "yolo") for parts in own), own
    assert {path.name for path in (root / "out").iterdir()} == {
        *("yolo.pt", "weights", "checkpoint", "results.csv", "args.yaml")
    }
    saved = (root / "out" / "yolo.pt").read_bytes()
    assert str(root).encode() not in saved, "weights that are handed on hold no local paths"


def test_offline_in_a_fresh_process(tmp_path):
    """Threads, number formats and environment as before; settings quiet; nothing in the user's folders; idempotent."""
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": "1", "HOME": str(tmp_path / "home")}
    for name in ("OMP_NUM_THREADS", "YOLO_CONFIG_DIR", "YOLO_OFFLINE", "YOLO_AUTOINSTALL", "ULTRALYTICS_SAFE_LOAD"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "tests.helpers.yolo_offline", str(tmp_path / "c"), str(tmp_path / "other")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen(command, env=environment, cwd=CHECKOUT, **pipes) for _ in range(2)]
    for run in runs:  # two at once
        printed, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
        assert printed.startswith("ultralytics already keeps its settings in") and printed.count("\n") == 1
    assert (tmp_path / "c" / "Ultralytics" / "Arial.ttf").stat().st_size > 100_000
    assert not {path.name for path in (tmp_path / "home").rglob("*")} & {"duskfuse", "Ultralytics"}


def test_imported_online_before_is_refused(tmp_path, monkeypatch):
    import_ultralytics()
    monkeypatch.setattr("ultralytics.utils.ONLINE", True)
    with pytest.raises(UserError, match=r"import_ultralytics\(\) first"):
        import_ultralytics()


# --------------------------------------------------------------------------------------------------------- resuming


def test_resume(small, tmp_path):
    reports: list[dict] = []
    trained = train(small["data"], CONFIG, tmp_path, resume_from=small["first"], on_epoch=reports.append)
    assert [report["epoch"] for report in reports] == [2]
    assert not any("ignores" in note for note in trained.notes), trained.notes
    # A finished training resumes to its result at once.
    again = train(
        small["data"], CONFIG, tmp_path / "again", resume_from=tmp_path / "checkpoint", on_epoch=reports.append
    )
    assert len(reports) == 1 and equal(state(again.weights), state(trained.weights))


def test_resume_refuses(small, tmp_path):
    longer = YoloConfig(size=SIDE, epochs=3, batch=4, seed=3)
    with pytest.raises(UserError, match="epochs=2"):
        train(small["data"], longer, tmp_path / "out", resume_from=small["first"])
    other = write_dataset(tmp_path / "data", rows(), ("car", "bicycle", "person"))
    with pytest.raises(UserError, match=r"person, bicycle, car.*car, bicycle, person"):
        train(other, CONFIG, tmp_path / "out", resume_from=small["first"])
    (tmp_path / "last.pt").write_bytes((small["first"] / "last.pt").read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"last\.pt"):
        train(small["data"], CONFIG, tmp_path / "out", resume_from=tmp_path)
    with pytest.raises(UserError, match="no weights"):
        train(small["data"], CONFIG, tmp_path / "out", resume_from=tmp_path / "nowhere")


def test_going_on_from_weights(small, tmp_path):
    """Frozen layers keep the weights that the training starts from."""
    config = YoloConfig(str(small["trained"].weights), SIDE, epochs=1, batch=4, freeze=10, extra=("mosaic=0",))
    with pytest.raises(RuntimeError, match="enough"):

        def stop(report: dict) -> None:
            raise RuntimeError("enough")

        train(small["data"], config, tmp_path, on_epoch=stop)
    went, start = state(tmp_path / "checkpoint" / "last.pt"), state(small["trained"].weights)
    assert torch.equal(went["model.4.cv1.conv.weight"], start["model.4.cv1.conv.weight"])
    assert not torch.equal(went["model.16.cv1.conv.weight"], start["model.16.cv1.conv.weight"])


@pytest.mark.slow
def test_same_seed_same_weights(small, tmp_path):
    again = train(small["data"], CONFIG, tmp_path / "again")
    assert equal(state(again.weights), state(small["trained"].weights))
    assert again.weights.read_bytes() == small["trained"].weights.read_bytes()
    other = train(small["data"], YoloConfig(size=SIDE, epochs=2, batch=4, seed=4), tmp_path / "other")
    assert not equal(state(other.weights), state(small["trained"].weights))


# ---------------------------------------------------------------------------------------------------------- running


@dataclass(frozen=True)
class Validation:
    """Images, labels, the detections of Yolo and of ultralytics' own validation, and what that says of them."""

    truths: list[Truth]
    detections: list[Detections]
    theirs: list[list[dict]]
    map50: float
    map50_95: float


@pytest.fixture(scope="module")
def validation(lively, tmp_path_factory) -> Validation:
    """model.val() of ultralytics on six images, and our detections in them."""
    from ultralytics import YOLO

    tmp_path = tmp_path_factory.mktemp("validation")
    # Truth from what the network finds, shifted, so that some is found well, some badly: AP is then far from 0 and 1.
    # Not at the border: there ultralytics compares boxes that reach beyond the image, while ours end with it.
    net = Yolo(lively, size=SIDE)
    images = [scene(index)[0] for index in range(6)]
    random_state = np.random.default_rng(0)
    truths = []
    for found in net(images):
        whole = ((found.boxes > 3) & (found.boxes < [157, 117, 157, 117])).all(1)
        picked = random_state.choice(np.flatnonzero(whole)[:30], 12, replace=False)
        sides = np.tile(found.boxes[picked, 2:] - found.boxes[picked, :2], 2)
        moved = found.boxes[picked] + random_state.normal(0, 0.06, (12, 4)) * sides
        truths.append(Truth(np.clip(moved, 0, [160, 120, 160, 120]), found.classes[picked], 120, SIDE))
    rows = [
        (split, f"image-{place}", image, boxes)
        for split in ("train", "val")
        for place, (image, boxes) in enumerate(zip(images, truths, strict=True))
    ]
    data = write_dataset(tmp_path / "data", rows, CLASSES)
    predictions: dict[str, list] = {}

    def collect(validator) -> None:
        for entry in validator.jdict:
            predictions.setdefault(entry["image_id"], []).append(entry)

    model = YOLO(str(lively), verbose=False)
    model.add_callback("on_val_end", collect)
    arguments = dict(imgsz=SIDE, workers=0, plots=False, device="cpu", save_json=True, save_dir=str(tmp_path / "val"))
    result = model.val(data=str(data), verbose=False, batch=4, **arguments)
    theirs = [predictions[f"image-{index}"] for index in range(len(images))]
    return Validation(truths, net(images), theirs, result.box.map50, result.box.map)


def test_boxes_are_those_of_its_validation(validation):
    for theirs, ours in zip(validation.theirs, validation.detections, strict=True):
        theirs = sorted(theirs, key=lambda entry: -entry["score"])
        assert len(theirs) == len(ours.boxes) > 30
        np.testing.assert_allclose([entry["score"] for entry in theirs], ours.scores, atol=1e-4)
        corners = np.array([entry["bbox"] for entry in theirs])
        corners[:, 2:] += corners[:, :2]
        close = np.abs(corners - ours.boxes).max(1) < 0.05
        assert close.mean() > 0.9  # equal scores may come in another order


def test_average_precision_is_near_that_of_its_validation(validation):
    pytest.importorskip("pycocotools")
    precision = average_precision.ap(average_precision.match(validation.truths, validation.detections, CLASSES))
    mean = float(np.nanmean(precision[0]))
    assert 0.1 < mean < 0.9
    assert abs(mean - validation.map50) < 0.02, (mean, validation.map50)
    assert abs(float(np.nanmean(precision)) - validation.map50_95) < 0.02


def test_images_of_any_kind(lively):
    net = Yolo(lively, size=SIDE)
    visible, infrared, _ = scene(1)
    wide, grey, tall = net([visible, infrared, np.ascontiguousarray(infrared[:, :50])])
    three, alone = net([np.repeat(infrared[:, :, None], 3, axis=2)])[0], net([infrared])[0]
    assert np.array_equal(three.boxes, alone.boxes) and np.array_equal(three.scores, alone.scores)
    np.testing.assert_allclose(grey.scores[:20], alone.scores[:20], atol=1e-4)  # as one of a batch
    for found, width in ((wide, 160), (grey, 160), (tall, 50)):
        assert len(found.boxes) and (found.boxes >= 0).all() and (found.boxes <= [width, 120, width, 120]).all()
        assert (np.diff(found.scores) <= 0).all() and found.scores.min() > 0.001 and len(found.boxes) <= 300
    assert net([]) == []
    with pytest.raises(ValueError, match="float32"):
        net([visible.astype(np.float32)])


def test_classes_by_name(lively):
    image = scene(1)[0]
    own = Yolo(lively, size=SIDE)
    assert own.names == CLASSES
    every = own([image])[0]
    turned = Yolo(lively, size=SIDE, classes=("Car", "People"))  # other order, other spelling, one class less
    found = turned([image])[0]
    for place, before in ((0, 2), (1, 0)):
        mine, before_scores = found.scores[found.classes == place], every.scores[every.classes == before]
        np.testing.assert_allclose(mine[: len(before_scores)], before_scores)
    assert set(found.classes.tolist()) <= {0, 1}
    with pytest.raises(UserError, match=r"does not know bus.*person, bicycle, car.*bus, car"):
        Yolo(lively, size=SIDE, classes=("bus", "car"))
    lenient = Yolo(lively, size=SIDE, classes=("bus", "car"), allow_missing=True)
    assert set(lenient([image])[0].classes.tolist()) == {1}
    with pytest.raises(UserError, match="does not know bus"):
        Yolo(lively, size=SIDE, classes=("bus",), allow_missing=True)
    merged = Yolo(lively, size=SIDE, classes=("thing",), class_aliases=dict.fromkeys(CLASSES, "thing"))([image])[0]
    assert isinstance(merged, Detections) and set(merged.classes.tolist()) == {0}
    assert len(merged.boxes) < len(every.boxes), "boxes found as two classes count once"


def test_weights_that_cannot_be_loaded(small, tmp_path):
    whole = small["trained"].weights.read_bytes()
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    for name, content in (("cut.pt", whole[: len(whole) // 2]), ("text.pt", b"not weights"), ("empty.pt", b"")):
        (tmp_path / name).write_bytes(content)
    for name in ("cut.pt", "text.pt", "empty.pt", "other.pt", "nowhere.pt"):
        with pytest.raises(UserError, match=name) as caught:
            Yolo(tmp_path / name)
        assert "\n" not in str(caught.value)


class Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_foreign_code_in_weights_does_not_run(small, tmp_path):
    import_ultralytics()
    torch.save({"model": Trap(str(tmp_path / "ran"))}, tmp_path / "trap.pt")
    with pytest.raises(UserError, match="ULTRALYTICS_SAFE_LOAD"):
        Yolo(tmp_path / "trap.pt")
    assert not (tmp_path / "ran").exists()
