"""The section of the report about what `duskfuse variants` wrote."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from fusion import storage
from fusion.errors import UserError
from fusion.report.html import Section, plot
from fusion.report.variants import bubbles, costs_table, quality_table
from workflows.report.results import read_json

if TYPE_CHECKING:
    import pandas as pd


def variants_section(folder: str, number: int = 1) -> Section:
    """Return the section: what networks cost and, of a study that trained them, how well they fuse.

    UserError: it is not finished.
    """
    read_json(storage.join(folder, "variants.json"), f"{folder} holds no finished `duskfuse variants`.")
    costs, quality = read_table(folder, "costs.csv"), read_table(folder, "table.csv")
    if costs is None and quality is None:
        raise UserError(f"{folder} has neither costs.csv nor table.csv. Run `duskfuse variants` again.")
    tables = [("", costs_table(costs))] if costs is not None else []
    tables += [("", quality_table(quality))] if quality is not None else []
    return Section(
        f"variants-{number}",
        "Networks" if number == 1 else f"Networks ({number})",
        "What a pair of 400 x 400 pixels costs. Parameters x pixels is what AE-Netv2's Table VI calls FLOPs; "
        "multiply-adds are those of the convolutions and matrix products that are made.",
        tuple(tables),
        () if quality is None else (plot("Quality over time", bubbles(quality)),),
    )


def read_table(folder: str, name: str) -> pd.DataFrame | None:
    """Read a table of a study; None if it is not there, as in folders of an earlier version."""
    import pandas as pd

    path = storage.join(folder, name)
    return pd.read_csv(io.BytesIO(storage.read_bytes(path))) if storage.exists(path) else None
