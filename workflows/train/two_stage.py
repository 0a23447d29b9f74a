"""Both stages of TG-ECNet in one command: stage 1 in OUT/restore, stage 2 on it in OUT, each a run of its own."""

from __future__ import annotations

from dataclasses import replace

from fusion import storage
from fusion.errors import UserError
from fusion.training.two_stage import FUSE, RESTORE, TwoStageRecipe
from workflows.outputs import require_own_output
from workflows.train.options import Args


def stage_options(args: Args, recipe: TwoStageRecipe) -> tuple[Args, Args]:
    """Return the options of each stage. Raises UserError where `args.out` holds something else, or for --from."""
    if args.start is not None:
        raise UserError(f"{recipe.name} trains its own stage 1; --from is for stage 2 alone, as in tgecnet-fuse.")
    first = storage.join(args.out, RESTORE)
    require_own_output(args.out, storage.join(RESTORE, "settings.json"), "run of both stages")
    return (
        replace(args, recipe=recipe.stage(RESTORE), out=first, detector=None, given=None),
        replace(args, recipe=recipe.stage(FUSE), start=first, given=None),
    )
