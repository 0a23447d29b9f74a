"""The command line without Ray: help, and one clear line with exit code 2 for bad input."""

import json
import subprocess
import sys

import numpy as np
import pytest

from fusion.classical import CLASSICAL, fuse_colour
from fusion.data.pairs import find_pairs, read_pair
from fusion.errors import UserError
from fusion.images.decode import decode
from fusion.images.png import encode_png
from fusion.training.recipes import RECIPES
from tests.helpers.command_line import one_line, write_pair
from workflows.cli import JOBS, read_options
from workflows.fuse.methods import name_of_method
from workflows.fuse.worker import STAMP, Fuser, FuserSettings, read_png_text
from workflows.inputs import PairUnit
from workflows.options import RENAMED, RENAMED_RECIPE_OPTIONS
from workflows.train import job as train_job
from workflows.train import options as train_options
from workflows.train import trainer


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from workflows.cli import main; assert main(['--help']) == 0; "
        "heavy = {'ray', 'torch', 'numpy', 'pandas', 'cv2', 'pyarrow', 'tyro', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for job in JOBS:
        assert f"  {job} " in done.stdout


HELP = [*([job] for job in JOBS), ["corpus", "verify"], ["train", "tgecnet-restore"], ["tune", "moefusion-detectors"]]


@pytest.mark.parametrize("words", HELP, ids=" ".join)
def test_every_job_has_help_without_heavy_packages(words):
    """So it answers within a second: torch, Ray and pandas take several."""
    code = (
        "import sys\nfrom workflows.cli import main\n"
        f"try:\n  code = main([*{words!r}, '--help'])\nexcept SystemExit as stop:\n  code = stop.code\n"
        "heavy = {'ray', 'torch', 'torchvision', 'pandas', 'ultralytics', 'matplotlib'} & set(sys.modules)\n"
        "assert not code and not heavy, (code, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


@pytest.mark.parametrize("words", [["workflows.train", "--help"], ["workflows", "train", "--help"]], ids=" ".join)
def test_jobs_are_modules_too(words):
    """As `ray job submit` takes them."""
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: duskfuse train RECIPE") and "tgecnet-restore" in done.stdout


def test_no_arguments_is_a_mistake(command):
    code, out, _ = command()
    assert code == 2 and "usage" in out


def test_unknown_job(command):
    code, _, err = command("corpse")
    assert code == 2
    one_line(err, "corpse", "corpus")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["corpus", "--pairs", "{tmp}/nowhere", "--out", "{tmp}/c"], ["nowhere"]),
        (["corpus", "--pairs", "{tmp}", "--out", "{tmp}/c"], ["no image pair", "visible"]),
        (["corpus", "--pairs", "scenes:3", "--out", "{tmp}/c", "--preset", "fog9"], ["'fog'", "demmi-rf"]),
        (["corpus", "--pairs", "scenes:3", "--out", "{tmp}/c", "--bogus", "1"], ["--bogus"]),
        (["corpus", "--pairs", "scenes:3", "--out", "{tmp}/c", "--seed", "x"], ["--seed"]),
        (["corpus", "--pairs", "scenes:3", "--out", "{tmp}/c", "--val-fraction", "1.5"], ["--val-fraction", "1.5"]),
        (["corpus", "--out", "{tmp}/c"], ["--pairs"]),
        (["corpus", "verify", "{tmp}/nowhere"], ["nowhere"]),
        (
            ["train", "tgecnet-restor", "--corpus", "{tmp}", "--out", "{tmp}/r"],
            ["tgecnet-restor", "tgecnet-restore-tiny"],
        ),
        (["train"], ["unknown recipe", "tgecnet-restore"]),
        (
            ["train", "tgecnet-restore-tiny", "--corpus", "{tmp}/nowhere", "--out", "{tmp}/r"],
            ["nowhere", "duskfuse corpus"],
        ),
        (["train", "tgecnet-restore-tiny", "--corpus", "{tmp}", "--out", "{tmp}/r"], ["manifest.json", "not finished"]),
        (["train", "tgecnet-restore-tiny", "--corpus", "c", "--out", "r", "--recipe.model.top-k", "9"], ["top_k", "9"]),
        (["train", "tgecnet-restore-tiny", "--corpus", "c", "--out", "r", "--recipe.crops.size", "30"], ["crops.size"]),
        (["fuse", "--checkpoint", "{tmp}", "--method", "lp", "--pairs", "scenes:2", "--out", "{tmp}/f"], ["not both"]),
        (["fuse", "--method", "avrage", "--pairs", "scenes:2", "--out", "{tmp}/f"], ["avrage", "average"]),
        (["fuse", "--checkpoint", "{tmp}/nowhere", "--pairs", "scenes:2", "--out", "{tmp}/f"], ["nowhere"]),
        (["fuse", "--checkpoint", "{tmp}", "--pairs", "scenes:2", "--out", "{tmp}/f"], ["checkpoint"]),
        (["fuse", "--method", "average", "--out", "{tmp}/f"], ["--pairs", "--corpus"]),
        (["fuse", "--pairs", "scenes:2", "--out", "{tmp}/f", "--resize"], ["--resize does nothing", "Leave it"]),
        (["fuse", "--pairs", "scenes:2", "--out", "{tmp}/f", "--split", "test"], ["--split does nothing", "--corpus"]),
        (["fuse", "--corpus", "{tmp}", "--out", "{tmp}/f", "--resize"], ["--resize does nothing"]),
        (["fuse", "--pairs", "scenes:2", "--out", "{tmp}/f", "--colour", "channels"], ["--colour", "--method"]),
        (["fuse", "--method", "gff", "--pairs", "scenes:2", "--out", "{tmp}/f", "--colour", "blue"], ["--colour"]),
        (["fuse", "--method", "average", "--corpus", "{tmp}", "--out", "{tmp}/f"], ["manifest.json"]),
        (["score", "--pairs", "scenes:2", "--out", "{tmp}/s", "--fused", "A={tmp}/nowhere"], ["nowhere"]),
        (
            ["score", "--pairs", "scenes:2", "--out", "{tmp}/s", "--fused", "A={tmp}", "--metrics", "en,qq"],
            ["qq", "qabf"],
        ),
        (["score", "--pairs", "scenes:2", "--out", "{tmp}/s", "--fused", "{tmp}", "--reference", "x"], ["--reference"]),
        (
            ["score", "--pairs", "scenes:2", "--out", "{tmp}/s", "--fused", "{tmp}", "--split", "val"],
            ["--split", "pairs"],
        ),
        (["report", "--scores", "{tmp}", "--out", "{tmp}/r.html"], ["duskfuse score"]),
    ],
    ids=lambda value: "-".join(value)[:50] if value and isinstance(value[0], str) else None,
)
def test_bad_input_is_one_line_and_exit_2(command, tmp_path, words, parts):
    before = sorted(tmp_path.rglob("*"))
    code, _, err = command(*(word.format(tmp=tmp_path) for word in words))
    assert code == 2
    one_line(err, *parts)
    made = [path.name for path in sorted(tmp_path.rglob("*")) if path not in before]
    assert not {"manifest.json", "run.json", "fused.json", "score.json", "r.html"} & set(made)


