"""Six workers, as on the papers' six GPUs, train what four or sixteen samples a step are the recipe of.

Long: six processes start on a machine of two cores.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusion import checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMALL = ["--recipe.crops.size", 48, "--recipe.crops.per-image", 1, "--recipe.validation.size", 48]
SMALL += ["--recipe.validation.rows", 4]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Iterator[Path]:
    """24 training pairs and more, and a Ray with room for all workers."""
    import ray

    import workflows  # noqa: F401  Ray's environment
    from benchmarks.elastic import finish

    ray.shutdown()  # the one that other modules share, if it runs; they start it again
    ray.init(address="local", num_cpus=8, include_dashboard=True, logging_level="error", log_to_driver=False)
    try:
        folder = tmp_path_factory.mktemp("six")
        finish("corpus", "--pairs", "scenes:32:96x80:3", "--preset", "clean", "--out", folder / "corpus")
        yield folder / "corpus"
    finally:
        ray.shutdown()


def run_file(out: Path) -> dict:
    return json.loads((out / "run.json").read_text())


def rows(corpus: Path) -> int:
    shards = json.loads((corpus / "manifest.json").read_text())["shards"]
    return sum(shard["rows"] for shard in shards if shard["split"] == "train")


def test_aenet_shares_eighteen_in_place_of_sixteen(corpus, tmp_path):
    from benchmarks.elastic import finish

    words = ["train", "aenet-tiny", "--corpus", corpus, "--recipe.epochs", 1, "--recipe.batch-size", 16, *SMALL]
    finish(*words, "--workers", 6, "--out", tmp_path / "run")
    about = run_file(tmp_path / "run")
    assert about["batch"] == {
        "workers": 6,
        "batch_size": 18,
        "recipe_batch_size": 16,
        "learning_rate": pytest.approx(2e-3 * math.sqrt(18 / 16)),
        "recipe_learning_rate": 2e-3,
    }
    (epoch,) = about["history"]
    assert (epoch["workers"], epoch["batch_size"]) == (6, 18)
    assert epoch["train/steps"] == 6 * (rows(corpus) // 6 // 3)  # of all workers
    assert epoch["train/images"] == 3 * epoch["train/steps"]
    assert checkpoint.load(tmp_path / "run").name == "aenet"


def test_moefusion_goes_on_with_four_where_six_were(corpus, tmp_path):
    """Batches of six, two passes an epoch; killed, and then four workers with the recipe's own batch of four."""
    from benchmarks.elastic import epochs_in, finish, start

    words = ["train", "moefusion-tiny", "--corpus", corpus, "--recipe.epochs", 4, "--recipe.repeats", 2, *SMALL]
    out = tmp_path / "run"
    began = start(*words, "--workers", 6, "--out", out)
    deadline = time.monotonic() + 900
    while epochs_in(out) < 1:
        assert began.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    began.send_signal(signal.SIGKILL)
    began.wait()
    finish(*words, "--workers", 4, "--out", out)
    history = run_file(out)["history"]
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3, 4]
    pairs = [(epoch["workers"], epoch["batch_size"]) for epoch in history]
    assert set(pairs) == {(6, 6), (4, 4)} and sorted(pairs, reverse=True) == pairs
    for epoch in history:
        assert epoch["train/steps"] == epoch["workers"] * 2 * (rows(corpus) // epoch["workers"])
        assert epoch["train/images"] == epoch["train/steps"]
    assert math.isfinite(history[-1]["train/loss"]) and history[-1]["train/loss"] < history[0]["train/loss"]
