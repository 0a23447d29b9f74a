"""What networks cost, as AE-Netv2's Table VI has it: of every network that there is, or of some blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from detection.moefusion.attention import DualDetector
from detection.moefusion.recipes import DualDetectorConfig
from fusion import storage
from fusion.models.costs import NETWORKS, Network, NetworkCost, count_costs
from workflows.console import log_progress

if TYPE_CHECKING:
    import pandas as pd

FILE = "costs.csv"
ALL_NETWORKS = NETWORKS | {
    "MoE-Fusion's detectors, to its attention": Network(lambda: DualDetector(DualDetectorConfig()), (3, 1)),
}


def block_costs(blocks: Sequence[str]) -> dict[str, NetworkCost]:
    """Return what blocks of AE-Netv2 cost, by their names."""
    names = {block: f"AE-Netv2 {block}" for block in blocks}
    costs = {cost.network: cost for cost in count_costs({name: NETWORKS[name] for name in names.values()})}
    return {block: costs[name] for block, name in names.items()}


def write_costs(out: str, costs: Sequence[NetworkCost]) -> None:
    """Write OUT/costs.csv, a row a network, and print it."""
    import pandas as pd

    table: pd.DataFrame = pd.DataFrame([asdict(cost) for cost in costs])
    storage.write_text(storage.join(out, FILE), table.to_csv(index=False))
    log_progress(f"{'at 400 x 400':42} {'parameters':>12} {'parameters x pixels':>20} {'multiply-adds':>18}")
    for cost in costs:
        counts = f"{cost.parameters:12,} {cost.parameters_x_pixels:20,} {cost.multiply_adds:18,}"
        log_progress(f"{cost.network:42} {counts}")
