"""Training and running ultralytics YOLO, offline, without its side effects on the process it lives in.

    data_yaml = write_dataset(folder, rows, classes)
    trained = train(data_yaml, YoloConfig(epochs=50), out)
    detections = Yolo(trained.weights)(images)

A .pt file is a Python pickle: loading one from a stranger can run the stranger's code. ultralytics is therefore told to
load tensors and its own layer classes only (ULTRALYTICS_SAFE_LOAD, where its version has it); whoever needs an older
file with other objects in it and trusts its maker sets ULTRALYTICS_SAFE_LOAD=false. Either way load only files that you
trained or chose.

ultralytics keeps global state: one training at a time in a process. In a process group (WORLD_SIZE over 1) every
process trains by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import math
import os
import random
import re
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from detection.boxes import Detections, standard_name
from detection.yolo_data import Contents, read_dataset, write_dataset
from fusion import storage
from fusion.errors import UserError

__all__ = ["Trained", "Yolo", "YoloConfig", "fetch", "offline", "read_dataset", "train", "write_dataset"]

STRIDE = 32  # image sides are multiples of it inside the network
GREY = 114  # of the border that fills images up to such sides, as in ultralytics' own training
QUIET = ("sync", "clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb", "vscode_msg")
OURS = frozenset(  # what train() decides; the rest of ultralytics' training settings may be given in `extra`
    "batch cfg data device epochs exist_ok freeze imgsz lr0 mode model name patience plots pretrained project resume "
    "save save_dir seed task val verbose".split()
)
CHANGED = (  # environment variables that importing it changes, or must not see
    "OMP_NUM_THREADS NUMEXPR_MAX_THREADS TF_CPP_MIN_LOG_LEVEL TORCH_CPP_LOG_LEVEL KINETO_LOG_LEVEL WORLD_SIZE".split()
)
PRIVATE = frozenset("data device model name project resume save_dir".split())  # not left in published weights
_entry = threading.Lock()


# ---------------------------------------------------------------------------------------------------- starting it


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
        with _silence():
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
def _silence() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ------------------------------------------------------------------------------------------------------- weights


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
                with _silence():
                    attempt_download_asset(Path(folder) / name)
                os.replace(Path(folder) / name, kept)
            except Exception as error:  # whatever the network brings
                raise UserError(f"cannot download {name}: {' '.join(str(error).split())}. Put it at {kept}") from error
            finally:
                os.environ["YOLO_OFFLINE"] = "true"
    return kept


def _load(path: Path) -> tuple[torch.nn.Module, dict]:
    """(network, checkpoint) of a detector's .pt file. UserError: no, damaged or other file."""
    offline()
    from ultralytics.nn.tasks import load_checkpoint

    if not path.is_file():
        raise UserError(f"no weights at {path}: give the path of a .pt file that YOLO training wrote")
    try:
        with _silence():
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


# ------------------------------------------------------------------------------------------------------ training


