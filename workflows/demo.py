"""duskfuse demo: the whole job with a tiny recipe, on built-in scenes or on your pairs, from corpus to report.

    duskfuse demo                        built-in scenes, some minutes on two cores
    duskfuse demo --pairs DIR            the same on any folder of pairs

It runs the jobs exactly as the command line would, and prints each command before running it. The same command goes
on where it stopped.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from workflows.cluster import say


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


def steps(args: Args) -> list[list[str]]:
    """The commands of the demo, in order."""
    from fusion.storage import join

    def at(*parts: str) -> str:
        return join(args.out, *parts)

    corpus, restore, fuse = at("corpus"), at("restore"), at("fuse")
    longer = ["--recipe.epochs", str(args.epochs)] if args.epochs else []
    methods = {name: at("fused", name.lower()) for name in ("TG-ECNet", "Average", "Maximum")}
    share = ["--test-share", f"{args.test_share:g}"]
    return [
        ["corpus", "--pairs", args.pairs, "--preset", args.preset, "--out", corpus, *share],
        ["train", "tgecnet-restore-tiny", "--corpus", corpus, "--out", restore, *longer],
        ["train", "tgecnet-fuse-tiny", "--corpus", corpus, "--from", restore, "--out", fuse, *longer],
        ["fuse", "--checkpoint", fuse, "--corpus", corpus, "--out", methods["TG-ECNet"]],
        ["fuse", "--method", "average", "--corpus", corpus, "--out", methods["Average"]],
        ["fuse", "--method", "maximum", "--corpus", corpus, "--out", methods["Maximum"]],
        [
            *("score", "--corpus", corpus, "--out", at("scores")),
            *(word for name, folder in methods.items() for word in ("--fused", f"{name}={folder}")),
        ],
        ["report", "--scores", at("scores"), "--run", restore, "--run", fuse, "--out", at("report.html")],
    ]


def run(args: Args) -> None:
    """Run the steps in this process, on one Ray."""
    import importlib

    from workflows.cluster import connect

    connect()
    commands = steps(args)
    for number, (job, *options) in enumerate(commands, 1):
        say(f"\n[{number}/{len(commands)}] {shlex.join(['duskfuse', job, *options])}")
        importlib.import_module(f"workflows.{job}").main(options)


if __name__ == "__main__":
    import sys

    from workflows.cli import main as cli

    sys.exit(cli(["demo", *sys.argv[1:]]))
