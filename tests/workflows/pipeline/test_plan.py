"""The plan of a pipeline, without Ray: what a change does again, what is refused before anything runs."""

import dataclasses
import json
import os

import pytest

from fusion.config import fingerprint, to_dict
from fusion.errors import UserError
from tests.helpers.command_line import one_line, write_pair
from workflows.cli import JOBS
from workflows.pipeline import contents, spec
from workflows.pipeline import jobs as pipeline_jobs
from workflows.pipeline.contents import Inputs
from workflows.pipeline.plan import State, plan

TEXT = """
out: {out}
pairs: scenes:8:64x64
stages:
  corpus:
    job: corpus
    pairs: $pairs
    preset: noise1
  restore:
    job: train tgecnet-restore-tiny
    corpus: $corpus
    recipe: {{epochs: 2, model: {{top_k: 1}}}}
  fuse:
    job: train tgecnet-fuse-tiny
    corpus: ${{corpus}}
    from: $restore
    recipe: {{epochs: 1, model: {{top-k: 1}}}}
  images:
    job: fuse
    checkpoint: $fuse
    corpus: $corpus
  average:
    job: fuse
    method: average
    corpus: $corpus
  scores:
    job: score
    corpus: $corpus
    metrics: en,sf
    fused: {{Ours: $images, Average: $average}}
  report:
    job: report
    scores: $scores
    run: [$restore, $fuse]
"""
STAGES = ("corpus", "restore", "fuse", "images", "average", "scores", "report")


@pytest.fixture
def steps(tmp_path):
    """The steps of TEXT as it is changed, by stage."""

    def make(*change, text: str = TEXT, **options) -> dict:
        path = tmp_path / "mine.yaml"
        path.write_text(text.format(out=tmp_path / "out"))
        found = spec.read_pipeline(str(path), change=change, **options)
        return {step.stage.name: step for step in plan(found, Inputs(found.out))}

    return make


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in after if before[name].folder != after[name].folder}


def finish(steps: dict, *names: str) -> State:
    """As if these stages had run."""
    state = State(os.path.dirname(next(iter(steps.values())).folder))
    for name in names or steps:
        step = steps[name]
        spec_of_job = step.stage.spec
        os.makedirs(step.folder, exist_ok=True)
        with open(os.path.join(step.folder, spec_of_job.completion_file), "w") as file:
            file.write(step.name)
        state.mark_done(step, {}, 1.0)
        state.update_latest(step)
    return state


def test_commands_are_those_of_the_command_line(steps, tmp_path):
    found = steps()
    at = {name: step.folder for name, step in found.items()}
    assert tuple(found) == STAGES
    assert len(set(at.values())) == len(STAGES)
    assert all(folder.startswith(f"{tmp_path}/out/{name}-") for name, folder in at.items())
    assert found["corpus"].command == (
        *("corpus", "--pairs", "scenes:8:64x64", "--preset", "noise1"),
        *("--out", at["corpus"]),
    )
    assert found["fuse"].command == (
        *("train", "tgecnet-fuse-tiny", "--corpus", at["corpus"], "--from", at["restore"]),
        *("--recipe.epochs", "1", "--recipe.model.top-k", "1", "--out", at["fuse"]),
    )
    assert found["scores"].command == (
        *("score", "--corpus", at["corpus"], "--metrics", "en,sf"),
        *("--fused", f"Ours={at['images']}", "--fused", f"Average={at['average']}", "--out", at["scores"]),
    )
    assert found["report"].command == (
        *("report", "--scores", at["scores"], "--run", at["restore"], "--run", at["fuse"]),
        *("--out", f"{at['report']}/report.html"),
    )


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ("report.num-images=3", {"report"}),
        ("scores.metrics=en", {"scores", "report"}),
        ("average.method=maximum", {"average", "scores", "report"}),
        ("fuse.recipe.epochs=3", {"fuse", "images", "scores", "report"}),
        ("restore.recipe.optim.lr=0.001", {"restore", "fuse", "images", "scores", "report"}),
        ("corpus.seed=1", set(STAGES)),
        ("restore.job=train tgecnet-restore", {"restore", "fuse", "images", "scores", "report"}),
        ("restore.workers=2", set()),  # how it runs
        ("restore.max-failures=9", set()),
        ("corpus.max_rejected_fraction=0.5", set()),
        ("corpus.seed=0", set()),  # as by default
        ("restore.recipe.batch-size=4", set()),  # as in the recipe
        ("restore.recipe.optim.lr=2e-3", set()),  # the same number as 0.002
    ],
)
def test_a_changed_setting_changes_what_depends_on_it(steps, change, redone):
    assert changed(steps(), steps(change)) == redone


