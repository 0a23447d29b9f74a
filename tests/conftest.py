"""Tests run on one thread a library: they are small, and their results must not depend on the machine's cores."""

from __future__ import annotations

import cv2
import pytest
import torch

from tests.helpers.data import pytest_configure, pytest_runtest_setup, pytest_terminal_summary  # noqa: F401  hooks
from tests.helpers.s3_server import bucket, faults, s3  # noqa: F401  fixtures, by name


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
