"""A search over both stages of TG-ECNet: stage 1 is trained once for settings that do not differ in it.

OUT/restore is laid out as a search: its trials are the trainings of stage 1. They run first, all of them; those of
stage 2, in OUT/trials, start from them. So ASHA compares numbers of one stage: stage 1 by its PSNR, stage 2 by the
objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fusion import storage
from fusion.config import fingerprint
from fusion.errors import UserError
from fusion.training.stages import STAGES
from fusion.training.two_stage import RESTORE, changes_stage_1
from workflows.tune.records import FAILED, FINISHED, STOPPED, TrialRecord, trial_name, write_record

if TYPE_CHECKING:
    from workflows.tune.plan import Plan

OBJECTIVE = STAGES[RESTORE].metrics[0]  # of stage 1, in early stopping and in its tables


def first_stage_out(out: str) -> str:
    """Return the folder of the trainings of stage 1 of a search."""
    return storage.join(out, RESTORE)


def first_stage_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a setting that change stage 1."""
    return {name: value for name, value in values.items() if changes_stage_1(name)}


def first_stage_plan(plan: Plan) -> Plan:
    """Return the plan of the trainings of stage 1: one for each of its settings and seeds."""
    settings = [first_stage_values(values) for values in plan.settings] or [{}]
    unique = {fingerprint(values): values for values in settings}
    names = tuple(name for name in plan.names if changes_stage_1(name))
    return replace(
        plan,
        search="grid",
        words="stage 1",
        names=names,
        settings=tuple(unique.values()),
        dimensions=(),
        samples=0,
        stage=RESTORE,
    )


def first_stage_run(out: str, values: Mapping[str, Any], seed: int) -> str:
    """Return the run of stage 1 that a trial of the search in `out` starts from."""
    return storage.join(first_stage_out(out), "trials", trial_name(first_stage_values(values), seed))


def write_blocked(
    out: str, plan: Plan, first: Mapping[str, TrialRecord], ended: Mapping[str, TrialRecord]
) -> dict[str, TrialRecord]:
    """Write and return the records of trials whose stage 1, of `first`, was stopped or failed; they cannot run.

    Raises UserError where no stage 1 was finished.
    """
    blocked: dict[str, TrialRecord] = {}
    for values, seed in plan.trials:
        name = trial_name(values, seed)
        stage_1 = first.get(trial_name(first_stage_values(values), seed))
        if name in ended or stage_1 is None or stage_1.state == FINISHED:
            continue
        state = STOPPED if stage_1.state == STOPPED else FAILED
        error = "" if state == STOPPED else f"stage 1: {stage_1.error}"
        blocked[name] = write_record(out, TrialRecord(name, values, seed), state, error)
    if first and not any(record.state == FINISHED for record in first.values()):
        reasons = [record.error for record in first.values() if record.error]
        raise UserError(f"stage 1 was finished for no setting; the first failed with: {(reasons or ['no reason'])[0]}")
    return blocked