def test_the_place_of_the_results_changes_nothing(steps, tmp_path):
    before, after = steps(), steps(out=str(tmp_path / "elsewhere"))
    assert [step.name for step in before.values()] == [step.name for step in after.values()]


def test_files_from_outside_count_by_content(steps, tmp_path):
    for i in range(3):
        write_pair(tmp_path / "pairs", f"p{i}", seed=i)
    where = str(tmp_path / "pairs")
    first = steps(pairs=where)
    picture = tmp_path / "pairs" / "visible" / "p1.png"
    whole = picture.read_bytes()

    picture.write_bytes(whole)
    os.utime(picture, ns=(1, 1))
    assert changed(first, steps(pairs=where)) == set()  # written again, the same

    last = bytes([whole[-1] ^ 1])
    picture.write_bytes(whole[:-1] + last)  # as many bytes as before
    assert changed(first, steps(pairs=where)) == set(STAGES)
    picture.write_bytes(whole)

    (tmp_path / "pairs" / ".hidden").write_text("x")
    assert changed(first, steps(pairs=where)) == set()
    write_pair(tmp_path / "pairs", "p3")
    assert changed(first, steps(pairs=where)) == set(STAGES)


def test_files_are_read_once(tmp_path, monkeypatch):
    for i in range(3):
        write_pair(tmp_path / "pairs", f"p{i}", seed=i)
    out, where = str(tmp_path / "out"), str(tmp_path / "pairs")
    inputs = Inputs(out)
    first = inputs(where)
    inputs.save()
    read = []
    real = contents._file_checksum
    monkeypatch.setattr(contents, "_file_checksum", lambda path: read.append(path) or real(path))
    assert Inputs(out)(where) == first and read == []
    write_pair(tmp_path / "pairs", "p1", seed=9)
    assert Inputs(out)(where) != first and len(read) == 2


def test_a_folder_of_another_job_counts_by_the_file_written_last(tmp_path):
    (tmp_path / "manifest.json").write_text("1")
    first = Inputs("nowhere")(str(tmp_path))
    (tmp_path / "lease.json").write_text("2")
    assert Inputs("nowhere")(str(tmp_path)) == first
    (tmp_path / "manifest.json").write_text("2")
    assert Inputs("nowhere")(str(tmp_path)) != first


def test_what_there_is_to_do_and_why(steps):
    found = steps()
    fresh = State(os.path.dirname(found["corpus"].folder))
    assert {fresh.stale_reason(step) for step in found.values()} == {"never ran"}
    os.makedirs(found["corpus"].folder)
    assert fresh.stale_reason(found["corpus"]) == "began, is not done"

    state = finish(found)
    assert {state.stale_reason(step) for step in found.values()} == {""}
    assert state.read_latest() == {name: step.name for name, step in found.items()}

    after = steps("fuse.recipe.epochs=3", "scores.metrics=en,sf,qabf")
    why = {name: state.stale_reason(step) for name, step in after.items()}
    assert why == {
        **dict.fromkeys(("corpus", "restore", "average"), ""),
        "fuse": "recipe.epochs 1 -> 3",
        "images": "fuse changed",
        "scores": 'metrics "en,sf" -> "en,sf,qabf", images changed',
        "report": "scores changed, fuse changed",
    }
    finish(after, "fuse", "images", "scores", "report")
    assert {state.stale_reason(step) for step in found.values()} == {""}  # back to the old setting: all is there

    os.remove(f"{found['images'].folder}/fused.json")
    assert state.stale_reason(found["images"]) == "fused.json is gone"


