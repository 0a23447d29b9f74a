"""Does a training that began on six workers and goes on with two learn as one that always had two?

    python benchmarks/elastic.py OUT.svg [--epochs 16] [--at 8] [--first 6] [--then 2]

Ray on this machine, with as many logical CPUs as that takes; a corpus of built-in scenes; the tiny recipe of stage 1.
The first run is killed after epoch --at, and goes on by the same command with another --workers. The undisturbed run
has --then workers all the time. Printed: loss and PSNR at the join, and how much both vary from one epoch to the next.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCENES = "scenes:40:96x80:3"
RECIPE = ["tgecnet-restore-tiny", "--recipe.batch-size", 12, "--recipe.crops.size", 32, "--recipe.validation.size", 48]
SHOWN = {"train/loss": "training loss", "val/psnr": "validation PSNR, dB"}
JOINED, ALWAYS = "#d1495b", "#30638e"


@dataclass(frozen=True)
class Join:
    """What a measure does at the join of the `joined` curve, beside the `undisturbed` one.

    step    from the last epoch before the join to the first after it
    apart   mean distance of the curves over the three epochs after the join
    noise   the largest step of the undisturbed curve from one epoch to the next, without its first three
    """

    step: float
    apart: float
    noise: float


def join_of(joined: Sequence[float], undisturbed: Sequence[float], at: int) -> Join:
    """`at`: epochs before the join."""
    apart = [abs(a - b) for a, b in zip(joined[at : at + 3], undisturbed[at : at + 3], strict=True)]
    steps = [abs(b - a) for a, b in itertools.pairwise(undisturbed[3:])]
    return Join(abs(joined[at] - joined[at - 1]), sum(apart) / len(apart), max(steps))


def measure(folder: Path, epochs: int, at: int, first: int, then: int) -> tuple[list[dict], list[dict]]:
    """The histories of both runs: (joined, undisturbed). Ray must run here."""
    corpus = folder / "corpus"
    finish("corpus", "--pairs", SCENES, "--preset", "noise2,haze2", "--out", corpus)
    words = ["train", *RECIPE, "--recipe.epochs", epochs, "--corpus", corpus]
    began = start(*words, "--out", folder / "joined", "--workers", first)
    while not epochs_in(folder / "joined") >= at:
        if began.poll() is not None:
            raise RuntimeError(f"the first run ended by itself, with {began.returncode}")
        time.sleep(0.2)
    began.send_signal(signal.SIGKILL)
    began.wait()
    finish(*words, "--out", folder / "joined", "--workers", then)
    finish(*words, "--out", folder / "undisturbed", "--workers", then)
    return history(folder / "joined"), history(folder / "undisturbed")


def history(run: Path) -> list[dict]:
    return json.loads((run / "run.json").read_text())["history"]


def start(*words: object) -> subprocess.Popen:
    import ray

    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    return subprocess.Popen([sys.executable, "-m", "workflows", *map(str, words)], env=environment)


def finish(*words: object) -> None:
    if code := start(*words).wait():
        raise RuntimeError(f"duskfuse {words[0]} ended with {code}")


def epochs_in(run: Path) -> int:
    """Epochs of which Ray knows the checkpoint."""
    try:
        known = json.loads((run / "checkpoints.json").read_text())
        return int(known["latest_checkpoint_result"]["metrics"]["epoch"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0


def picture(joined: list[dict], undisturbed: list[dict], path: Path) -> None:
    """Both measures over the epochs, one beside the other."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "elastic", "font.size": 9}):
        figure = Figure((7.2, 2.7), layout="constrained")
        workers = [one["workers"] for one in joined]
        at = next(place for place, n in enumerate(workers) if n != workers[0])
        epochs = range(1, len(joined) + 1)
        for axes, (name, title) in zip(figure.subplots(1, 2), SHOWN.items(), strict=True):
            axes.axvline(at + 0.5, color="0.75", linewidth=1)
            label = f"always {undisturbed[0]['workers']} workers"
            axes.plot(epochs, [one[name] for one in undisturbed], "-", color=ALWAYS, linewidth=1.6, label=label)
            label = f"{workers[0]} workers, then {workers[-1]}"
            axes.plot(epochs, [one[name] for one in joined], "--", color=JOINED, linewidth=1.6, label=label)
            axes.set_title(title, loc="left", fontsize=9)
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    for name, value in {"epochs": 16, "at": 8, "first": 6, "then": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    import ray

    import workflows  # noqa: F401  Ray's environment

    ray.init(address="local", num_cpus=args.first + 2, include_dashboard=True, logging_level="error")
    with tempfile.TemporaryDirectory() as folder:
        joined, undisturbed = measure(Path(folder), args.epochs, args.at, args.first, args.then)
    picture(joined, undisturbed, args.out)
    at = [one["workers"] for one in joined].index(args.then)
    print(f"joined after epoch {at}; workers by epoch: {[one['workers'] for one in joined]}")
    for name, title in SHOWN.items():
        found = join_of([one[name] for one in joined], [one[name] for one in undisturbed], at)
        values = f"step at the join {found.step:.4f}, apart after it {found.apart:.4f}, noise {found.noise:.4f}"
        print(f"{title:20} {values}")


if __name__ == "__main__":
    main()
