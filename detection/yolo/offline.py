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

import cv2
import numpy as np
import torch

from fusion import storage
from fusion.errors import UserError

QUIET = ("sync", "clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb", "vscode_msg")
CHANGED = (  # environment variables that importing it changes, or must not see
    "OMP_NUM_THREADS NUMEXPR_MAX_THREADS TF_CPP_MIN_LOG_LEVEL TORCH_CPP_LOG_LEVEL KINETO_LOG_LEVEL WORLD_SIZE".split()
)
_entry = threading.Lock()


def offline(config_dir: str | Path | None = None) -> None:
    """Import ultralytics so that it stays off the network and leaves this process as it was. May be repeated.

    config_dir: where it keeps settings, its font and downloaded weights; without it YOLO_CONFIG_DIR, or duskfuse/yolo
    in the user's cache folder. Several processes may call this at once. train(), Yolo() and fetch() call it themselves.

    Raises UserError: ultralytics was imported before by other code that let it use the network, or with another
    folder than the config_dir asked for; or the folder cannot be written.
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
            "detection.yolo.offline() first, or set YOLO_OFFLINE=true and YOLO_AUTOINSTALL=false before Python starts"
        )
    if config_dir is not None and Path(config_dir).expanduser().absolute() != USER_CONFIG_DIR.parent.absolute():
        raise UserError(
            f"ultralytics already keeps its settings in {USER_CONFIG_DIR.parent}: {config_dir} must be given first"
        )
    _settle(USER_CONFIG_DIR.parent)


def _cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "duskfuse" / "yolo"


@contextlib.contextmanager
def _one_process(path: Path) -> Iterator[None]:
    """One process of this machine at a time: ultralytics writes its settings file in place, and others read it."""
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
    """Give it the font that it would fetch otherwise, though nothing is ever drawn."""
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        if not (folder / name).exists():
            import matplotlib

            font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
            storage.write_bytes(folder / name, font.read_bytes())


def _import(folder: Path) -> None:
    """The import, with what it changes put back: threads of OpenCV, torch and OpenMP, torch.save, number formats."""
    before = {name: os.environ.get(name) for name in CHANGED}
    threads, cv_threads, save, formats = torch.get_num_threads(), cv2.getNumThreads(), torch.save, np.get_printoptions()
    os.environ.pop("WORLD_SIZE", None)  # else it would think itself part of a distributed training
    try:
        with silence():
            import ultralytics.utils

            _settle(folder)
            import ultralytics.nn.tasks  # noqa: F401
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv_threads)
        torch.save = save
        np.set_printoptions(**formats)
        torch.set_printoptions(profile="default")


def _settle(folder: Path) -> None:
    """Settings of this process alone, not written to its settings file: no telemetry, no stray folders."""
    from ultralytics.utils import LOGGER, SETTINGS

    places = {f"{name}_dir": str(folder / name) for name in ("runs", "weights", "datasets")}
    dict.update(SETTINGS, {**{key: False for key in QUIET if key in SETTINGS}, **places})
    LOGGER.setLevel(logging.ERROR)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def fetch(name: str, allow_download: bool = False) -> Path:
    """The file of weights meant by `name`: a path, or a published name such as "yolo11n.pt".

    Published weights that were fetched before are taken from the settings folder; with allow_download they are fetched.
    Raises UserError: no such file; or a published name, and downloads are not allowed or fail.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.suffix != ".pt" or path.name != name:
        raise UserError(f"no weights at {name}: give the path of a .pt file that YOLO training wrote")
    offline()
    from ultralytics.utils import SETTINGS
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

    kept = Path(SETTINGS["weights_dir"]) / name
    if kept.is_file():
        return kept
    if name not in GITHUB_ASSETS_NAMES:
        raise UserError(f"no weights at {name}, and none are published under that name: give the path of a .pt file")
    if not allow_download:
        raise UserError(
            f"{name} is not here: give the path of the file, put it at {kept}, or allow the download of ultralytics' "
            "published weights"
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    with _one_process(kept.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        if not kept.is_file():
            os.environ.pop("YOLO_OFFLINE", None)
            try:
                with silence():
                    attempt_download_asset(Path(folder) / name)
                os.replace(Path(folder) / name, kept)
            except Exception as error:  # whatever the network brings
                raise UserError(f"cannot download {name}: {' '.join(str(error).split())}. Put it at {kept}") from error
            finally:
                os.environ["YOLO_OFFLINE"] = "true"
    return kept


def load_network(path: Path) -> tuple[torch.nn.Module, dict]:
    """(network, checkpoint) of a detector's .pt file. UserError: no, damaged or other file."""
    offline()
    from ultralytics.nn.tasks import load_checkpoint

    if not path.is_file():
        raise UserError(f"no weights at {path}: give the path of a .pt file that YOLO training wrote")
    try:
        with silence():
            network, checkpoint = load_checkpoint(path)
    except Exception as error:  # a damaged pickle fails in any way
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


class _Warned(logging.Handler):
    """Warnings as plain lines, each once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", record.getMessage()).split())
        if line not in self.lines:
            self.lines.append(line)


@contextlib.contextmanager
def aside() -> Iterator[list[str]]:
    """A training's hold on the process, undone at its end: threads, random states, determinism, environment.

    Yields the list into which ultralytics' warnings go, instead of to the console.
    """
    from ultralytics.utils import LOGGER, torch_utils

    threads, cv_threads, own = torch.get_num_threads(), cv2.getNumThreads(), torch_utils.NUM_THREADS
    states = random.getstate(), np.random.get_state()
    exact, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn, fill = torch.backends.cudnn.deterministic, torch.utils.deterministic.fill_uninitialized_memory
    names = ("CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED", "NO_ALBUMENTATIONS_UPDATE")
    before = {name: os.environ.get(name) for name in names}
    torch_utils.NUM_THREADS = threads  # what its choice of a device sets torch to
    cv2.setNumThreads(0)  # the processes that load images are forked, which OpenCV's threads do not survive
    warned = _Warned()
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
        torch.backends.cudnn.deterministic, torch.utils.deterministic.fill_uninitialized_memory = cudnn, fill
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