def test_what_an_earlier_version_finished_is_not_done_again(steps, tmp_path):
    """Its records have options, recipe fields and keys by the names of then, so their fingerprints are others."""
    old_names = {
        "val_fraction": "val_share",
        "test_fraction": "test_share",
        "num_images": "pictures",
        "final_lr_ratio": "final",
        "warmup_fraction": "warmup",
        "max_grad_norm": "clip",
        "shuffle_buffer": "shuffle",
        "identity_probability": "identity_share",
    }

    def as_then(value):
        if isinstance(value, dict):
            return {old_names.get(name, name): as_then(item) for name, item in value.items()}
        return value

    now = steps("corpus.test-fraction=0.5", "report.num-images=3")
    marks, names = {}, {}
    for stage, step in now.items():
        made_of = as_then(to_dict(step.made_of))
        made_of["stages"] = {name: marks[name] for name in made_of["stages"]}
        marks[stage] = fingerprint(made_of)
        names[stage] = f"{stage}-{marks[stage][:8]}"
        (tmp_path / "out" / names[stage]).mkdir(parents=True)
        (tmp_path / "out" / names[stage] / step.stage.spec.completion_file).write_text(stage)
        record = {"fingerprint": marks[stage], "stamp": {}, "seconds": 1.0, "made of": made_of}
        (tmp_path / "out" / "stages").mkdir(exist_ok=True)
        (tmp_path / "out" / "stages" / f"{names[stage]}.json").write_text(json.dumps(record))
    (tmp_path / "out" / "latest.json").write_text(json.dumps(names))
    state = State(str(tmp_path / "out"))
    again = steps("corpus.test-fraction=0.5", "report.num-images=3")
    assert {stage: step.name for stage, step in again.items()} == names
    assert {state.stale_reason(step) for step in again.values()} == {""}
    assert again["images"].command[2] == f"{tmp_path}/out/{names['fuse']}"

    changed_later = steps("corpus.test-fraction=0.5", "fuse.recipe.optim.max-grad-norm=9")
    assert changed_later["restore"].name == names["restore"] and changed_later["fuse"].name != names["fuse"]
    assert state.stale_reason(changed_later["fuse"]) == "recipe.optim.max_grad_norm 1.0 -> 9.0"
    assert "default" in state.stale_reason(changed_later["report"])


def test_the_latest_report_has_a_place_of_its_own(steps):
    before, after = steps(), steps("report.num-images=3")
    finish(before)
    state = finish(after, "report")
    copy = state.copy_path(after["report"])
    assert copy == f"{state.out}/report.html" and open(copy).read() == after["report"].name
    state.update_latest(before["report"])
    assert open(copy).read() == before["report"].name
    assert json.loads(open(f"{state.out}/latest.json").read())["report"] == before["report"].name
    assert state.copy_path(before["corpus"]) is None


def test_dry_run_tells_the_plan_and_writes_nothing(steps, command, tmp_path):
    found = steps()
    finish(found, "corpus", "restore")
    before = sorted(tmp_path.rglob("*"))
    code, out, _ = command("pipeline", tmp_path / "mine.yaml", "--dry-run", "--set", "restore.recipe.epochs=9")
    assert code == 0 and sorted(tmp_path.rglob("*")) == before
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(STAGES)
    assert lines[0].split()[1] == "done" and found["corpus"].folder in lines[0]
    assert "to do" in lines[1] and "(recipe.epochs 2 -> 9)" in lines[1] and found["restore"].folder not in lines[1]
    assert lines[-1] == "6 of 7 stages to do"
    code, out, _ = command("pipeline", tmp_path / "mine.yaml", "--dry-run", "--until", "fuse")
    assert code == 0 and out.splitlines()[-1] == "1 of 3 stages to do"


def test_the_kept_file_is_the_same_pipeline(steps, tmp_path):
    before = steps("restore.recipe.optim.lr=1e-4", "average.method=null", skip=["report"])
    found = spec.read_pipeline(
        str(tmp_path / "mine.yaml"),
        change=["restore.recipe.optim.lr=1e-4", "average.method=null"],
        skip=["report"],
    )
    assert "report" not in before and "method" not in found.stages[-2].options
    (tmp_path / "kept.yaml").write_text(found.to_yaml())
    again = spec.read_pipeline(str(tmp_path / "kept.yaml"))
    assert dataclasses.replace(again, path=found.path) == found
    assert [step.name for step in plan(again, Inputs(again.out))] == [step.name for step in before.values()]


def test_without_a_stage_takes_away_what_refers_to_it(steps):
    found = steps(skip=["average"])
    assert "average" not in found
    assert [word for word in found["scores"].command if word.startswith("Average")] == []
    assert f"Ours={found['images'].folder}" in found["scores"].command
    with pytest.raises(UserError, match=r"--skip corpus: .*stage restore needs it \(corpus: \$corpus\)"):
        steps(skip=["corpus"])