RENAMED_OPTIONS = [(job, old, new) for job, names in RENAMED.items() for old, new in names.items()]


@pytest.mark.parametrize(("job", "old", "new"), RENAMED_OPTIONS)
def test_an_old_option_says_the_new_one(job, old, new, capsys):
    recipe = ["aenet-tiny"] if job in ("train", "tune") else []
    for words in ([f"--{old}", "1"], [f"--{old}=1"], [f"--{old.replace('-', '_')}", "1"]):
        with pytest.raises(UserError, match=f"^--{old} is now --{new}[.]$"):
            read_options(job, [*recipe, *words])
    with pytest.raises(SystemExit):
        read_options(job, [*recipe, "--help"])
    text = capsys.readouterr().out
    assert f"--{new} " in text and f"--{old} " not in text


@pytest.mark.parametrize(("old", "new"), [pair for pair in RENAMED_RECIPE_OPTIONS.items() if ".optim." in pair[0]])
def test_an_old_field_of_a_recipe_says_the_new_one(old, new, capsys):
    for words in ([f"--{old}", "1"], [f"--{old.replace('-', '_')}=1"]):
        with pytest.raises(UserError, match=f"^--{old} is now --{new}[.]$"):
            read_options("train", ["tgecnet-restore", "--corpus", "c", "--out", "o", *words])
    with pytest.raises(SystemExit):
        read_options("train", ["tgecnet-restore", "--help"])
    assert f"--{new} " in capsys.readouterr().out


