"""Long tests of what goes wrong in training: a killed driver, a loss that is not finite."""

import json
import subprocess
import time

import pytest

from tests.helpers.jobs import duskfuse, end

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMALL = ["--recipe.crops.size", "32", "--recipe.batch-size", "4", "--recipe.validation.size", "48", "--workers", "1"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("faults") / "corpus"
    job = duskfuse("corpus", "--pairs", "scenes:16:96x80:3", "--preset", "noise2,haze2", "--out", out)
    assert job.wait(timeout=180) == 0, job.stderr.read()
    return out


def test_a_killed_run_goes_on_with_the_same_command(corpus, tmp_path):
    run = tmp_path / "run"
    words = ["train", "tgecnet-restore-tiny", "--corpus", corpus, "--out", run, "--recipe.epochs", 12, *SMALL]
    first = duskfuse(*words)
    deadline = time.time() + 180
    while time.time() < deadline and len(list(run.glob("checkpoint_*/state.json"))) < 2:
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.5)
    time.sleep(3)  # the controller polls every two seconds; younger checkpoints may be lost
    end(first)
    assert not (run / "run.json").exists() and not (run / "checkpoint").exists()

    second = duskfuse(*words, stdout=subprocess.PIPE)
    out, err = second.communicate(timeout=400)
    assert second.returncode == 0, err
    resumed = [line for line in (out + err).splitlines() if "resumed after epoch" in line]
    assert resumed and int(resumed[0].rpartition(" ")[2]) >= 1
    history = json.loads((run / "run.json").read_text())["history"]
    assert [entry["epoch"] for entry in history] == list(range(1, 13))


def test_a_loss_that_is_not_finite_is_one_line(corpus, tmp_path):
    run = tmp_path / "run"
    words = ["train", "tgecnet-restore-tiny", "--corpus", corpus, "--out", run, "--max-failures", 0, *SMALL]
    job = duskfuse(
        *words, "--recipe.optim.lr", "1e30", "--recipe.optim.warmup_fraction", 0, "--recipe.optim.max_grad_norm", 0
    )
    _, err = job.communicate(timeout=300)
    assert job.returncode == 2, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("duskfuse train: ") and "not finite" in last and "l1" in last
    assert not (run / "run.json").exists()
