"""ultralytics, imported so that it stays off the network and leaves the process as it was; its weights.

A .pt file is a Python pickle: loading one from a stranger can run the stranger's code. ultralytics is therefore told to
load tensors and its own layer classes only (ULTRALYTICS_SAFE_LOAD, where its version has it); whoever needs an older
file with other objects in it and trusts its maker sets ULTRALYTICS_SAFE_LOAD=false. Either way load only files that you
trained or chose.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import random
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from fusion import storage
from fusion.errors import UserError

INTEGRATIONS = ("sync", "clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb", "vscode_msg")
ENVIRONMENT = (  # environment variables that importing it changes, or must not see
    "OMP_NUM_THREADS NUMEXPR_MAX_THREADS TF_CPP_MIN_LOG_LEVEL TORCH_CPP_LOG_LEVEL KINETO_LOG_LEVEL WORLD_SIZE".split()
)
_entry = threading.Lock()


def import_ultralytics(config_dir: str | Path | None = None) -> None:
    """Import ultralytics so that it stays off the network and leaves this process as it was. May be repeated.

    Several processes may call this at once. train(), Yolo() and fetch() call it themselves.

    Args:
        config_dir: Where ultralytics keeps settings, its font and downloaded weights; by default YOLO_CONFIG_DIR, or
            duskfuse/yolo in the user's cache folder.

    Raises:
        UserError: ultralytics was imported before by other code that let it use the network, or with another folder
            than the config_dir asked for; or the folder cannot be written.
    """
    with _entry:
        if "ultralytics" in sys.modules:
            _check_imported(config_dir)
            return
        folder = Path(config_dir or os.environ.get("YOLO_CONFIG_DIR") or _cache_dir()).expanduser().absolute()
        with _one_process(folder / "lock"):
            _copy_font(folder / "Ultralytics")
            os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_CONFIG_DIR=str(folder))
            os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "true")
            _import(folder)


def _check_imported(config_dir: str | Path | None) -> None:
    from ultralytics.utils import AUTOINSTALL, ONLINE, USER_CONFIG_DIR

    if ONLINE or AUTOINSTALL:
        raise UserError(
            "ultralytics was imported before detection.yolo could keep it off the network: call "
            "detection.yolo.offline.import_ultralytics() first, or set YOLO_OFFLINE=true and YOLO_AUTOINSTALL=false "
            "before Python starts"
        )
    if config_dir is not None and Path(config_dir).expanduser().absolute() != USER_CONFIG_DIR.parent.absolute():
        raise UserError(
            f"ultralytics already keeps its settings in {USER_CONFIG_DIR.parent}: {config_dir} must be given first"
        )
    _apply_settings(USER_CONFIG_DIR.parent)


def _cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "duskfuse" / "yolo"


@contextlib.contextmanager
def _one_process(path: Path) -> Iterator[None]:
    """Hold a lock of this machine: ultralytics writes its settings file in place, and other processes read it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "a")
    except OSError as error:
        raise UserError(
            f"cannot write YOLO's settings to {path.parent} ({error.strerror}): set YOLO_CONFIG_DIR to a folder that "
            "can be written"
        ) from error
    with lock:
        with contextlib.suppress(OSError):  # a file system without locks; the race it would prevent is a harmless one
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _copy_font(folder: Path) -> None:
    """Write the font that ultralytics would fetch otherwise, though nothing is ever drawn."""
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        if not (folder / name).exists():
            import matplotlib

            font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
            storage.write_bytes(folder / name, font.read_bytes())