@dataclass(frozen=True)
class YoloConfig:
    """A training of YOLO.

    model: an architecture ("yolo11n.yaml": random weights) or weights to go on from: a .pt file, which may have other
    classes, or the name of published ones ("yolo11n.pt"). size: the longer side of the images inside the network.
    lr0: first learning rate, of AdamW unless `extra` says otherwise; 0 lets ultralytics choose rate and optimiser.
    patience: stop after that many epochs without a better validation. freeze: that many first layers keep their
    weights. loaders: processes that load images for a GPU (none on a CPU). extra: other settings of ultralytics'
    training as "key=value", for example ("mosaic=0", "optimizer=SGD").
    """

    model: str = "yolo11n.yaml"
    size: int = 640
    epochs: int = 100
    batch: int = 16
    lr0: float = 0.0
    seed: int = 0
    patience: int = 100
    freeze: int = 0
    loaders: int = 4
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.model.endswith((".yaml", ".pt")):
            raise UserError(f"YOLO model {self.model!r} must be a .yaml (architecture) or .pt (weights) file")
        if self.size <= 0 or self.size % STRIDE:
            raise UserError(f"YOLO size {self.size} must be a multiple of {STRIDE}, for example 320 or 640")
        for name, least in (("epochs", 1), ("batch", 1), ("lr0", 0), ("seed", 0), ("patience", 0), ("freeze", 0)):
            if not getattr(self, name) >= least:
                raise UserError(f"YOLO {name} {getattr(self, name)} must be {least} or more")
        object.__setattr__(self, "extra", tuple(self.extra))
        self.overrides()

    def overrides(self) -> dict[str, Any]:
        """`extra` as a table, values read as YAML. UserError: not of the form key=value, or a setting that has its own
        field here or that train() decides."""
        table = {}
        for part in self.extra:
            key, equals, value = part.partition("=")
            if not equals or not key.strip():
                raise UserError(f"YOLO setting {part!r} is not of the form key=value, for example mosaic=0")
            if key.strip() in OURS:
                raise UserError(f"YOLO setting {key.strip()!r} cannot be given as an extra: it has its own place")
            try:
                table[key.strip()] = yaml.safe_load(value)
            except yaml.YAMLError:
                raise UserError(f"YOLO setting {part!r}: the value cannot be read") from None
        return table


@dataclass(frozen=True)
class Trained:
    """weights: out/yolo.pt, of the best epoch. metrics: of the last epoch, as for on_epoch. notes: for the user."""

    weights: Path
    metrics: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def train(
    data_yaml: str | Path,
    config: YoloConfig,
    out: str | Path,
    *,
    device: str = "cpu",
    resume_from: str | Path | None = None,
    on_epoch: Callable[[dict], None] | None = None,
    allow_download: bool = False,
) -> Trained:
    """Train on a folder of write_dataset(); everything that is written lies in `out` (and labels/*.cache in the data).

    on_epoch gets a dict after each epoch: epoch (from 1), epochs, seconds, lr, box_loss, cls_loss, dfl_loss, the same
    of the validation as val_box_loss ..., precision, recall, map50, map50_95, and checkpoint: the folder to resume
    from, out/checkpoint, which holds whole files at any moment. An exception that it raises ends the training.
    resume_from: such a folder, perhaps a copy; the training goes on after its epoch. It does not repeat bit by bit what
    an uninterrupted one would have done, since ultralytics keeps neither the state of the random numbers nor the full
    precision of the weights. Two uninterrupted trainings with one seed on one machine and CPU end in equal weights.
    Mixed precision (bfloat16) with a GPU only. Random states of torch, numpy and random are as before afterwards.

    Raises UserError: an incomplete data set, no such model, unknown settings, a damaged or different checkpoint, a loss
    that is no longer finite.
    """
    offline()
    contents, out = read_dataset(data_yaml), Path(out).absolute()
    settings = _settings(Path(data_yaml).absolute(), config, out, device)
    weights = out / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    if resume_from is not None:
        start, finished = _resume(Path(resume_from), config, contents, weights)
        if finished:
            return Trained(_publish(weights, out), {}, contents.notes)
        settings["resume"] = True
    else:
        for name in ("best.pt", "last.pt"):  # of an earlier training into the same folder
            (weights / name).unlink(missing_ok=True)
        start = config.model if config.model.endswith(".yaml") else str(fetch(config.model, allow_download))
        if start.endswith(".pt"):
            _load(Path(start))  # a damaged or foreign file is told apart from an error of the training
            settings["pretrained"] = True
    last: dict[str, Any] = {}

    def saved(trainer: Any) -> None:
        last.update(_epoch(trainer, last.get("clock", started)), clock=time.monotonic())
        _keep(weights, out / "checkpoint")
        report = {**_plain(last), "checkpoint": str(out / "checkpoint")}
        bad = [name for name, value in report.items() if name in trainer.tloss and not math.isfinite(value)]
        if bad:
            raise UserError(f"YOLO's {bad[0]} is no longer finite in epoch {last['epoch']}: train with a lower lr0")
        if on_epoch is not None:
            on_epoch(report)

    with _aside() as warned:
        from ultralytics import YOLO

        try:
            model = YOLO(start, verbose=False)
        except (FileNotFoundError, KeyError, ValueError, TypeError, yaml.YAMLError) as error:
            raise UserError(f"no YOLO model {start}: {' '.join(str(error).split())[:200]}") from error
        if model.task != "detect":
            raise UserError(f"{start} is a network to {model.task}, not to detect: give a detector, like yolo11n.yaml")
        model.add_callback("on_model_save", saved)
        started = time.monotonic()
        try:
            model.train(**settings)
        except RuntimeError as error:
            if "NaN" in str(error):
                raise UserError(f"YOLO's training lost itself: {error}. Train with a lower lr0") from error
            raise
        except ValueError as error:
            if "BatchNorm" in str(error):
                raise UserError(f"YOLO cannot train on a last batch of one image at this size: {error}") from error
            raise
    return Trained(_publish(weights, out), _plain(last), contents.notes + tuple(warned))


