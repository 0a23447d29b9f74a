"""`duskfuse train tgecnet`: which command each of the stages is, and whose folder it may be."""

import pytest

from fusion.errors import UserError
from fusion.training.recipes import RECIPES
from workflows.cli import read_options
from workflows.outputs import claim_output
from workflows.train.two_stage import stage_options


def read(out, *words):
    return read_options("train", ["tgecnet-tiny", "--corpus", "c", "--out", str(out), *map(str, words)])


def test_stage_2_starts_from_the_run_of_stage_1(tmp_path):
    args = read(tmp_path / "run", "--recipe.model.top-k", 1, "--recipe.fuse.loss.gradient", 9, "--detector", "d")
    first, second = stage_options(args, args.recipe)
    assert (first.out, second.out, second.start) == (f"{tmp_path}/run/restore", f"{tmp_path}/run", first.out)
    assert first.start is None and first.detector is None and second.detector == "d"
    assert first.recipe.name == "tgecnet-restore-tiny" and second.recipe.loss.gradient == 9
    assert first.recipe.model.top_k == second.recipe.model.top_k == 1
    plain = read(tmp_path / "run")
    assert stage_options(plain, plain.recipe)[1].recipe == RECIPES["tgecnet-fuse-tiny"]()


def test_a_stage_1_from_elsewhere_and_a_folder_of_something_else_are_refused(tmp_path):
    args = read(tmp_path / "run", "--from", "RUN1")
    with pytest.raises(UserError, match="trains its own stage 1"):
        stage_options(args, args.recipe)
    (tmp_path / "settings.json").write_text("{}")  # a run of one stage
    args = read(tmp_path)
    with pytest.raises(UserError, match="holds no run of both stages"):
        stage_options(args, args.recipe)
    (tmp_path / "restore").mkdir()
    (tmp_path / "restore" / "settings.json").write_text("{}")
    assert stage_options(args, args.recipe)[0].out == f"{tmp_path}/restore"


def test_a_folder_with_stage_1_alone_is_free_for_stage_2(tmp_path):
    (tmp_path / "restore").mkdir()
    (tmp_path / "restore" / "settings.json").write_text("{}")
    with pytest.raises(UserError, match="not empty"):
        claim_output(str(tmp_path), "settings.json", {"a": 1}, "run")
    claim_output(str(tmp_path), "settings.json", {"a": 1}, "run", beside=("restore/",))
    with pytest.raises(UserError, match="a is 1 there and 2 now"):
        claim_output(str(tmp_path), "settings.json", {"a": 2}, "run", beside=("restore/",))
