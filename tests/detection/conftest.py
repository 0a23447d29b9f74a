"""Parallel training of one worker."""

from __future__ import annotations

import pytest
import torch.distributed as dist


@pytest.fixture
def alone(tmp_path):
    """A process group of this process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()