def _settings(data: Path, config: YoloConfig, out: Path, device: str) -> dict[str, Any]:
    """Arguments of ultralytics' train(), checked by ultralytics."""
    from ultralytics.cfg import get_cfg
    from ultralytics.utils import DEFAULT_CFG_DICT

    extra = config.overrides()
    unknown = sorted(set(extra) - set(DEFAULT_CFG_DICT))
    if unknown:
        raise UserError(f"ultralytics has no training setting {unknown[0]!r}: see docs.ultralytics.com/usage/cfg")
    settings = {
        **dict(data=str(data), imgsz=config.size, epochs=config.epochs, batch=config.batch, seed=config.seed),
        **dict(patience=config.patience, freeze=config.freeze or None, deterministic=True, device=str(device)),
        **dict(save_dir=str(out), pretrained=False, plots=False, verbose=False, val=True, save=True, save_period=-1),
        # bfloat16 needs no trial run, for which ultralytics would fetch a network
        "amp": False if str(device) in ("cpu", "mps") else "bf16",
        "workers": 0 if str(device) == "cpu" else config.loaders,
        **({"lr0": config.lr0, "optimizer": "AdamW"} if config.lr0 else {}),
        **extra,
    }
    try:
        get_cfg(overrides=dict(settings))
    except (TypeError, ValueError, SyntaxError) as error:
        raise UserError(f"YOLO settings: {' '.join(str(error).split())[:300]}") from error
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"YOLO cannot train on {device}: torch sees no GPU here. Use --device cpu")
    return settings


def _resume(source: Path, config: YoloConfig, contents: Contents, weights: Path) -> tuple[str, bool]:
    """Copy a checkpoint's files into `weights`. (the one to go on from, whether it is the end of a training)."""
    last = source / "last.pt" if source.is_dir() else source
    network, checkpoint = _load(last)
    before = checkpoint.get("train_args") or {}
    for name, value in (("imgsz", config.size), ("epochs", config.epochs), ("seed", config.seed)):
        if before.get(name, value) != value:
            raise UserError(f"{source} was trained with {name}={before[name]}, not {value}: give that, or start anew")
    known, wanted = tuple(network.names.values()), contents.classes
    if known != wanted:
        raise UserError(f"{source} knows the classes {', '.join(known)}, the data has {', '.join(wanted)}")
    best = last.with_name("best.pt")
    best_bytes = (best if best.is_file() else last).read_bytes()
    storage.write_bytes(weights / "last.pt", last.read_bytes())
    storage.write_bytes(weights / "best.pt", best_bytes)
    epoch = checkpoint.get("epoch", -1)
    return str(weights / "last.pt"), epoch < 0 or epoch + 1 >= config.epochs or checkpoint.get("optimizer") is None


def _keep(weights: Path, folder: Path) -> None:
    """Copies which are whole even if the process is killed here. last.pt second: best.pt is never older than it."""
    for name in ("best.pt", "last.pt"):
        if (weights / name).is_file():
            storage.write_bytes(folder / name, (weights / name).read_bytes())


