"""`duskfuse JOB ...`: one command for all jobs. Nothing heavy is imported before the job is known."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
from collections.abc import Sequence
from typing import Any

from fusion.errors import UserError

JOBS = {
    "demo": "the whole job on built-in scenes, or on your pairs, with a tiny recipe: corpus to report",
    "corpus": "build a degraded corpus from pairs; verify one",
    "train": "train a recipe on a corpus",
    "evolve": "AE-Netv2: label pairs with a library of methods, train on the best, grow the library",
    "variants": "AE-Netv2: compare its blocks, quality over time and size",
    "commonness": "AE-Netv2: one network for several fusion tasks against one for each",
    "fuse": "fuse pairs, rows of a corpus, two images or two videos, with a network or a classical method",
    "export": "a fusing network as an ONNX file",
    "score": "score folders of fused images",
    "detect": "train a detector, score visible, infrared and fused images by mean average precision",
    "report": "one HTML page from scores, pictures and training curves",
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a job. Returns the exit code: 0, or 2 for anything the user can put right."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"duskfuse {version('duskfuse')}")
        return 0
    job, *rest = arguments
    try:
        if job not in JOBS:
            raise UserError(f"unknown job {job!r}. Jobs: {', '.join(JOBS)}.")
        importlib.import_module(f"workflows.{job}").main(rest)
        return 0
    except KeyboardInterrupt:
        print("\nduskfuse: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has what it wanted
        sys.stderr.close()
        return 0
    except Exception as error:
        from workflows.cluster import user_error_in

        known = user_error_in(error)
        if known is None:
            print(f"duskfuse {job}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
            raise
        print(f"duskfuse {job}: {known}", file=sys.stderr)
        return 2


def parse(kind: Any, job: str, arguments: Sequence[str], **options: Any) -> Any:
    """Command-line options -> the dataclass `kind`, by tyro; its error boxes become one UserError line."""
    import tyro

    options = {"prog": f"duskfuse {job}", "args": list(arguments)} | options
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        text = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
        body = re.sub(r"╭.*?╮", " ", text)  # the box's title says less than its first line
        words = " ".join(re.sub(r"[─│╰╯]+", " ", body).split()).partition("For full helptext")[0].strip()
        raise UserError(f"{words or 'cannot read the options'}. See duskfuse {job} --help.") from None


def run() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
