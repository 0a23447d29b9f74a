"""What jobs print."""

from __future__ import annotations

import sys


def log_progress(text: str) -> None:
    """Print a line of progress on stderr: stdout is for results."""
    print(text, file=sys.stderr, flush=True)