def test_no_stage_goes_on_with_another_network_when_its_own_is_left_out():
    for name, lost, needs in (("tgecnet", "fuse", "tgecnet"), ("moefusion-tiny", "train", "moefusion")):
        with pytest.raises(UserError, match=rf"--skip {lost}: .*stage {needs} needs it \(checkpoint"):
            spec.read_pipeline(name, pairs="p", skip=[lost])
        left = spec.read_pipeline(name, pairs="p", skip=[lost, needs])
        assert lost not in str(left.stages[-1].options.get("run"))


def test_what_says_how_a_stage_runs_redoes_nothing(steps):
    assert steps("restore.node-timeout=900")["restore"].folder == steps()["restore"].folder


def test_lists_and_switches():
    options = {
        "sequences": "false",
        "resize": "true",
        "run": ["a", "b"],
        "fused": {"A": "x"},
        "recipe.optim.milestones": ["3", "5"],
        "recipe.crops.flips": "false",
        "seed": "-1",
    }
    assert pipeline_jobs.to_argv(options) == [
        *("--no-sequences", "--resize", "--run", "a", "--run", "b", "--fused", "A=x"),
        *("--recipe.optim.milestones", "3", "5", "--recipe.crops.no-flips", "--seed=-1"),
    ]
    recipe = {name: value for name, value in options.items() if name.startswith("recipe")}
    words = [*pipeline_jobs.to_argv(recipe), "--corpus", "c", "--out", "o"]
    parsed = pipeline_jobs.parse_options(("train", "moefusion-tiny"), words).recipe
    assert parsed.optim.milestones == (3, 5) and parsed.crops.flips is False
    parsed = pipeline_jobs.parse_options(
        ("corpus",), ["--pairs", "p", "--out", "o", *pipeline_jobs.to_argv({"sequences": "false"})]
    )
    assert parsed.sequences is False


@pytest.mark.parametrize("name", spec.BUILT_IN)
def test_built_in_pipelines(name, command, tmp_path):
    code, out, err = command("pipeline", name, "--pairs", "scenes:24:160x128", "--out", tmp_path / "out", "--dry-run")
    assert code == 0, err
    assert "report" in out and not (tmp_path / "out").exists()
    code, printed, _ = command("pipeline", name, "--print")
    (tmp_path / "copy.yaml").write_text(printed)
    assert code == 0 and printed.startswith("# ")
    copy = ("pipeline", tmp_path / "copy.yaml", "--pairs", "scenes:24:160x128", "--out", tmp_path / "out", "--dry-run")
    assert command(*copy)[1] == out


def test_every_job_of_the_table_is_a_job():
    assert set(pipeline_jobs.JOB_SPECS) <= set(JOBS) and set(pipeline_jobs.CHECKS) <= set(pipeline_jobs.JOB_SPECS)


CORPUS = "  corpus:\n    job: corpus\n    pairs: $pairs\n"
AFTER = CORPUS + "  a:\n    corpus: $corpus\n    job: "  # a stage that works on it


