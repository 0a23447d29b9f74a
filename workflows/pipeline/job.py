"""duskfuse pipeline: corpus to report by one file; what is done is not done again.

    duskfuse pipeline tgecnet --pairs DIR --out DIR            a built-in one
    duskfuse pipeline mine.yaml --set restore.recipe.epochs=40
    duskfuse pipeline mine.yaml --dry-run                      what is done, what is not, and why
    duskfuse pipeline tgecnet --print > mine.yaml              to start from

Every stage runs as its command would on the command line, which is printed first, all on one Ray. All of the file is
checked before anything runs. The same command goes on where it stopped; after a change of settings or files it does
again what depends on them, in new folders. OUT/latest.json says which folder is whose, OUT/report.html is the latest
report. See docs/pipeline.md.
"""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING

from fusion import storage
from fusion.errors import UserError
from fusion.secrets import mask_secrets
from workflows.cli import run_job
from workflows.cluster.errors import user_error_in
from workflows.console import log_progress
from workflows.outputs import Lease, own_folder
from workflows.pipeline import spec
from workflows.pipeline.contents import Inputs
from workflows.pipeline.options import Args
from workflows.pipeline.plan import State, plan
from workflows.provenance import stamp

if TYPE_CHECKING:
    from workflows.pipeline.plan import State, Step

FILE = "pipeline.yaml"


def run(args: Args, command: list[str]) -> None:
    """Check everything, then run the stages that are not done, in order."""

    changes = {"pairs": args.pairs, "out": args.out, "change": args.change, "skip": args.skip}
    if args.print and not any(changes.values()):
        print(spec.source(args.pipeline), end="")
        return
    pipeline = spec.read(args.pipeline, **changes)
    if args.print:
        print(pipeline.text(), end="")
        return
    inputs = Inputs(pipeline.out)
    steps = plan(pipeline, inputs)
    names = [step.stage.name for step in steps]
    if args.until and args.until not in names:
        raise UserError(f"--until {args.until}: no such stage. {args.pipeline} has {', '.join(names)}.")
    steps = steps[: names.index(args.until) + 1] if args.until else steps
    state = State(pipeline.out)
    if args.dry_run:
        show(steps, state)
        return
    own_folder(pipeline.out, FILE, "pipeline")
    path, kept = storage.join(pipeline.out, FILE), mask_secrets(pipeline.text())
    if not storage.exists(path):  # before the lease, so that a folder with nothing but a lease is never left behind
        storage.write_text(path, kept)
    start = time.monotonic()
    with Lease(pipeline.out) as lease:
        storage.write_text(path, kept)
        inputs.save()
        made = 0
        for number, step in enumerate(steps, 1):
            lease.check()
            made += one(step, state, f"[{number}/{len(steps)}]")
    copies = "".join(f"; {copy}" for copy in map(state.copy_of, steps) if copy)
    print(f"{pipeline.out}: {len(steps)} stages done, {made} of them now, in {time.monotonic() - start:.0f} s{copies}")


def one(step: Step, state: State, number: str) -> bool:
    """Run a stage unless it is done. UserError: the job's own, naming the stage."""

    why = state.why(step)
    if why:
        log_progress(f"\n{number} {step.stage.name}: {why}\n{mask_secrets(shlex.join(['duskfuse', *step.command]))}")
        start = time.monotonic()
        try:
            run_job(step.command[0], step.command[1:])
        except Exception as error:
            known = user_error_in(error)
            if known is None:
                log_progress(f"stage {step.stage.name} failed; the same command goes on")
                raise
            raise UserError(f"stage {step.stage.name}: {known} The same command goes on.") from error
        state.done(step, stamp(list(step.command)), time.monotonic() - start)
    else:
        log_progress(f"{number} {step.stage.name}: done, {step.folder}")
    state.point(step)
    return bool(why)


def show(steps: list[Step], state: State) -> None:
    """The plan, a line a stage."""
    reasons = [state.why(step) for step in steps]
    width = max(len(step.stage.name) for step in steps)
    for step, why in zip(steps, reasons, strict=True):
        print(f"{step.stage.name:{width}}  {'to do' if why else 'done '}  {step.folder}{f'  ({why})' if why else ''}")
    print(f"{sum(map(bool, reasons))} of {len(steps)} stages to do")
