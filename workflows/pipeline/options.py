"""The options of `duskfuse pipeline`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from workflows.options import Repeated, parse


@dataclass(frozen=True)
class Args:
    pipeline: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PIPELINE")]
    """A file, or a built-in one: tgecnet, tgecnet-tiny, moefusion, moefusion-tiny, aenet, aenet-evolution."""
    pairs: str = ""
    """What $pairs stands for: a folder of pairs, s3://bucket/path, or scenes:COUNT."""
    out: str = ""
    """Folder or s3://bucket/path of everything, instead of the one in the file."""
    change: Annotated[Repeated, tyro.conf.arg(name="set")] = ()
    """STAGE.OPTION=VALUE instead of what the file says; null takes an option away."""
    skip: Repeated = ()
    """A stage to leave out, also of the lists and reports that name it, such as detect where pairs have no boxes."""
    until: str = ""
    """Stop after this stage."""
    dry_run: bool = False
    """Say what is done, what is not and why; do nothing."""
    print: bool = False
    """Print the file and do nothing."""


def options(arguments: list[str]) -> Args:
    """Parse the command line."""
    return parse(Args, "pipeline", arguments)
