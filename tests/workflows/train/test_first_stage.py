"""`duskfuse train tgecnet-fuse --from`: which settings of stage 2 are those of its stage 1."""

from dataclasses import replace

import pytest

from fusion.config import to_dict
from fusion.errors import UserError
from fusion.training.engine import Engine
from fusion.training.recipes import RECIPES
from workflows.cli import read_options
from workflows.outputs import write_json
from workflows.pipeline.jobs import result_settings
from workflows.train.job import with_first_stage


@pytest.fixture(scope="module")
def stage_1(tmp_path_factory):
    recipe = RECIPES["tgecnet-restore-tiny"]()
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    Engine(replace(recipe, model=replace(recipe.model, top_k=3)), 1).save(folder, {})
    return str(folder.parent)


def read(*words, recipe="tgecnet-fuse-tiny"):
    return read_options("train", [str(recipe), "--corpus", "c", "--out", "o", "--from", "run", *map(str, words)])


def test_what_is_not_on_the_command_line_is_as_in_stage_1(stage_1, capsys):
    args = read("--recipe.epochs", 3, "--recipe.model.fusion-top-k=1")
    assert args.given == ("epochs", "model.fusion_top_k")
    recipe, fingerprint = with_first_stage(args.recipe, stage_1, args.given)
    assert (recipe.model.top_k, recipe.model.fusion_top_k, recipe.epochs) == (3, 1, 3) and len(fingerprint) == 64
    assert "tgecnet-fuse-tiny: model.top_k 3, as in stage 1" in capsys.readouterr().err
    assert "given" not in result_settings(args)  # of a pipeline


def test_what_is_on_the_command_line_must_be_as_in_stage_1(stage_1):
    args = read("--recipe.model.top-k", 2)
    with pytest.raises(UserError, match=r"model\.top_k is 3 there and 2 here"):
        with_first_stage(args.recipe, stage_1, args.given)
    args = read("--recipe.model.top-k", 3)
    assert with_first_stage(args.recipe, stage_1, args.given)[0] == args.recipe


def test_all_of_a_recipe_file_counts(stage_1, tmp_path):
    path = tmp_path / "mine.json"
    write_json(str(path), to_dict(RECIPES["tgecnet-fuse-tiny"]()))
    args = read(recipe=path)
    assert args.given is None
    with pytest.raises(UserError, match=r"model\.top_k is 3 there and 2 here"):
        with_first_stage(args.recipe, stage_1, args.given)
