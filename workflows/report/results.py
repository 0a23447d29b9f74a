"""Results of other jobs, as the report reads them."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusion import storage
from fusion.errors import UserError
from fusion.legacy import upgrade_history, upgrade_recipe
from workflows.legacy import upgrade_result, upgrade_score

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Scores:
    """What `duskfuse score` wrote.

    Args:
        folder: Where.
        table: A row per value: method, image, degradation, level, metric, value.
        methods: Name -> folder of its fused images.
        source: The pairs; or the corpus, its split, its content_sha256 and its config.
        reference: "clean" or "degraded", what was compared with.
        scored: In words, what of the images was compared.
        dialect: Of the metrics.
        niqe_model: Name of NIQE's pristine model; "" where it was not used.
        num_problems: Rows of problems.csv.
        command: That made it.
    """

    folder: str
    table: pd.DataFrame
    methods: dict[str, str]
    source: dict[str, Any]
    reference: str
    scored: str
    dialect: str
    niqe_model: str
    num_problems: int
    command: str


@dataclass(frozen=True)
class TrainingRun:
    """What `duskfuse train` wrote: the recipe, an entry of numbers for every epoch, and the command that made it."""

    folder: str
    recipe: dict[str, Any]
    history: list[dict[str, float]]
    command: str


def read_scores(folder: str) -> Scores:
    """Read the scores in a folder. UserError: they are not finished, or cannot be read."""
    import pandas as pd

    try:
        content = upgrade_score(json.loads(storage.read_bytes(storage.join(folder, "score.json"))))
        table = pd.read_parquet(io.BytesIO(storage.read_bytes(storage.join(folder, "per_image.parquet"))))
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no finished scores. Give the --out folder of `duskfuse score`.") from error
    except (ValueError, OSError) as error:
        raise UserError(f"the scores in {folder} cannot be read ({error}). Run `duskfuse score` again.") from error
    return Scores(
        folder=folder,
        table=table,
        methods=content["methods"],
        source=content["source"],
        reference=content["reference"],
        scored=content["scored"],
        dialect=content["dialect"],
        niqe_model=content.get("niqe", ""),
        num_problems=content["problems"],
        command=content["provenance"]["command"],
    )


def read_run(folder: str) -> TrainingRun:
    """Read a finished training run. UserError: there is none."""
    try:
        content = upgrade_result(json.loads(storage.read_bytes(storage.join(folder, "run.json"))))
    except (FileNotFoundError, ValueError) as error:
        raise UserError(
            f"{folder} is no finished training run (run.json). Give what `duskfuse train` wrote."
        ) from error
    recipe, history = upgrade_recipe(content["settings"]["recipe"]), upgrade_history(content["history"])
    return TrainingRun(folder, recipe, history, content["provenance"]["command"])


def read_json(path: str, otherwise: str) -> dict[str, Any]:
    """Read a JSON object. UserError, which begins with `otherwise`: there is none."""
    try:
        return json.loads(storage.read_bytes(path))
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise UserError(f"{otherwise} Give its --out folder, or run it to the end.") from error


def read_command(folder: str | None, file: str) -> str | None:
    """Return the command that a result says it was made by; None where there is no such result, or it does not say."""
    if folder is None:
        return None
    try:
        return upgrade_result(json.loads(storage.read_bytes(storage.join(folder, file))))["provenance"]["command"]
    except (OSError, ValueError, KeyError):
        return None  # results of other programs say no command
