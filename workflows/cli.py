"""Run `duskfuse JOB ...`, one command for all jobs. Nothing heavy is imported before the options are parsed."""

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
from workflows.provenance import REVISION_VARIABLE, revision_env

# Job -> its line of `duskfuse --help`. Its package workflows.JOB has options.options() and job.run().
JOBS: dict[str, str] = {
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
    """Return the text of `duskfuse --help`."""
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
def sigterm_as_keyboard_interrupt() -> Iterator[threading.Event]:
    """Within it SIGTERM raises KeyboardInterrupt in the main thread, and sets the event.

    `ray job stop`, batch systems and spot notices send SIGTERM. Only the first one is handled, so that clean-up is not
    interrupted by a second one.
    """
    sigterm_received = threading.Event()  # an event, because Ray re-raises our exception as a new KeyboardInterrupt
    if threading.current_thread() is not threading.main_thread():
        yield sigterm_received  # Python allows only the main thread to set a signal handler
        return

    def handle_sigterm(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sigterm_received.set()
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, handle_sigterm)
    try:
        yield sigterm_received
    finally:
        # None: the handler was not set from Python and cannot be restored
        signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a job. Returns the exit code: 0, 2 for anything the user can put right, 130 or 143 when interrupted."""
    with sigterm_as_keyboard_interrupt() as sigterm_received:
        try:
            return _main(list(sys.argv[1:] if arguments is None else arguments))
        except (KeyboardInterrupt, SystemExit) as stop:
            # SystemExit(15) is how Ray ends a process that gets SIGTERM while it connects
            while_connecting = isinstance(stop, SystemExit) and stop.code == signal.SIGTERM
            if isinstance(stop, SystemExit) and not while_connecting:
                raise
            by_sigterm = sigterm_received.is_set() or while_connecting
            how = "interrupted by SIGTERM" if by_sigterm else "interrupted"
            print(f"\nduskfuse: {how}; the same command goes on where it stopped", file=sys.stderr)
            return 143 if by_sigterm else 130


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"duskfuse {version('duskfuse')}")
        return 0
    if arguments[0] == "--revision":
        print(f"{REVISION_VARIABLE}={revision_env()}")
        return 0
    job, *rest = arguments
    try:
        if job not in JOBS:
            raise UserError(f"unknown job {job!r}. Jobs: {', '.join(JOBS)}.")
        run_job(job, rest)
        return 0
    except BrokenPipeError:  # the reader, such as `| head`, has closed the pipe
        sys.stderr.close()
        return 0
    except Exception as error:
        user_error = user_error_in(error)
        if user_error is None:  # a bug: one line before the traceback
            print(f"duskfuse {job}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
            raise
        print(f"duskfuse {job}: {user_error}", file=sys.stderr)
        return 2


def read_options(job: str, arguments: Sequence[str]) -> Any:
    """Return the options dataclass of a job. Imports no torch and no Ray, so `--help` answers at once."""
    return importlib.import_module(f"workflows.{job}.options").options(list(arguments))


def run_job(job: str, arguments: Sequence[str]) -> None:
    """Parse the options of a job, then import it and run it."""
    options = read_options(job, arguments)
    importlib.import_module(f"workflows.{job}.job").run(options, list(arguments))


def run() -> None:
    """Run the console script `duskfuse`."""
    sys.exit(main())


def run_module(package: str) -> None:
    """Run `python -m workflows.JOB`, as `ray job submit` does. `package`: "workflows.JOB"."""
    sys.exit(main([package.rpartition(".")[2], *sys.argv[1:]]))
