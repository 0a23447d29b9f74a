"""Long: training whose corpus, checkpoints and model are on s3://, killed once and gone on with."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from fusion import checkpoint, storage
from fusion.storage import join
from tests.helpers.jobs import duskfuse, end

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMALL = ["--recipe.crops.size", 32, "--recipe.batch-size", 4, "--recipe.validation.size", 48, "--workers", 1]


def test_training_on_a_store_goes_on_after_a_kill(s3):
    root = s3.new_bucket()
    corpus, run = join(root, "corpus"), join(root, "runs", "one")
    built = duskfuse("corpus", "--pairs", "scenes:16:96x80:3", "--preset", "noise2,haze2", "--out", corpus)
    assert built.wait(timeout=180) == 0, built.stderr.read()
    words = ["train", "tgecnet-restore-tiny", "--corpus", corpus, "--out", run, "--recipe.epochs", 8, *SMALL]
    first = duskfuse(*words)
    deadline = time.time() + 200
    while sum(name.endswith("state.json") for name in storage.list_files(run)) < 2:
        assert first.poll() is None, first.stderr.read()
        assert time.time() < deadline, "no checkpoint in time"
        time.sleep(0.5)
    time.sleep(3)  # younger checkpoints may be lost
    end(first)
    assert not storage.exists(join(run, "run.json"))

    second = duskfuse(*words, stdout=subprocess.PIPE)
    out, err = second.communicate(timeout=400)
    assert second.returncode == 0, err
    assert "resumed after epoch" in out + err
    history = json.loads(storage.read_bytes(join(run, "run.json")))["history"]
    assert [entry["epoch"] for entry in history] == list(range(1, 9))
    assert checkpoint.load(checkpoint.fetch(run), expect="tgecnet").model.config.stage == "restore"
