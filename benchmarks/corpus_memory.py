"""Peak memory of the corpus job while the number of pairs grows ten times.

    python benchmarks/corpus_memory.py [--pairs 60] [--size 320x240]

Runs `duskfuse corpus` on built-in scenes in a process of its own, with N and 10 N pairs, and samples the memory of all
its processes (proportional set size: shared pages count once), Ray's included, five times a second.
"""

import argparse
import subprocess
import sys
import tempfile
import time

import psutil


def kind(process: psutil.Process, root: int) -> str:
    if process.pid == root:
        return "driver"
    name = process.name()
    return "workers" if name.startswith("ray::") else "ray"


def peak(count: int, size: str) -> tuple[dict[str, float], float]:
    """Peaks in MB by kind of process and in all, and the seconds it took."""
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        words = ["corpus", "--pairs", f"scenes:{count}:{size}", "--preset", "demmi-rf", "--out", f"{folder}/corpus"]
        start = time.perf_counter()
        job = subprocess.Popen([sys.executable, "-m", "workflows", *words], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
        root = psutil.Process(job.pid)
        while job.poll() is None:
            sums = {"driver": 0.0, "workers": 0.0, "ray": 0.0}
            for process in [root, *root.children(recursive=True)]:
                try:
                    sums[kind(process, job.pid)] += process.memory_full_info().pss / 1e6
                except psutil.Error:
                    continue
            sums["all"] = sum(sums.values())
            peaks = {name: max(value, peaks.get(name, 0.0)) for name, value in sums.items()}
            time.sleep(0.2)
        assert job.returncode == 0
    return peaks, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--size", default="320x240")
    args = parser.parse_args()
    for count in (args.pairs, 10 * args.pairs):
        peaks, seconds = peak(count, args.size)
        shown = ", ".join(f"{name} {value:.0f} MB" for name, value in peaks.items())
        print(f"{count} pairs, {6 * count} samples: peak {shown}; {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