def test_an_old_option_is_one_line_and_exit_2(command):
    code, _, err = command("report", "--scores", "s", "--pictures", "3")
    assert code == 2
    one_line(err, "duskfuse report: --pictures is now --num-images.")


def test_checkpoint_of_another_kind(command, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "state.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps({"model": "resnet", "config": {}}))
    code, _, err = command("fuse", "--checkpoint", folder, "--pairs", "scenes:2", "--out", tmp_path / "f")
    assert code == 2
    one_line(err, "resnet", "tgecnet")


def test_too_many_rejected_stops_before_any_work(command, tmp_path):
    for i in range(4):
        write_pair(tmp_path / "p", f"{i}", seed=i)
    (tmp_path / "p" / "infrared" / "2.png").unlink()
    code, _, err = command("corpus", "--pairs", tmp_path / "p", "--out", tmp_path / "c")
    assert code == 2
    one_line(err, "1 of 4", "--max-rejected-fraction", "2:")
    assert not (tmp_path / "c" / "manifest.json").exists()


def test_an_output_that_holds_something_else_is_left_alone(command, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.tex").write_text("x")
    code, _, err = command("corpus", "--pairs", "scenes:3:96x64", "--out", tmp_path / "c")
    assert code == 2
    one_line(err, "not empty")
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["thesis.tex"]


def test_another_colour_is_another_piece_of_work(command, tmp_path):
    """A folder of luma results, whose claim says nothing of colour, takes none of every channel."""
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "model.json").write_text(json.dumps({"method": "average"}))
    words = ["fuse", "--method", "average", "--pairs", "scenes:2:96x64", "--out", tmp_path / "f"]
    code, _, err = command(*words, "--colour", "channels")
    assert code == 2
    one_line(err, "another model's images", "colour", "channels")


def test_a_method_fuses_every_channel(tmp_path):
    """As the actor of `duskfuse fuse` does it; the stamp in the PNG tells the two ways apart."""
    write_pair(tmp_path / "p", "a")
    (ref,) = find_pairs(str(tmp_path / "p")).refs
    pair = read_pair(ref)
    made = {}
    for colour in ("channels", "luma", "channels"):
        (result,) = Fuser(FuserSettings(None, "average", colour, str(tmp_path / "f"), 1))(PairUnit((ref,)))
        assert result.fused_now  # what the other way left is not taken for done
        made[colour] = decode((tmp_path / "f" / "a.png").read_bytes()).pixels
    assert (made["channels"] == fuse_colour(CLASSICAL["average"], pair.visible, pair.infrared)).all()
    assert (made["luma"] != made["channels"]).any()
    (again,) = Fuser(FuserSettings(None, "average", "channels", str(tmp_path / "f"), 1))(PairUnit((ref,)))
    assert not again.fused_now and name_of_method("average", "channels") == "average, every channel"


def test_a_truncated_fused_image_is_not_taken_for_done(tmp_path):
    path = tmp_path / "a.png"
    whole = encode_png(np.zeros((40, 40, 3), np.uint8), {STAMP: "s"})
    path.write_bytes(whole)
    assert read_png_text(str(path)) == {STAMP: "s"} and read_png_text(str(tmp_path / "b.png")) == {}
    path.write_bytes(whole[:-20])
    assert read_png_text(str(path)) == {}


def test_an_output_below_a_file_is_one_line(command, tmp_path):
    (tmp_path / "file").write_text("x")
    code, _, err = command("corpus", "--pairs", "scenes:3:96x64", "--out", tmp_path / "file" / "corpus")
    assert code == 2
    one_line(err, "cannot write", "file")


def test_default_workers_take_every_gpu_and_on_cpus_share_the_batch(monkeypatch):
    """Any number of GPUs or CPUs starts any recipe without options."""
    for cpus, gpus in [(1, 0), (2, 0), (7, 0), (64, 0), (8, 1), (16, 3), (48, 6), (64, 8)]:
        for module in (train_job, trainer):
            monkeypatch.setattr(module, "resources", lambda cpus=cpus, gpus=gpus: (float(cpus), gpus))
        for make in RECIPES.values():
            plan = train_job.plan_workers(train_options.Args(recipe=make(), corpus="c", out="o"))
            assert plan.gpu == bool(gpus)
            assert plan.workers == gpus if gpus else make().batch_size % plan.workers == 0
            assert plan.workers <= (gpus or cpus) and plan.workers * plan.cpus + train_job.READING_CPUS <= cpus
