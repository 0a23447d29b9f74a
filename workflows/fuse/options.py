"""The options of `duskfuse fuse`, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from fusion.classical import CLASSICAL
from fusion.errors import UserError
from workflows.options import parse


def options(arguments: list[str]) -> Args:
    """Parse the command line."""
    return parse(Args, "fuse", arguments)


FOLDERS_ONLY = ("split", "workers", "max_rejected_fraction")


@dataclass(frozen=True)
class Args:
    out: str
    """Folder or s3://bucket/path of the fused images; a file with --visible and --infrared."""
    checkpoint: str | None = None
    """A finished training run, or a checkpoint folder; without it the AE-Netv2 of the package."""
    method: str | None = None
    """A classical method instead, such as average, adf, gff, lp (see docs/classical_methods.md)."""
    colour: Literal["luma", "channels"] = "luma"
    """What a --method fuses: the luma, under the visible image's colour; or every colour channel with the infrared
    image, as most published comparisons do, where colours fade towards grey."""
    visible: str | None = None
    """One image or video, and with --infrared the other one: fused at once into the file --out, without Ray."""
    infrared: str | None = None
    """See --visible."""
    resize: bool = False
    """Scale the infrared file to the size of the visible one where they differ."""
    pairs: str | None = None
    """Fuse these pairs: a folder, s3://bucket/path, or scenes:COUNT."""
    corpus: str | None = None
    """Fuse the degraded rows of this corpus."""
    split: str | None = None
    """Rows of the corpus to fuse: train, val, test, all; by default test."""
    workers: int = 0
    """Copies of the model; 0: one per GPU, or per CPU for small networks and per 4 CPUs for large ones."""
    max_rejected_fraction: float = 0.01
    """Fail when more than this fraction of the images cannot be fused."""

    @property
    def files(self) -> bool:
        """Two files, not a folder or a corpus."""
        return self.visible is not None or self.infrared is not None


def check(args: Args) -> None:
    """Raise UserError for options that exclude each other, an unknown method, or an option that would do nothing."""
    if args.checkpoint is not None and args.method is not None:
        raise UserError("give either --checkpoint or --method, not both.")
    if args.method is not None and args.method not in CLASSICAL:
        raise UserError(f"unknown method {args.method!r}. Known: {', '.join(CLASSICAL)}.")
    if args.colour != "luma" and args.method is None:
        raise UserError(
            "--colour channels is for a --method; networks fuse the luma. Leave it out, or give a --method."
        )
    if args.files:
        if not (args.visible and args.infrared):
            raise UserError("give both --visible and --infrared, two images or two videos.")
        if args.pairs or args.corpus:
            raise UserError("give either --visible and --infrared, or --pairs, or --corpus.")
        _refuse(args, FOLDERS_ONLY, "with --visible and --infrared")
        return
    _refuse(args, ("resize",), "without --visible and --infrared: the images of a pair must have one size")
    if args.corpus is None:
        _refuse(args, ("split",), "without --corpus: all pairs are fused")


def _refuse(args: Args, names: tuple[str, ...], when: str) -> None:
    """Raise UserError when one of these options has another value than by default."""
    given = [f"--{field.name.replace('_', '-')}" for field in fields(Args)
             if field.name in names and getattr(args, field.name) != field.default]  # fmt: skip
    if given:
        words = "does nothing {}. Leave it out." if len(given) == 1 else "do nothing {}. Leave them out."
        raise UserError(f"{' and '.join(given)} {words.format(when)}")
