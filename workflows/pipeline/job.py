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

from fusion import storage
from fusion.errors import UserError
from fusion.secrets import mask_secrets
from workflows.cli import run_job
from workflows.cluster.errors import user_error_in
from workflows.console import log_progress
from workflows.outputs import Lease, require_own_output
from workflows.pipeline.contents import Inputs
from workflows.pipeline.options import Args
from workflows.pipeline.plan import State, Step, plan
from workflows.pipeline.spec import read_pipeline, read_source
from workflows.provenance import provenance

FILE = "pipeline.yaml"


def run(args: Args, command: list[str]) -> None:
    """Check everything, then run the stages that are not done, in order."""
    if args.print and not (args.pairs or args.out or args.change or args.skip):
        print(read_source(args.pipeline), end="")
        return
    pipeline = read_pipeline(args.pipeline, pairs=args.pairs, out=args.out, change=args.change, skip=args.skip)
    if args.print:
        print(pipeline.to_yaml(), end="")
        return
    inputs = Inputs(pipeline.out)
    steps = plan(pipeline, inputs)
    names = [step.stage.name for step in steps]
    if args.until and args.until not in names:
        raise UserError(f"--until {args.until}: no such stage. {args.pipeline} has {', '.join(names)}.")
    steps = steps[: names.index(args.until) + 1] if args.until else steps
    state = State(pipeline.out)
    if args.dry_run:
        print_plan(steps, state)
        return
    require_own_output(pipeline.out, FILE, "pipeline")
    path, text = storage.join(pipeline.out, FILE), mask_secrets(pipeline.to_yaml())
    if not storage.exists(path):  # before the lease, so that a folder with nothing but a lease is never left behind
        storage.write_text(path, text)
    start = time.monotonic()
    with Lease(pipeline.out) as lease:
        storage.write_text(path, text)
        inputs.save()
        num_run = 0
        for number, step in enumerate(steps, 1):
            lease.check()
            num_run += run_stage(step, state, f"[{number}/{len(steps)}]")
    copies = "".join(f"; {copy}" for copy in map(state.copy_path, steps) if copy)
    seconds = time.monotonic() - start
    print(f"{pipeline.out}: {len(steps)} stages done, {num_run} of them now, in {seconds:.0f} s{copies}")


def run_stage(step: Step, state: State, progress: str) -> bool:
    """Run a stage unless it is done. Returns whether it ran. UserError: the job's own, naming the stage."""
    reason = state.stale_reason(step)
    if reason:
        line = mask_secrets(shlex.join(["duskfuse", *step.command]))
        log_progress(f"\n{progress} {step.stage.name}: {reason}\n{line}")
        start = time.monotonic()
        try:
            run_job(step.command[0], step.command[1:])
        except Exception as error:  # whatever a job raises; only a message is added to it
            known = user_error_in(error)
            if known is None:
                log_progress(f"stage {step.stage.name} failed; the same command goes on")
                raise
            raise UserError(f"stage {step.stage.name}: {known} The same command goes on.") from error
        state.mark_done(step, provenance(list(step.command)), time.monotonic() - start)
    else:
        log_progress(f"{progress} {step.stage.name}: done, {step.folder}")
    state.update_latest(step)
    return bool(reason)


def print_plan(steps: list[Step], state: State) -> None:
    """Print the plan, a line a stage."""
    reasons = [state.stale_reason(step) for step in steps]
    width = max(len(step.stage.name) for step in steps)
    for step, reason in zip(steps, reasons, strict=True):
        status, suffix = ("to do", f"  ({reason})") if reason else ("done ", "")
        print(f"{step.stage.name:{width}}  {status}  {step.folder}{suffix}")
    print(f"{sum(map(bool, reasons))} of {len(steps)} stages to do")
