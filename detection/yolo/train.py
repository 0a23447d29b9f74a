"""Training ultralytics YOLO. It keeps global state: one training at a time in a process.

In a process group (WORLD_SIZE over 1) every process trains by itself.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from detection.yolo.config import YoloConfig
from detection.yolo.data import DatasetContents, read_dataset
from detection.yolo.offline import fetch, import_ultralytics, isolated_training, load_network
from fusion import storage
from fusion.errors import UserError

PRIVATE = frozenset("data device model name project resume save_dir".split())  # not left in published weights


Report = dict[str, Any]  # numbers of an epoch, and the path of its checkpoint


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        weights: out/yolo.pt, of the best epoch.
        metrics: Of the last epoch, as for on_epoch.
        notes: Lines for the user.
    """

    weights: Path
    metrics: Report = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def train(
    data_yaml: str | Path,
    config: YoloConfig,
    out: str | Path,
    *,
    device: str = "cpu",
    resume_from: str | Path | None = None,
    on_epoch: Callable[[Report], None] | None = None,
    allow_download: bool = False,
) -> Trained:
    """Train on a folder of write_dataset().

    A resumed training does not repeat bit by bit what an uninterrupted one would have done, since ultralytics keeps
    neither the state of the random numbers nor the full precision of the weights. Two uninterrupted trainings with one
    seed on one machine and CPU end in equal weights. Mixed precision (bfloat16) with a GPU only. Random states of
    torch, numpy and random are as before afterwards.

    Args:
        data_yaml: What write_dataset() returned. ultralytics adds labels/*.cache beside it.
        config: The settings.
        out: Folder of everything else that is written.
        device: "cpu", or a GPU by its number.
        resume_from: A checkpoint folder of on_epoch, or a copy of it, to continue after its epoch.
        on_epoch: Called after each epoch with epoch (from 1), epochs, seconds, lr, box_loss, cls_loss, dfl_loss, the
            same of the validation as val_box_loss ..., precision, recall, map50, map50_95, and checkpoint: the folder
            to resume from, out/checkpoint, which holds whole files at any moment. An exception that it raises ends the
            training.
        allow_download: Fetch published weights.

    Raises:
        UserError: An incomplete data set, no such model, unknown settings, a damaged or different checkpoint, a loss
            that is no longer finite.
    """
    import_ultralytics()
    contents, out = read_dataset(data_yaml), Path(out).absolute()
    settings = _settings(Path(data_yaml).absolute(), config, out, device)
    weights = out / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    if resume_from is not None:
        start, finished = _restore(Path(resume_from), config, contents, weights)
        if finished:
            return Trained(_publish(weights, out), notes=contents.notes)
        settings["resume"] = True
    else:
        for name in ("best.pt", "last.pt"):  # of an earlier training into the same folder
            (weights / name).unlink(missing_ok=True)
        start = config.model if config.model.endswith(".yaml") else str(fetch(config.model, allow_download))
        if start.endswith(".pt"):
            load_network(Path(start))  # so that a damaged or foreign file is not reported as an error of the training
            settings["pretrained"] = True
    last: Report = {}
    clock = 0.0

    def on_model_save(trainer: Any) -> None:
        nonlocal clock
        last.update(_epoch_report(trainer, clock))
        clock = time.monotonic()
        _copy_weights(weights, out / "checkpoint")
        report = {**last, "checkpoint": str(out / "checkpoint")}
        bad = [name for name, value in report.items() if name in trainer.tloss and not math.isfinite(value)]
        if bad:
            raise UserError(f"YOLO's {bad[0]} is no longer finite in epoch {last['epoch']}: train with a lower lr0")
        if on_epoch is not None:
            on_epoch(report)

    with isolated_training() as warned:
        from ultralytics import YOLO

        try:
            model = YOLO(start, verbose=False)
        except (FileNotFoundError, KeyError, ValueError, TypeError, yaml.YAMLError) as error:
            raise UserError(f"no YOLO model {start}: {' '.join(str(error).split())[:200]}") from error
        if model.task != "detect":
            raise UserError(f"{start} is a network to {model.task}, not to detect: give a detector, like yolo11n.yaml")
        model.add_callback("on_model_save", on_model_save)
        clock = time.monotonic()
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
    return Trained(_publish(weights, out), last, contents.notes + tuple(warned))


def _settings(data: Path, config: YoloConfig, out: Path, device: str) -> dict[str, Any]:
    """Return the arguments of ultralytics' train(), checked by ultralytics."""
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
        "workers": 0 if str(device) == "cpu" else config.num_workers,
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


def _restore(source: Path, config: YoloConfig, contents: DatasetContents, weights: Path) -> tuple[str, bool]:
    """Copy a checkpoint's files into `weights`. Return the one to continue from, and whether the training is done."""
    last = source / "last.pt" if source.is_dir() else source
    network, checkpoint = load_network(last)
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


def _copy_weights(weights: Path, folder: Path) -> None:
    """Copy best.pt and last.pt, whole even if the process is killed. last.pt second: best.pt is never older."""
    for name in ("best.pt", "last.pt"):
        if (weights / name).is_file():
            storage.write_bytes(folder / name, (weights / name).read_bytes())


def _publish(weights: Path, out: Path) -> Path:
    """Write out/yolo.pt: the best network, without optimiser and without what differs between runs (paths, dates)."""
    best = weights / "best.pt" if (weights / "best.pt").is_file() else weights / "last.pt"
    network, checkpoint = load_network(best)
    arguments = {key: value for key, value in checkpoint["train_args"].items() if key not in PRIVATE}
    del network.pt_path
    network.args, network.criterion = dict(arguments), None
    kept = {"model": network.half().requires_grad_(False), "train_args": arguments, "epoch": -1}
    kept |= {key: checkpoint[key] for key in ("version", "license", "docs") if key in checkpoint}
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    storage.write_bytes(out / "yolo.pt", buffer.getvalue())
    return out / "yolo.pt"


def _epoch_report(trainer: Any, since: float) -> Report:
    """Return the numbers of the epoch that began at `since`."""
    report: Report = {"epoch": trainer.epoch + 1, "epochs": trainer.epochs, "seconds": time.monotonic() - since}
    report["lr"] = float(max(trainer.lr.values()))
    report |= {name: float(value) for name, value in trainer.tloss.items()}
    names = {"metrics/mAP50(B)": "map50", "metrics/mAP50-95(B)": "map50_95"}
    for name, value in trainer.metrics.items():
        short = names.get(name, name.removeprefix("metrics/").removesuffix("(B)").replace("val/", "val_"))
        report[short] = float(value)
    return report
