"""Public images and published values that some tests compare with, in the folder DUSKFUSE_TEST_DATA: docs/test_data.md.

Without that variable they are looked for in `../shared/data`, beside the checkout.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

VARIABLE = "DUSKFUSE_TEST_DATA"
BESIDE_THE_CHECKOUT = Path(__file__).resolve().parents[3] / "shared" / "data"
DATA = Path(os.environ.get(VARIABLE) or BESIDE_THE_CHECKOUT)
SETS = {
    "vifb": "published values and fused images of VIFB",
    "tno_tang": "published values of TNO",
    "roadscene": "RoadScene pairs",
    "roadscene_det": "RoadScene pairs with boxes",
    "llvip_small": "LLVIP pairs",
}
HOW = f"set {VARIABLE} to a folder with them (docs/test_data.md)"

SKIPPED, IN = "Skipped: no ", f" in {VARIABLE}"  # how the reason of a skipped test begins and ends


def evidence(*names: str) -> pytest.MarkDecorator:
    """The mark of a test that needs these sets: it is skipped where one of them is not there."""
    assert set(names) <= set(SETS), names
    return pytest.mark.evidence(*names)


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get(VARIABLE) and not DATA.is_dir():
        raise pytest.UsageError(f"{VARIABLE}: there is no folder {DATA}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    needed = [name for mark in item.iter_markers("evidence") for name in mark.args]
    missing = [name for name in needed if not (DATA / name).is_dir()]
    if missing:
        pytest.skip(f"no {', '.join(missing)}{IN}")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Say last, in one line, what was not shown and how to have it shown.

    Reasons are read from the reports, which also come from the processes of pytest-xdist.
    """
    yield
    reasons = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", ())]
    names = [
        name
        for reason in reasons
        if reason.startswith(SKIPPED) and reason.endswith(IN)
        for name in reason.removeprefix(SKIPPED).removesuffix(IN).split(", ")
    ]
    if names:
        counts = Counter(names)
        sets = ", ".join(f"{about} ({name}: {counts[name]} tests)" for name, about in SETS.items() if name in counts)
        terminalreporter.write_line(f"evidence skipped: {sets}: {HOW}", yellow=True)
