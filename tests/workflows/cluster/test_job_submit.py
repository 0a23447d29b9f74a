"""`ray job submit` against a real head: logs, exit codes, stopping and going on, tokens."""

import json
import time

import pytest

from tests.helpers.jobs import head
from workflows.provenance import REVISION_VARIABLE, revision, revision_env

SCENES = "scenes:12:96x64"
TINY = ("--recipe.crops.size", "32", "--recipe.batch-size", "4", "--workers", "1")
TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def open_head():
    """A cluster without a token, as people start one inside a closed network."""
    with head() as found:
        yield found


@pytest.fixture(scope="module")
def corpus(open_head, tmp_path_factory):
    """A corpus that a submitted job built, with the `ray job submit` that did it."""
    out = tmp_path_factory.mktemp("submitted") / "corpus"
    told = json.dumps({"env_vars": {REVISION_VARIABLE: revision_env()}})
    done = open_head.submit(
        "workflows.corpus", "--pairs", SCENES, "--preset", "noise2", "--out", out, options=["--runtime-env-json", told]
    )
    return out, done


@pytest.mark.ray
def test_a_job_gives_its_logs_and_exit_code(corpus):
    out, done = corpus
    assert done.returncode == 0, done.stdout + done.stderr
    assert "samples, " in done.stdout and "succeeded" in done.stdout
    made = json.loads((out / "manifest.json").read_text())
    assert made["provenance"]["revision"] == revision()  # although no repository was uploaded
    assert not (out / "lease.json").exists()


@pytest.mark.ray
def test_bad_input_is_one_line_in_the_logs_and_a_failed_job(open_head, tmp_path):
    done = open_head.submit("workflows.corpus", "--pairs", tmp_path / "nowhere", "--out", tmp_path / "c")
    assert done.returncode == 1  # Ray's own code for any failed job; the job's is in its message
    said = done.stdout + done.stderr
    assert "duskfuse corpus: " in said and "nowhere" in said and "Traceback" not in said
    assert "exit code 2" in said


@pytest.mark.ray
@pytest.mark.slow
def test_a_stopped_training_goes_on(open_head, corpus, tmp_path):
    epochs = 20
    words = ["tgecnet-restore-tiny", "--corpus", corpus[0], "--out", tmp_path / "run", "--recipe.epochs", epochs, *TINY]
    begun = open_head.submit("workflows.train", *words, options=["--no-wait", "--submission-id", "training"])
    assert begun.returncode == 0, begun.stdout + begun.stderr
    wait_for(lambda: list((tmp_path / "run").glob("checkpoint_*/state.json")))

    stopped = open_head.job("stop", "training")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    status, log = (open_head.job(verb, "training").stdout for verb in ("status", "logs"))
    assert "was stopped" in status, status
    assert "interrupted by SIGTERM" in log and "workflows/cli.py" not in log, log  # no traceback of ours
    assert not (tmp_path / "run" / "run.json").exists()

    done = open_head.submit("workflows.train", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed after epoch " in done.stdout
    history = json.loads((tmp_path / "run" / "run.json").read_text())["history"]
    assert [row["epoch"] for row in history] == list(range(1, epochs + 1))


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_with_a_token(tmp_path):
    """The right token works for drivers and jobs; a missing or wrong one is one line and exit code 2, soon."""
    words = ["corpus", "--pairs", SCENES, "--preset", "noise2", "--out"]
    with head(token=TOKEN) as cluster:
        for name, changes in {
            "disabled": {"RAY_AUTH_MODE": "disabled"},
            "missing": {"RAY_AUTH_TOKEN": "", "HOME": str(tmp_path)},
            "wrong": {"RAY_AUTH_TOKEN": TOKEN[::-1]},
        }.items():
            start = time.monotonic()
            refused = cluster.duskfuse(*words, tmp_path / name, **changes)
            assert time.monotonic() - start < 60
            assert refused.returncode == 2, refused.stderr
            last = refused.stderr.strip().splitlines()[-1]
            assert last.startswith("duskfuse corpus: ") and "token" in last and "RAY_AUTH_TOKEN" in last
            assert "Traceback" not in refused.stderr and TOKEN not in refused.stderr + refused.stdout
            assert not (tmp_path / name / "lease.json").exists()
        joined = cluster.duskfuse(*words, tmp_path / "driver")
        assert joined.returncode == 0, joined.stderr
        submitted = cluster.submit("workflows.corpus", *words[1:], tmp_path / "job")
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr
        assert TOKEN not in submitted.stdout + submitted.stderr
        assert (tmp_path / "job" / "manifest.json").exists()
        refused = cluster.submit("workflows.corpus", *words[1:], tmp_path / "no", RAY_AUTH_TOKEN=TOKEN[::-1])
        assert refused.returncode != 0 and not (tmp_path / "no").exists()


def wait_for(true, seconds: float = 300) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "did not happen in time"
        time.sleep(1)
