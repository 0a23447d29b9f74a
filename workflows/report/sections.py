"""Sections of the report beside the fusion metrics: detection, AE-Netv2's evolution, and what experts do."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from detection.protocol import MEASURES
from detection.tables import VOC, ranked_table, ranked_voc_table
from fusion import storage
from fusion.images.decode import decode
from fusion.legacy import upgrade_history
from fusion.models.moefusion import MoEFusion
from fusion.report import evolution as evolution_report
from fusion.report.experts import choice_notes, expert_sheet, gate_choices
from fusion.report.gallery import data_uri
from fusion.report.html import FullWidthImage, Plot, Section, plot
from fusion.report.plots import level_families, metric_over_level, training_curves
from fusion.report.tables import ALL
from workflows.evolve.store import read_labels
from workflows.fuse.methods import load_network
from workflows.fuse.worker import GATES_FILE
from workflows.inputs import Item
from workflows.legacy import upgrade_detection_column, upgrade_evolve
from workflows.report.results import TrainingRun, read_json

if TYPE_CHECKING:
    import pandas as pd

MAX_EXPERT_SHEETS = 3  # pairs whose experts are shown
JPEG_QUALITY = 88
HIDDEN_VALUES = ("train/images", "train/steps", "train/data_time_s", "train/step_time_s", "epoch")  # have no curve
NO_LOCAL_EXPERTS = ("no_mole", "att_local")  # ablations of MoE-Fusion

History = list[dict[str, Any]]


def detection_section(folder: str, number: int = 1) -> Section:
    """Return the section of what `duskfuse detect` wrote: tables, AP over the level, pictures.

    UserError: it is not finished.
    """
    import pandas as pd

    result = read_json(storage.join(folder, "detect.json"), f"{folder} holds no finished `duskfuse detect`.")
    table = read_detection_table(folder, "table.csv", keep_default_na=False)
    numbers = [name for name in table.columns if name.startswith(("ap50_", *MEASURES, *VOC))]
    table[numbers] = table[numbers].apply(pd.to_numeric, errors="coerce")
    table["level"] = table["level"].astype(str)
    tables = []
    for (degradation, level), part in table.groupby(["degradation", "level"], sort=False):
        caption = "all images" if degradation == ALL else f"{degradation}, level {level}"
        tables.append((caption if len(table) > len(part) else "", ranked_table(part)))
        if degradation == ALL and (voc := ranked_voc_table(part)) is not None:
            tables.append(("AP50 as PASCAL VOC interpolates it, 11 points (2007) and all points (from 2010)", voc))
    pictures = storage.join(folder, "pictures")
    sheets = []
    for name in sorted(name for name in storage.list_files(pictures) if name.endswith(".png")):
        image_HW3 = decode(storage.read_bytes(storage.join(pictures, name))).pixels
        sheets.append(FullWidthImage(name.removesuffix(".png"), data_uri(encode_jpeg(image_HW3), "jpeg")))
    return Section(
        f"detection-{number}",
        "Detection" if number == 1 else f"Detection ({number})",
        f"Average precision of {result['detector']}"
        + (f", trained on {result['train_on'].replace('+', ' and ')} images and" if result["train_on"] else ",")
        + " run unchanged on every method's images. AP50: IoU of at least 0.5; COCO's 101 points where nothing else is "
        "said. Behind each number: its 95 % "
        f"interval, by {result['resamples']} bootstrap draws of the images.",
        tuple(tables),
        tuple(map50_plots(table)),
        tuple(sheets),
        tuple(difference_notes(folder)),
    )


def read_detection_table(folder: str, name: str, keep_default_na: bool = True) -> pd.DataFrame:
    """Read table.csv or differences.csv of `duskfuse detect`, also of an earlier version, with today's columns."""
    import pandas as pd

    data = io.BytesIO(storage.read_bytes(storage.join(folder, name)))
    table = pd.read_csv(data, keep_default_na=keep_default_na).rename(columns=upgrade_detection_column)
    if "measure" in table.columns:
        table["measure"] = table["measure"].map(upgrade_detection_column)
    return table


def map50_plots(table: pd.DataFrame) -> list[Plot]:
    """Return the plot of mAP50 over the level, where there are several levels."""
    import pandas as pd

    part = table[table["degradation"] != ALL]
    width = part["map50_high"] - part["map50_low"]
    summary = pd.DataFrame(
        {
            **{name: part[name] for name in ("method", "degradation", "level")},
            "metric": "mAP50",
            "mean": part["map50"],
            # the plot divides by the root of the count: its bars become the bootstrap's standard error
            "std": width / (2 * 1.96) * part["images"].map(math.sqrt),
            "count": part["images"],
        }
    )
    if not level_families(summary):
        return []
    return [plot("mAP50 over the level", metric_over_level(summary, "mAP50", metrics={}))]


def difference_notes(folder: str) -> list[str]:
    """Return which methods differ from the best one, over all images, at 5 % for all of them together (Bonferroni)."""
    table = read_detection_table(folder, "differences.csv")
    part = table[(table["degradation"] == ALL) & (table["measure"] == "map50")]
    lines = []
    for row in part.to_dict("records"):
        # the best one was chosen among them: as many chances to be best as there are rows
        verdict = "clear" if row["p"] < 0.05 / len(part) else "not clear"
        lines.append(
            f"{row['best']} less {row['other']}: {100 * row['difference']:+.1f} points of mAP50 "
            f"(95 % interval {100 * row['low']:+.1f} to {100 * row['high']:+.1f}, {row['images']} images): {verdict}"
        )
    return lines