def _publish(weights: Path, out: Path) -> Path:
    """out/yolo.pt: the best network, without optimiser and without what differs from run to run (paths, dates)."""
    best = weights / "best.pt" if (weights / "best.pt").is_file() else weights / "last.pt"
    network, checkpoint = _load(best)
    arguments = {key: value for key, value in checkpoint["train_args"].items() if key not in PRIVATE}
    del network.pt_path
    network.args, network.criterion = dict(arguments), None
    kept = {"model": network.half().requires_grad_(False), "train_args": arguments, "epoch": -1}
    kept |= {key: checkpoint[key] for key in ("version", "license", "docs") if key in checkpoint}
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    storage.write_bytes(out / "yolo.pt", buffer.getvalue())
    return out / "yolo.pt"


def _epoch(trainer: Any, since: float) -> dict[str, Any]:
    report: dict[str, Any] = {"epoch": trainer.epoch + 1, "epochs": trainer.epochs, "seconds": time.monotonic() - since}
    report["lr"] = float(max(trainer.lr.values()))
    report |= {name: float(value) for name, value in trainer.tloss.items()}
    names = {"metrics/mAP50(B)": "map50", "metrics/mAP50-95(B)": "map50_95"}
    for name, value in trainer.metrics.items():
        short = names.get(name, name.removeprefix("metrics/").removesuffix("(B)").replace("val/", "val_"))
        report[short] = float(value)
    return report


def _plain(report: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name != "clock"}


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
def _aside() -> Iterator[list[str]]:
    """A training's hold on the process, undone at its end: threads, random states, determinism, environment.

    Yields the list into which ultralytics' warnings go, instead of to the console."""
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


# ------------------------------------------------------------------------------------------------------- running


