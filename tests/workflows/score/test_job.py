"""Scoring without a Ray: the numbers of a unit of work, their dialects, and what is reported instead of averaged."""

from __future__ import annotations

import math
from dataclasses import replace
from operator import attrgetter

import numpy as np
import pytest
import torch

from fusion import scenes
from fusion.data.pairs import find_pairs
from fusion.errors import UserError
from fusion.images.png import encode_png
from fusion.metrics import METRICS, choose, score
from fusion.metrics.niqe import save_pristine, shipped
from workflows.inputs import PairUnit
from workflows.score.job import ScoreTask, Scoring, score_unit

NAMES = ["en", "mi", "qabf", "sf", "psnr"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five pairs and their averages: colour visible, grey infrared, colour fused."""
    root = tmp_path_factory.mktemp("scored")
    for i in range(5):
        scene = scenes.render(3, i, 200, 240)
        fused = ((scene.visible.astype(int) + scene.infrared[..., None]) // 2).astype(np.uint8)
        for name, image in (("visible", scene.visible), ("infrared", scene.infrared), ("fused", fused)):
            (root / name).mkdir(exist_ok=True)
            (root / name / f"p{i}.png").write_bytes(encode_png(image))
    return root


def task(folder, keys=None, **changes):
    refs = tuple(ref for ref in find_pairs(str(folder)).refs if keys is None or ref.key in keys)
    scoring = Scoring({"M": str(folder / "fused")}, tuple(NAMES), "standard", "clean", "")
    return ScoreTask(replace(scoring, **changes), PairUnit(refs))


def test_numbers_do_not_depend_on_how_the_work_is_cut(folder):
    (whole,) = score_unit(task(folder))
    parts = [row for i in (4, 0, 2, 3, 1) for row in score_unit(task(folder, {f"p{i}"}))[0].scores]
    assert len(whole.scores) == 25 and whole.problems == []
    by_image = attrgetter("image", "metric")
    assert sorted(parts, key=by_image) == sorted(whole.scores, key=by_image)  # to the last bit


@pytest.mark.parametrize("dialect", ["standard", "vifb", "tang2022", "cddfuse"])
def test_colour_reaches_the_dialect(folder, dialect):
    names = choose(None, dialect)
    (found,) = score_unit(task(folder, {"p1"}, metrics=names, dialect=dialect))
    scene = scenes.render(3, 1, 200, 240)
    fused = (scene.visible.astype(int) + scene.infrared[..., None]) // 2
    images = [torch.tensor(x).permute(2, 0, 1)[None] for x in (fused, scene.visible, scene.infrared[..., None])]
    expected = score(*images, names, dialect)
    assert {row.metric: row.value for row in found.scores} == {n: float(v[0]) for n, v in expected.items()}


def test_what_cannot_be_scored_is_told_and_left_out(folder, tmp_path):
    for i in (0, 1, 2):
        (tmp_path / f"p{i}.png").write_bytes((folder / "fused" / f"p{i}.png").read_bytes())
    (tmp_path / "p1.png").write_bytes(encode_png(np.zeros((20, 30), np.uint8)))
    (tmp_path / "p2.png").write_bytes(b"\x89PNG not")
    (tmp_path / "p3.png").write_bytes(encode_png(np.full((200, 240), 9, np.uint8)))
    (found,) = score_unit(task(folder, methods={"M": str(tmp_path)}, metrics=["en", "cc"]))
    told = {row.image: row.problem for row in found.problems}
    assert set(told) == {"p1", "p2", "p3", "p4"}
    assert "fused 30x20, pair 240x200" in told["p1"] and "p2.png" in told["p2"]
    assert told["p3"] == "cc is nan" and "no fused image" in told["p4"]
    values = {(row.image, row.metric): row.value for row in found.scores}
    assert set(values) == {("p0", "en"), ("p0", "cc"), ("p3", "en"), ("p3", "cc")}
    assert math.isnan(values["p3", "cc"]) and values["p3", "en"] == 0


def test_a_niqe_model_of_ones_own(folder, tmp_path):
    path = tmp_path / "mine.json"
    other = type(shipped())(shipped().mu_F + 0.2, shipped().cov_FF, "mine")
    save_pristine(path, other)
    values = []
    for model in ("", str(path)):
        (found,) = score_unit(task(folder, {"p0"}, metrics=["niqe", "e2"], niqe_model=model))
        values.append({row.metric: row.value for row in found.scores})
    assert values[0]["niqe"] != values[1]["niqe"] and values[0]["e2"] != values[1]["e2"]


def test_choices_of_the_command_line(command, folder, tmp_path):
    words = ["score", "--fused", f"M={folder / 'fused'}", "--pairs", folder, "--out", tmp_path / "s"]
    for more, part in (
        (["--dialect", "tang"], "unknown dialect 'tang'"),
        (["--dialect", "vifb", "--metrics", "vif"], "no vif"),
        (["--metrics", "niqe", "--niqe-model", tmp_path / "none.npz"], "no NIQE model"),
    ):
        code, _, err = command(*words, *more)
        assert code == 2 and part in err.strip().splitlines()[-1]
    with pytest.raises(UserError, match="unknown metric"):
        choose(["en", "ssimm"])
    assert len(METRICS) == 30
