from workflows.cli import run_module

run_module(__package__)
