"""Tests run on one thread a library: they are small, and their results must not depend on the machine's cores."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import pytest
import torch

# pytest puts this folder on the path, where tests/fusion would hide parts of the package of that name.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
