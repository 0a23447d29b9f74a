"""duskfuse demo: the whole job with a tiny recipe, on built-in scenes or on your pairs, from corpus to report.

    duskfuse demo                        built-in scenes, some minutes on two cores
    duskfuse demo --pairs DIR            the same on any folder of pairs

It is the pipeline `tgecnet-tiny`: each command is printed before it runs, the same command goes on where it stopped,
and OUT/report.html is the report.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Args:
    pairs: str = "scenes:48:320x240"
    """A folder of pairs, s3://bucket/path, or scenes:COUNT[:WIDTHxHEIGHT[:SEED]]."""
    out: str = "demo"
    """Where everything goes."""
    preset: str = "demmi-rf"
    """Degradations of the corpus."""
    epochs: int = 0
    """Epochs of each stage; 0: those of the tiny recipes."""
    test_share: float = 0.1
    """Share of the pairs kept for fusing and scoring."""


def main(arguments: list[str]) -> None:
    from workflows.cli import parse

    run(parse(Args, "demo", arguments))


def run(args: Args) -> None:
    from workflows import pipeline

    change = [f"corpus.preset={args.preset}", f"corpus.test-share={args.test_share:g}"]
    if args.epochs:
        change += [f"{stage}.recipe.epochs={args.epochs}" for stage in ("restore", "fuse")]
    pipeline.run(pipeline.Args("tgecnet-tiny", pairs=args.pairs, out=args.out, change=tuple(change)))


if __name__ == "__main__":
    import sys

    from workflows.cli import main as cli

    sys.exit(cli(["demo", *sys.argv[1:]]))