class Yolo:
    """A trained detector: uint8 images in, Detections out.

    Images are resized, padded and thresholded as in ultralytics' own validation (longer side `size`, grey border up to
    multiples of 32, non-maximum suppression per class, several classes a box, scores from 0.001, IoU 0.7, 300 boxes an
    image at most): these are the detections that its model.val() scores, but cut off at the image's border, where
    model.val() lets them reach beyond it and so finds a lower IoU.

    size: of the images inside the network; by default that of its training.
    classes: the class list the detections are numbered by. Names are compared by standard_name (with the table `same`);
    what the detector finds of other classes is dropped. Without it the detector's own classes, in its order.
    """

    def __init__(
        self,
        weights: str | Path,
        device: str = "cpu",
        size: int | None = None,
        *,
        classes: Sequence[str] | None = None,
        same: Mapping[str, str] | None = None,
        allow_missing: bool = False,
        allow_download: bool = False,
        confidence: float = 0.001,
        overlap: float = 0.7,
        limit: int = 300,
        batch: int = 16,
    ) -> None:
        """Raises UserError: no such file, a damaged file, not a detector, a size that is no multiple of 32, or classes
        that the detector does not know (not so with allow_missing, unless it knows none of them)."""
        network, contents = _load(fetch(str(weights), allow_download))
        size = size or int((contents.get("train_args") or {}).get("imgsz") or 640)
        if size <= 0 or size % STRIDE:
            raise UserError(f"YOLO size {size} must be a multiple of {STRIDE}, for example 320 or 640")
        with _silence():
            self._network = network.fuse(verbose=False).to(device).eval()
        self._end2end = bool(getattr(network, "end2end", False))
        if self._end2end:
            network.set_head_attr(max_det=limit, agnostic_nms=False)
        known = [standard_name(network.names[place], same) for place in sorted(network.names)]
        self._device, self._size, self._batch = torch.device(device), size, batch
        self._confidence, self._overlap, self._limit = confidence, overlap, limit
        self.names = tuple(known) if classes is None else tuple(classes)
        places = {standard_name(name, same): place for place, name in enumerate(self.names)}
        if classes is None:
            self._ours = np.arange(len(known))
        else:
            self._ours = np.array([places.get(name, -1) for name in known], np.int64)
        missing = [name for name in self.names if standard_name(name, same) not in known]
        if missing and (not allow_missing or len(missing) == len(self.names)):
            raise UserError(
                f"{weights} does not know {', '.join(missing)}: its classes are {', '.join(known)}; "
                f"wanted are {', '.join(self.names)}"
            )

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """images: uint8, (H, W, 3) RGB or (H, W) grey, of any sizes. Boxes are in pixels of each image, best
        first. Raises ValueError for other arrays."""
        groups: dict[tuple[int, int], list[int]] = {}
        for place, image in enumerate(images):
            if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
                raise ValueError(f"an image must be uint8 (H, W) or (H, W, 3), got {image.dtype} {image.shape}")
            groups.setdefault(image.shape[:2], []).append(place)
        found: dict[int, Detections] = {}
        for places in groups.values():
            for start in range(0, len(places), self._batch):
                some = places[start : start + self._batch]
                found |= zip(some, self._run([images[place] for place in some]), strict=True)
        return [found[place] for place in range(len(images))]

    @torch.inference_mode()
    def _run(self, images: list[np.ndarray]) -> list[Detections]:
        """images: all of one size."""
        import torchvision  # noqa: F401  ultralytics takes its non-maximum suppression if it is imported, else its own
        from ultralytics.utils.nms import non_max_suppression

        padded, zoom, offset = zip(*(self._fit(image) for image in images), strict=True)
        batch_BCHW = torch.from_numpy(np.stack(padded)).to(self._device).permute(0, 3, 1, 2).float() / 255
        with _silence():
            rows = non_max_suppression(
                self._network(batch_BCHW),
                self._confidence,
                self._overlap,
                classes=np.flatnonzero(self._ours >= 0).tolist(),
                multi_label=True,
                max_det=self._limit,
                max_time_img=3600.0,  # it would otherwise leave a slow machine's images without boxes
                end2end=self._end2end,
            )
        height, width = images[0].shape[:2]
        return [self._detections(row, zoom[0], offset[0], height, width) for row in rows]

    def _fit(self, image: np.ndarray) -> tuple[np.ndarray, tuple[float, float], tuple[int, int]]:
        """(uint8 H W 3 with sides of multiples of 32, zoom in x and y, columns and rows of border before the image)."""
        if image.ndim == 2:
            image = np.repeat(image[:, :, None], 3, axis=2)
        height, width = image.shape[:2]
        scale = self._size / max(height, width)
        wide, high = (min(math.ceil(side * scale), self._size) for side in (width, height))
        if scale != 1:
            image = cv2.resize(image, (wide, high), interpolation=cv2.INTER_LINEAR)
        # Half a stride of border more than needed, as ultralytics has in its validation.
        ratio = height / width
        shares = (min(ratio, 1.0), min(1 / ratio, 1.0))
        rows, columns = (math.ceil(share * self._size / STRIDE + 0.5) * STRIDE for share in shares)
        left, top = round((columns - wide) / 2 - 0.1), round((rows - high) / 2 - 0.1)
        full = np.full((rows, columns, 3), GREY, np.uint8)
        full[top : top + high, left : left + wide] = image
        return full, (wide / width, high / height), (left, top)

    def _detections(
        self, rows: torch.Tensor, zoom: tuple[float, float], offset: tuple[int, int], height: int, width: int
    ) -> Detections:
        """rows: (n, 6), x1 y1 x2 y2 score class in the padded image."""
        values = rows.cpu().numpy().astype(np.float64)
        boxes = (values[:, :4] - np.tile(offset, 2)) / np.tile(zoom, 2)
        boxes = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
        scores, classes = values[:, 4].astype(np.float32), self._ours[values[:, 5].astype(np.int64)]
        if len(set(self._ours[self._ours >= 0].tolist())) < np.count_nonzero(self._ours >= 0):
            # Two of its classes are one of ours: an object found as both counts once.
            from torchvision.ops import batched_nms

            parts = torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(classes)
            keep = batched_nms(*parts, self._overlap).numpy()
            boxes, scores, classes = boxes[keep], scores[keep], classes[keep]
        return Detections(boxes, scores, classes)
