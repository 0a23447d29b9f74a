"""`python -m workflows JOB ...` is `duskfuse JOB ...`."""

from workflows.cli import run

run()
