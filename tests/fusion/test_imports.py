"""What importing pulls in: never Ray or YOLO, and on a machine that only computes, no pyarrow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Imports modules one after the other and says after which one an unwanted library was there.
WALK = """
import importlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused!r}:
            tried.append(name)
            raise ImportError(name + " is not here")

tried = []
sys.meta_path.insert(0, Refuse())
steps = {steps!r}
for package in {packages!r}:
    module = importlib.import_module(package)
    names = [found.name for found in pkgutil.walk_packages(module.__path__, package + ".")]
    assert names, package
    steps += [(name, {unwanted!r}) for name in [package, *names]]
for name, unwanted in steps:
    importlib.import_module(name)
    there = [library for library in unwanted if library in sys.modules]
    assert not there, f"{{name}} imports {{', '.join(there)}}"
assert not tried, tried
print(len(steps))
"""


def run(steps=(), packages=(), refused=(), unwanted=()) -> int:
    code = WALK.format(steps=list(steps), packages=packages, refused=set(refused), unwanted=unwanted)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("refused", [(), ("ray", "ultralytics")], ids=["installed", "not installed"])
def test_no_module_of_fusion_and_detection_imports_ray_or_ultralytics(refused):
    assert run(packages=("fusion", "detection"), refused=refused, unwanted=("ray", "ultralytics")) > 40


def test_models_need_neither_pyarrow_nor_pandas_nor_matplotlib():
    light = ("pyarrow", "pandas", "matplotlib", "scipy", "ray", "ultralytics")
    names = ["models.registry", "training.losses", "metrics", "checkpoint", "inference"]
    steps = [(f"fusion.{name}", light) for name in names] + [("fusion.training.engine", light[1:])]
    assert run(steps) == len(steps)


def test_the_walk_notices_what_it_looks_for():
    with pytest.raises(AssertionError, match=r"fusion\.data\.corpus imports pyarrow"):
        run([("fusion.data.corpus", ("pyarrow",))])
    with pytest.raises(AssertionError, match="pyarrow is not here"):
        run([("fusion.data.corpus", ())], refused=("pyarrow",))
