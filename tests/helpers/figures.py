"""The matplotlib figure behind a picture of a report."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle


def figure_of(module: ModuleType, draw: Callable[[], bytes]) -> Figure:
    """Return what `draw` would have saved; `module` is where it takes `save_figure` from."""
    figures: list[Figure] = []

    def keep(figure: Figure, format: str) -> bytes:
        figures.append(figure)
        return b""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "save_figure", keep)
        draw()
    (figure,) = figures
    return figure


def bars(figure: Figure, colour: str) -> list[Rectangle]:
    """Return the bars of a colour, panel by panel."""
    return [bar for axis in figure.axes for bar in axis.patches if to_hex(bar.get_facecolor()) == colour]