def evolution_section(folder: str, number: int = 1) -> Section:
    """Return the section of what `duskfuse evolve` wrote: labels won, scores before and after.

    UserError: it is not finished.
    """
    result = read_json(storage.join(folder, "evolve.json"), f"{folder} holds no finished `duskfuse evolve`.")
    evolutions = upgrade_evolve(result)["evolutions"]
    labels = [read_labels(folder, evolution["evolution"]) for evolution in evolutions]
    names = [*evolutions[-1]["library"], *(f"network-{evolution['evolution']}" for evolution in evolutions)]
    scores = {name: method_scores(folder, name) for name in names}
    evolved = evolution_report.EvolutionData(
        evolutions, labels, {name: known for name, known in scores.items() if known}
    )
    plots = [
        plot("Labels won", evolution_report.wins_chart(evolved)),
        plot("E2 of methods and networks", evolution_report.scores_chart(evolved)),
    ]
    if (log := curves(evolution_histories(folder, evolutions))) is not None:
        plots.append(plot("Training of the evolutions", training_curves(log)))
    return Section(
        f"evolution-{number}",
        "Evolution" if number == 1 else f"Evolution ({number})",
        f"A library of {len(evolved.methods)} methods fused every pair; by the index E2 the best result became the "
        f"label of each of {evolutions[-1]['labels']} pairs, and AE-Netv2 learnt them. All are compared on "
        f"{evolutions[-1]['held_out_pairs']} held-out pairs. E2 rewards sharpness, and noise, above all else.",
        (("", evolution_report.evolutions_table(evolved)), ("", evolution_report.methods_table(evolved))),
        tuple(plots),
        (),
        tuple(evolution_report.sentences(evolved)),
    )


def method_scores(folder: str, name: str) -> dict[str, tuple[float, str]]:
    """Read the scores of a method of an evolution: pair -> (E2, "" or why there is none).

    Empty where the method's folder is gone.
    """
    path = storage.join(folder, "library", name, "scores.json")
    if not storage.exists(path):
        return {}
    scores = read_json(path, f"{path} cannot be read.")
    return {key: (float(score), reason) for key, (score, reason) in scores.items()}


def evolution_histories(folder: str, evolutions: Sequence[Mapping[str, Any]]) -> list[tuple[str, History]]:
    """Read (name, history) of every evolution's training that is there."""
    histories = []
    for evolution in evolutions:
        number = evolution["evolution"]
        path = storage.join(folder, "evolutions", str(number), "training", "run.json")
        if storage.exists(path):
            run = read_json(path, f"{path} cannot be read.")
            histories.append((f"evolution {number}", upgrade_history(run["history"])))
    return histories


def curves(histories: Iterable[tuple[str, History]]) -> pd.DataFrame | None:
    """Return training histories, (name, entries) each, as rows of run, epoch, name, value; None without any."""
    import pandas as pd

    rows = [
        (run, entry["epoch"], name, value)
        for run, history in histories
        for entry in history
        for name, value in entry.items()
        if name not in HIDDEN_VALUES
    ]
    return pd.DataFrame(rows, columns=["run", "epoch", "name", "value"]) if rows else None


def experts_section(methods: Mapping[str, str], runs: Sequence[TrainingRun], items: Sequence[Item]) -> Section | None:
    """Return the section of gate choices and of features of MoE-Fusion's local experts; None without either.

    Args:
        methods: Name -> folder of fused images, which may have a table of gates.
        runs: Trainings; those of a MoE-Fusion are shown.
        items: Images that the experts are shown on.
    """
    import pandas as pd

    plots, sheets, notes = [], [], []
    for name, folder in methods.items():
        path = storage.join(folder, GATES_FILE)
        if storage.exists(path):
            gates = pd.read_csv(io.BytesIO(storage.read_bytes(path)))
            plots.append(plot(f"{name}: experts chosen", gate_choices(gates)))
            notes += [f"{name}, {note}" for note in choice_notes(gates)]
    for run in runs:
        if run.recipe.get("model_name") == "moefusion":
            sheets += expert_sheets(run.folder, items)
    if not (plots or sheets):
        return None
    lead = (
        "How often each gate chose each expert when these images were fused, without the noise of training, and what "
        "every local expert makes of the foreground and background."
    )
    return Section("experts", "Experts", lead, (), tuple(plots), tuple(sheets), tuple(notes))


def expert_sheets(run: str, items: Sequence[Item]) -> list[FullWidthImage]:
    """Return what the local experts of a trained MoE-Fusion make of the first images; empty where it has none."""
    network = load_network(storage.absolute(run))
    if not isinstance(network.model, MoEFusion) or network.model.config.ablation in NO_LOCAL_EXPERTS:
        return []
    sheets = []
    for item in items[:MAX_EXPERT_SHEETS]:
        attention = network.attention(item.visible, item.infrared)
        sheet_HW3 = expert_sheet(network.model, item.visible, item.infrared, attention)
        sheets.append(FullWidthImage(f"{run}: {item.key}", data_uri(encode_jpeg(sheet_HW3), "jpeg")))
    return sheets


def encode_jpeg(image_HW3: np.ndarray) -> bytes:
    """Return an RGB image, uint8, as JPEG."""
    return cv2.imencode(".jpg", image_HW3[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
