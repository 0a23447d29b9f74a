"""duskfuse demo: the whole job with a tiny recipe, on built-in scenes or on your pairs, from corpus to report.

    duskfuse demo                        built-in scenes, some minutes on two cores
    duskfuse demo --pairs DIR            the same on any folder of pairs

It is the pipeline `tgecnet-tiny`: each command is printed before it runs, the same command goes on where it stopped,
and OUT/report.html is the report.
"""

from __future__ import annotations

from workflows.demo.options import Args
from workflows.pipeline import job as pipeline_job
from workflows.pipeline import options as pipeline_options


def run(args: Args, command: list[str]) -> None:
    """Run the pipeline `tgecnet-tiny` with the options of the demo."""
    change = [f"corpus.preset={args.preset}", f"corpus.test-fraction={args.test_fraction:g}"]
    if args.epochs:
        change += [f"{stage}.recipe.epochs={args.epochs}" for stage in ("restore", "fuse")]
    pipeline_job.run(
        pipeline_options.Args("tgecnet-tiny", pairs=args.pairs, out=args.out, change=tuple(change)), command
    )
