"""`duskfuse JOB ...`: one command for all jobs. Nothing heavy is imported before the job is known."""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

from fusion.errors import UserError
from workflows.cluster.errors import user_error_in
from workflows.provenance import REVISION, passport

JOBS = {
    "demo": "the whole job on built-in scenes, or on your pairs, with a tiny recipe: corpus to report",
    "corpus": "build a degraded corpus from pairs; verify one",
    "train": "train a recipe on a corpus",
    "tune": "search over fields of a recipe, such as N, K and alpha",
    "evolve": "AE-Netv2: label pairs with a library of methods, train on the best, grow the library",
    "variants": "AE-Netv2: compare its blocks, quality over time and size",
    "commonness": "AE-Netv2: one network for several fusion tasks against one for each",
    "fuse": "fuse pairs, rows of a corpus, two images or two videos, with a network or a classical method",
    "export": "a fusing network as an ONNX file",
    "score": "score folders of fused images",
    "detect": "train a detector, score visible, infrared and fused images by mean average precision",
    "report": "one HTML page from scores, pictures and training curves",
    "pipeline": "corpus to report by one file; what is done is not done again",
}


def usage() -> str:
    lines = [f"  {name:10} {text}" for name, text in JOBS.items()]
    return "\n".join(
        [
            "duskfuse: fuses degraded infrared and visible pairs; builds corpora, trains, scores, reports, on Ray",
            "",
            "usage: duskfuse JOB [options]      duskfuse JOB --help",
            "",
            *lines,
        ]
    )


@contextlib.contextmanager
def terminable() -> Iterator[threading.Event]:
    """Within it SIGTERM is Ctrl-C: KeyboardInterrupt in the main thread, and the event is set.

    `ray job stop`, batch systems and spot notices send it. Once: what is being put away then is not disturbed again.
    """
    told = threading.Event()  # an exception of its own would not do: Ray makes a new KeyboardInterrupt of it
    if threading.current_thread() is not threading.main_thread():
        yield told  # only the main thread may say what a signal does
        return

    def end(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        told.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield told
    finally:
        # None: not set from Python; there is nothing to put back
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a job. Returns the exit code: 0, 2 for anything the user can put right, 130 or 143 when interrupted."""
    with terminable() as told:
        try:
            return _main(list(sys.argv[1:] if arguments is None else arguments))
        except (KeyboardInterrupt, SystemExit) as stop:
            while_connecting = isinstance(stop, SystemExit) and stop.code == signal.SIGTERM  # how Ray ends then
            if isinstance(stop, SystemExit) and not while_connecting:
                raise
            by_signal = told.is_set() or while_connecting
            how = "interrupted by SIGTERM" if by_signal else "interrupted"
            print(f"\nduskfuse: {how}; the same command goes on where it stopped", file=sys.stderr)
            return 143 if by_signal else 130


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"duskfuse {version('duskfuse')}")
        return 0
    if arguments[0] == "--revision":
        print(f"{REVISION}={passport()}")
        return 0
    job, *rest = arguments
    try:
        if job not in JOBS:
            raise UserError(f"unknown job {job!r}. Jobs: {', '.join(JOBS)}.")
        run_job(job, rest)
        return 0
    except BrokenPipeError:  # `| head` has what it wanted
        sys.stderr.close()
        return 0
    except Exception as error:
        known = user_error_in(error)
        if known is None:
            print(f"duskfuse {job}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
            raise
        print(f"duskfuse {job}: {known}", file=sys.stderr)
        return 2


def read_options(job: str, arguments: Sequence[str]) -> Any:
    """Parse the options of a job. No torch and no Ray is imported, so `--help` answers at once."""
    return importlib.import_module(f"workflows.{job}.options").options(list(arguments))


def run_job(job: str, arguments: Sequence[str]) -> None:
    """Parse the options of a job, then import it and run it."""
    options = read_options(job, arguments)
    importlib.import_module(f"workflows.{job}.job").run(options, list(arguments))


def run() -> None:
    """Run the console script."""
    sys.exit(main())


def run_module(package: str) -> None:
    """Run `python -m workflows.JOB`: what `ray job submit` takes."""
    sys.exit(main([package.rpartition(".")[2], *sys.argv[1:]]))
