"""MoE-Fusion with its detectors on a real local Ray: two workers train both, fusing uses their attention."""

import json
import shutil

import pandas as pd
import pytest

from fusion.images.decode import decode
from tests.helpers.command_line import succeed

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

SIZES = ["--recipe.crops.size", 80, "--recipe.validation.size", 80, "--recipe.validation.rows", 4]
SCENES = "scenes:12:112x96:5"
PAIRS = "scenes:3:90x70:8"  # to fuse


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("joint")


@pytest.fixture(scope="module")
def run(place):
    corpus, out = place / "corpus", place / "run"
    succeed("corpus", "--pairs", SCENES, "--preset", "clean", "--out", corpus, "--shard-samples", 4)
    words = ["train", "moefusion-detectors-tiny", "--corpus", corpus, "--out", out, "--workers", 2]
    succeed(*words, "--recipe.epochs", 2, *SIZES)
    return out


@pytest.fixture(scope="module")
def fused(run, place):
    """Images by the network and its detectors."""
    succeed("fuse", "--checkpoint", run, "--pairs", PAIRS, "--out", place / "fused")
    return place / "fused"


def test_both_were_trained(run):
    history = json.loads((run / "run.json").read_text())["history"]
    assert [row["epoch"] for row in history] == [1, 2]
    for row in history:
        assert {"train/loss", "train/detectors", "train/detectors_visible_classifier", "val/qabf"} <= set(row)
    files = {str(path.relative_to(run / "checkpoint")) for path in (run / "checkpoint").rglob("*.*")}
    assert {"model.safetensors", "state.json", "detectors/model.safetensors", "detectors/state.json"} <= files


def test_fusing_tells_the_gates(fused):
    gates = pd.read_csv(fused / "gates.csv")
    assert set(gates["gate"]) == {"foreground", "background", "global"}
    sums = gates.groupby(["image", "gate"])["weight"]
    assert sums.sum().round(4).eq(1).all() and sums.apply(lambda w: (w > 0).sum()).eq(2).all()


def test_gates_are_told_again_from_the_images(run, fused, tmp_path, command):
    out = tmp_path / "fused"
    shutil.copytree(fused, out)
    (out / "gates.csv").unlink()
    code, said, _ = command("fuse", "--checkpoint", run, "--pairs", PAIRS, "--out", out)
    assert code == 0 and "0 images fused, 3 were there" in said
    assert (out / "gates.csv").read_bytes() == (fused / "gates.csv").read_bytes()


def test_without_its_detectors_it_is_another_model(run, fused, tmp_path, command):
    alone, other = tmp_path / "alone", tmp_path / "other"
    alone.mkdir()
    for name in ("model.safetensors", "config.json", "state.json"):
        (alone / name).write_bytes((run / "checkpoint" / name).read_bytes())
    code, _, err = command("fuse", "--checkpoint", alone, "--pairs", PAIRS, "--out", fused)
    assert code == 2 and "holds another" in err
    assert command("fuse", "--checkpoint", alone, "--pairs", PAIRS, "--out", other)[0] == 0
    images = [decode((folder / "scene-000001.png").read_bytes()).pixels for folder in (fused, other)]
    assert (images[0] != images[1]).any()


def test_the_report_shows_the_experts(run, fused, tmp_path, command):
    scores, page = tmp_path / "scores", tmp_path / "report.html"
    words = ["score", "--fused", f"moefusion={fused}", "--pairs", PAIRS, "--out", scores, "--metrics", "en,qabf"]
    code, _, err = command(*words)
    assert code == 0, err
    code, _, err = command("report", "--scores", scores, "--run", run, "--out", page)
    assert code == 0, err
    text = page.read_text()
    assert "moefusion: experts chosen" in text and f"{run}: scene-000000" in text
    assert text.count('class="sheet"') == 3