def _import(folder: Path) -> None:
    """Import it and restore what it changes: threads of OpenCV, torch and OpenMP, torch.save, number formats."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    threads, cv_threads, save, formats = torch.get_num_threads(), cv2.getNumThreads(), torch.save, np.get_printoptions()
    os.environ.pop("WORLD_SIZE", None)  # else it would think itself part of a distributed training
    try:
        with suppress_output():
            import ultralytics.utils

            _apply_settings(folder)
            import ultralytics.nn.tasks  # noqa: F401
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv_threads)
        torch.save = save
        np.set_printoptions(**formats)
        torch.set_printoptions(profile="default")  # type: ignore[no-untyped-call]  # torch does not annotate it


def _apply_settings(folder: Path) -> None:
    """Set no telemetry and no stray folders, for this process alone: the settings file is not written."""
    from ultralytics.utils import LOGGER, SETTINGS

    folders = {f"{name}_dir": str(folder / name) for name in ("runs", "weights", "datasets")}
    dict.update(SETTINGS, {**{key: False for key in INTEGRATIONS if key in SETTINGS}, **folders})
    LOGGER.setLevel(logging.ERROR)


@contextlib.contextmanager
def suppress_output() -> Iterator[None]:
    """Drop what is printed, and warnings."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def fetch(name: str, allow_download: bool = False) -> Path:
    """Return the file of weights called `name`: a path, or a published name such as "yolo11n.pt".

    Published weights that were fetched before are taken from the settings folder; with allow_download they are fetched.

    Raises:
        UserError: No such file; or a published name, and downloads are not allowed or fail.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.suffix != ".pt" or path.name != name:
        raise UserError(f"no weights at {name}: give the path of a .pt file that YOLO training wrote")
    import_ultralytics()
    from ultralytics.utils import SETTINGS
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

    cached = Path(SETTINGS["weights_dir"]) / name
    if cached.is_file():
        return cached
    if name not in GITHUB_ASSETS_NAMES:
        raise UserError(f"no weights at {name}, and none are published under that name: give the path of a .pt file")
    if not allow_download:
        raise UserError(
            f"{name} is not here: give the path of the file, put it at {cached}, or allow the download of ultralytics' "
            "published weights"
        )
    cached.parent.mkdir(parents=True, exist_ok=True)
    with _one_process(cached.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=cached.parent) as folder:
        if not cached.is_file():
            os.environ.pop("YOLO_OFFLINE", None)
            try:
                with suppress_output():
                    attempt_download_asset(Path(folder) / name)
                os.replace(Path(folder) / name, cached)
            except Exception as error:  # ultralytics and requests raise errors of many types
                raise UserError(
                    f"cannot download {name}: {' '.join(str(error).split())}. Put it at {cached}"
                ) from error
            finally:
                os.environ["YOLO_OFFLINE"] = "true"
    return cached


def load_network(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return ultralytics' network of a detector's .pt file, and the file's other entries.

    Raises:
        UserError: No such file, a damaged one, or one of something else.
    """
    import_ultralytics()
    from ultralytics.nn.tasks import load_checkpoint

    if not path.is_file():
        raise UserError(f"no weights at {path}: give the path of a .pt file that YOLO training wrote")
    try:
        with suppress_output():
            network, checkpoint = load_checkpoint(path)  # type: ignore[no-untyped-call]  # nor does ultralytics
    except Exception as error:  # a damaged pickle raises errors of any type
        reason = " ".join(str(error).split())[:200]
        hint = (
            ""
            if "outside the supported" not in reason
            else (". If you trust its maker, set ULTRALYTICS_SAFE_LOAD=false and try again")
        )
        raise UserError(f"{path} is not a file of YOLO weights that can be loaded: {reason}{hint}") from error
    if network.task != "detect":
        raise UserError(f"{path} was trained to {network.task}, not to detect: give the weights of a detector")
    return network, checkpoint


class _WarningCollector(logging.Handler):
    """Collects warnings as plain lines, each once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Add the message of a record."""
        line = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", record.getMessage()).split())
        if line not in self.lines:
            self.lines.append(line)


@contextlib.contextmanager
def isolated_training() -> Iterator[list[str]]:
    """Restore at the end what a training changes in the process: threads, random states, determinism, environment.

    Yields:
        The list into which ultralytics' warnings go, instead of to the console.
    """
    from ultralytics.utils import LOGGER, torch_utils

    threads, cv_threads, own = torch.get_num_threads(), cv2.getNumThreads(), torch_utils.NUM_THREADS
    states = random.getstate(), np.random.get_state()
    exact, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic: Any = torch.utils.deterministic  # its attributes are made at run time
    cudnn, fill = torch.backends.cudnn.deterministic, deterministic.fill_uninitialized_memory
    names = ("CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED", "NO_ALBUMENTATIONS_UPDATE")
    before = {name: os.environ.get(name) for name in names}
    torch_utils.NUM_THREADS = threads  # what its choice of a device sets torch to
    cv2.setNumThreads(0)  # the processes that load images are forked, which OpenCV's threads do not survive
    warned = _WarningCollector()
    LOGGER.addHandler(warned)
    LOGGER.setLevel(logging.WARNING)
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, on operations that are not deterministic
            yield warned.lines
    finally:
        LOGGER.setLevel(logging.ERROR)
        LOGGER.removeHandler(warned)
        torch_utils.NUM_THREADS = own
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv_threads)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.use_deterministic_algorithms(exact, warn_only=warn)
        torch.backends.cudnn.deterministic, deterministic.fill_uninitialized_memory = cudnn, fill
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