@pytest.mark.parametrize(
    ("stages", "parts"),
    [
        ("  a:\n    job: crpus\n", ["stage a", "'crpus'", "corpus"]),
        ("  a:\n    job: demo\n", ["stage a", "'demo'"]),
        ("  a:\n    job: train tgecnet-restor\n    corpus: $pairs\n", ["stage a", "tgecnet-restor"]),
        (CORPUS + "    bogus: 1\n", ["stage corpus", "--bogus"]),
        (CORPUS + "    seed: x\n", ["stage corpus", "--seed"]),
        (CORPUS + "    out: x\n", ["stage corpus", "out"]),
        (CORPUS + "    help: x\n", ["stage corpus", "not an option"]),
        (CORPUS + "    preset: fog9\n", ["stage corpus", "fog"]),
        (CORPUS + "    seed: {a: {b: c}}\n", ["stage corpus", "seed"]),
        (CORPUS + "    seed: 1\n    seed: 2\n", ["line 5", "seed", "twice"]),
        (CORPUS + CORPUS, ["corpus", "twice"]),
        (AFTER + "train tgecnet-fuse-tiny\n", ["stage a", "from"]),
        (AFTER + "train tgecnet-tiny\n    from: $corpus\n", ["stage a", "from", "train"]),
        (AFTER + "tune tgecnet-tiny\n    space: [model.experts=2, 'model.top-k=1,3']\n", ["stage a", "3 of 2 experts"]),
        (AFTER + "tune tgecnet-fuse\n    preset: experts\n", ["stage a", "`duskfuse tune tgecnet`"]),
        (AFTER + "train moefusion\n    recipe: {epoch: 3}\n", ["stage a", "--recipe.epoch"]),
        (AFTER + "fuse\n    checkpoint: $b\n  b:\n    job: train moefusion\n", ["stage a", "checkpoint", "$b"]),
        (AFTER + "fuse\n    checkpoint: $a\n", ["stage a", "checkpoint", "$a", "no earlier stage"]),
        (AFTER + "fuse\n    checkpoint: $nowhere\n", ["stage a", "checkpoint", "$nowhere"]),
        (AFTER + "fuse\n    checkpoint: $corpus\n", ["stage a", "checkpoint", "train or evolve"]),
        (AFTER + "fuse\n    method: avrage\n", ["stage a", "avrage"]),
        (AFTER + "score\n    fused: /nowhere/at/all\n", ["stage a", "/nowhere/at/all"]),
        (AFTER + "score\n    fused: A=$corpus\n    metrics: en,qq\n", ["stage a", "fused", "corpus"]),
        (AFTER + "score\n    fused: A=$corpus/x\n    metrics: en,qq\n", ["stage a", "qq"]),
        (CORPUS + "  a:\n    job: report\n    picture: 3\n", ["stage a", "--picture"]),
        (CORPUS + "  a:\n    job: report\n    num-images: 3\n", ["stage a", "scores"]),
        (AFTER + "report\n    pictures: 3\n", ["stage a", "--pictures is now --num-images"]),
        ("  a b:\n    job: corpus\n", ["stage a b"]),
        ("  pairs:\n    job: corpus\n", ["stage pairs"]),
        ("  - corpus\n", ["no stages"]),
        ("  corpus: corpus\n", ["stage corpus", "job"]),
        (CORPUS + "   x: [\n", ["line"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_anything_runs(command, tmp_path, stages, parts):
    path = tmp_path / "mine.yaml"
    path.write_text(f"out: {tmp_path / 'out'}\npairs: scenes:8:64x64\nstages:\n{stages}")
    code, _, err = command("pipeline", path)
    assert code == 2
    one_line(err, path, *parts)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["nowhere.yaml"], ["nowhere.yaml", "tgecnet-tiny"]),
        (["tgecnet"], ["stage corpus", "--pairs"]),
        (["tgecnet", "--pairs", "/nowhere/at/all"], ["stage corpus", "/nowhere/at/all"]),
        (["tgecnet-tiny", "--set", "restore.epochs"], ["--set restore.epochs", "STAGE.OPTION=VALUE"]),
        (["tgecnet-tiny", "--set", "restor.seed=1"], ["restor", "restore"]),
        (["tgecnet-tiny", "--set", "restore.recipe.epochs=many"], ["stage restore", "--recipe.epochs", "many"]),
        (["tgecnet-tiny", "--until", "fuze"], ["--until fuze", "fuse"]),
        (["tgecnet-tiny", "--skip", "fuze"], ["--skip fuze", "fuse"]),
        ([], ["PIPELINE"]),
    ],
)
def test_a_mistake_on_the_command_line(command, tmp_path, words, parts, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command("pipeline", *words)
    assert code == 2
    one_line(err, *parts)
    assert list(tmp_path.iterdir()) == []


def test_pairs_without_boxes_are_told_before_the_detector_waits_for_them(command, tmp_path):
    for i in range(3):
        write_pair(tmp_path / "pairs", f"p{i}", seed=i)
    words = ("pipeline", "tgecnet", "--pairs", tmp_path / "pairs", "--out", tmp_path / "out", "--dry-run")
    code, _, err = command(*words)
    assert code == 2
    one_line(err, "stage detect", "boxes", "--skip")
    code, out, _ = command(*words, "--skip", "detect")
    assert code == 0 and "detect" not in out


def test_a_folder_that_holds_something_else_is_left_alone(command, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    code, _, err = command("pipeline", "tgecnet-tiny", "--out", tmp_path)
    assert code == 2
    one_line(err, "not empty")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
