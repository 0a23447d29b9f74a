"""Imports ultralytics in a process of its own and checks that nothing else changes. Arguments: a folder, another one.

Prints why the other folder is refused.
"""

from __future__ import annotations

import os
import socket
import sys

import cv2
import numpy
import torch

from detection.yolo.offline import import_ultralytics
from fusion.errors import UserError


def refuse(*arguments: object) -> None:
    raise AssertionError("network")


def main(folder: str, other: str) -> None:
    assert "ultralytics" not in sys.modules, "importing the module does nothing"
    socket.socket.connect = socket.getaddrinfo = refuse
    torch.set_num_threads(2)
    cv2.setNumThreads(2)
    save, shown = torch.save, repr(numpy.array([0.123456789]))
    before = dict(os.environ)
    for config_dir in (folder, None, folder):
        import_ultralytics(config_dir)
    assert torch.get_num_threads() == 2 and cv2.getNumThreads() == 2
    assert torch.save is save and repr(numpy.array([0.123456789])) == shown
    new = {name: value for name, value in os.environ.items() if before.get(name) != value}
    assert set(new) == {"YOLO_OFFLINE", "YOLO_AUTOINSTALL", "YOLO_CONFIG_DIR", "ULTRALYTICS_SAFE_LOAD"}, new
    assert os.environ["WORLD_SIZE"] == "2" and "OMP_NUM_THREADS" not in os.environ

    from ultralytics.utils import AUTOINSTALL, ONLINE, RANK, SETTINGS

    assert not ONLINE and not AUTOINSTALL and RANK == -1
    assert not any(SETTINGS[name] for name in ("sync", "raytune", "mlflow", "wandb"))
    assert SETTINGS["runs_dir"].startswith(folder)
    try:
        import_ultralytics(other)
    except UserError as error:
        print(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
