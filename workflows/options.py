"""Types of options that several jobs have."""

from __future__ import annotations

from typing import Annotated

import tyro

# Given as often as needed, one value each time: --fused A=DIR --fused B=DIR.
Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
