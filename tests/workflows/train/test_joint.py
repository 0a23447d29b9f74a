"""MoE-Fusion with its detectors on a real local Ray: two workers train both, fusing uses their attention."""

import json

import pandas as pd
import pytest

from fusion.images.decode import decode

pytestmark = pytest.mark.ray

SIZES = ["--recipe.crops.size", 80, "--recipe.validation.size", 80, "--recipe.validation.rows", 4]
SCENES = "scenes:12:112x96:5"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("joint")


@pytest.fixture(scope="module")
def run(local_ray, place):
    from workflows.cli import main

    corpus, out = place / "corpus", place / "run"
    words = ["corpus", "--pairs", SCENES, "--preset", "clean", "--out", corpus, "--shard-samples", 4]
    assert main([str(word) for word in words]) == 0
    words = ["train", "moefusion-detectors-tiny", "--corpus", corpus, "--out", out, "--workers", 2]
    assert main([str(word) for word in [*words, "--recipe.epochs", 2, *SIZES]]) == 0
    return out


def test_both_were_trained(run):
    history = json.loads((run / "run.json").read_text())["history"]
    assert [row["epoch"] for row in history] == [1, 2]
    for row in history:
        assert {"train/loss", "train/detectors", "train/detectors_visible_classifier", "val/qabf"} <= set(row)
    files = {str(path.relative_to(run / "checkpoint")) for path in (run / "checkpoint").rglob("*.*")}
    assert {"model.safetensors", "state.json", "detectors/model.safetensors", "detectors/state.json"} <= files


def test_fusing_uses_the_detectors_and_tells_the_gates(run, place, command):
    pairs, out = "scenes:3:90x70:8", place / "fused"
    assert command("fuse", "--checkpoint", run, "--pairs", pairs, "--out", out)[0] == 0
    gates = pd.read_csv(out / "gates.csv")
    assert set(gates["gate"]) == {"foreground", "background", "global"}
    sums = gates.groupby(["image", "gate"])["weight"]
    assert sums.sum().round(4).eq(1).all() and sums.apply(lambda w: (w > 0).sum()).eq(2).all()
    before = (out / "gates.csv").read_bytes()
    (out / "gates.csv").unlink()
    code, said, _ = command("fuse", "--checkpoint", run, "--pairs", pairs, "--out", out)
    assert code == 0 and "0 images fused, 3 were there" in said
    assert (out / "gates.csv").read_bytes() == before  # from the images themselves

    # Without its detectors it is another model, and makes other images.
    alone = place / "alone"
    alone.mkdir()
    for name in ("model.safetensors", "config.json", "state.json"):
        (alone / name).write_bytes((run / "checkpoint" / name).read_bytes())
    code, _, err = command("fuse", "--checkpoint", alone, "--pairs", pairs, "--out", out)
    assert code == 2 and "holds another" in err
    assert command("fuse", "--checkpoint", alone, "--pairs", pairs, "--out", place / "other")[0] == 0
    images = [decode((folder / "scene-000001.png").read_bytes()).pixels for folder in (out, place / "other")]
    assert (images[0] != images[1]).any()


def test_the_report_shows_the_experts(run, place, command):
    pairs, scores, page = "scenes:3:90x70:8", place / "scores", place / "report.html"
    code, _, err = command(
        "score", "--fused", f"moefusion={place / 'fused'}", "--pairs", pairs, "--out", scores, "--metrics", "en,qabf"
    )
    assert code == 0, err
    code, _, err = command("report", "--scores", scores, "--run", run, "--out", page)
    assert code == 0, err
    text = page.read_text()
    assert "moefusion: experts chosen" in text and f"{run}: scene-000000" in text
    assert text.count('class="sheet"') == 3
