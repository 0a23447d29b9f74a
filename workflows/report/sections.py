"""Sections of the report beside the fusion metrics: detection, AE-Netv2's evolution, and what experts do."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable

import cv2

from detection.protocol import marked
from fusion import storage
from fusion.errors import UserError
from fusion.images.decode import decode
from fusion.report import evolution as made
from fusion.report.experts import expert_sheet, gate_choices
from fusion.report.gallery import data_uri
from fusion.report.html import Section, Sheet, plot
from fusion.report.plots import level_families, metric_over_level, training_curves
from fusion.report.tables import ALL
from workflows.evolve.store import read_labels
from workflows.fuse.methods import load_network
from workflows.fuse.worker import GATES_FILE
from workflows.legacy import upgrade_evolve

SHEETS = 3  # pairs whose experts are shown


def detection_section(folder: str, number: int = 1):
    """What `duskfuse detect` wrote: tables, AP over the level, pictures. UserError: it is not finished."""
    import pandas as pd

    about = read_json(storage.join(folder, "detect.json"), f"{folder} holds no finished `duskfuse detect`.")
    table = pd.read_csv(io.BytesIO(storage.read_bytes(storage.join(folder, "table.csv"))), keep_default_na=False)
    numbers = [name for name in table.columns if name.startswith(("AP50", "mAP"))]
    table[numbers] = table[numbers].apply(pd.to_numeric, errors="coerce")
    table["level"] = table["level"].astype(str)
    tables = []
    for (degradation, level), part in table.groupby(["degradation", "level"], sort=False):
        caption = "all images" if degradation == ALL else f"{degradation}, level {level}"
        tables.append((caption if len(table) > len(part) else "", marked(part)))
    pictures = sorted(name for name in storage.list_files(storage.join(folder, "pictures")) if name.endswith(".png"))
    sheets = []
    for name in pictures:
        data = storage.read_bytes(storage.join(folder, "pictures", name))
        sheets.append(Sheet(name.removesuffix(".png"), data_uri(as_jpeg(data), "jpeg")))
    return Section(
        f"detection-{number}",
        "Detection" if number == 1 else f"Detection ({number})",
        f"Average precision of {about['detector']}"
        + (f", trained on {about['train_on'].replace('+', ' and ')} images and" if about["train_on"] else ",")
        + " run unchanged on every method's images. AP50: IoU of at least 0.5. Behind each number: its 95 % "
        f"interval, by {about['resamples']} bootstrap draws of the images.",
        tuple(tables),
        tuple(level_plots(table)),
        tuple(sheets),
        tuple(verdicts(folder)),
    )


def level_plots(table) -> list:
    """mAP50 over the level, where there are several."""
    import pandas as pd

    part = table[table["degradation"] != ALL]
    width = part["mAP50 high"] - part["mAP50 low"]
    summary = pd.DataFrame(
        {
            **{name: part[name] for name in ("method", "degradation", "level")},
            "metric": "mAP50",
            "mean": part["mAP50"],
            # the plot divides by the root of the count: its bars become the bootstrap's standard error
            "std": width / (2 * 1.96) * part["images"].map(math.sqrt),
            "count": part["images"],
        }
    )
    if not level_families(summary):
        return []
    return [plot("mAP50 over the level", metric_over_level(summary, "mAP50", metrics={}))]


def verdicts(folder: str) -> list[str]:
    """Which methods can be told from the best one, over all images, at 5 % for all of them together (Bonferroni)."""
    import pandas as pd

    table = pd.read_csv(io.BytesIO(storage.read_bytes(storage.join(folder, "differences.csv"))))
    part = table[(table["degradation"] == ALL) & (table["measure"] == "mAP50")]
    lines = []
    for row in part.to_dict("records"):
        # the best one was chosen among them: as many chances to be best as there are rows
        sure = "clear" if row["p"] < 0.05 / len(part) else "not clear"
        lines.append(
            f"{row['best']} less {row['other']}: {100 * row['difference']:+.1f} points of mAP50 "
            f"(95 % interval {100 * row['low']:+.1f} to {100 * row['high']:+.1f}, {row['images']} images): {sure}"
        )
    return lines


def evolution_section(folder: str, number: int = 1):
    """What `duskfuse evolve` wrote: labels won, scores before and after. UserError: it is not finished."""

    about = upgrade_evolve(
        read_json(storage.join(folder, "evolve.json"), f"{folder} holds no finished `duskfuse evolve`.")
    )
    facts = about["evolutions"]
    labels = [read_labels(folder, one["evolution"]) for one in facts]
    names = [*facts[-1]["library"], *(f"network-{one['evolution']}" for one in facts)]
    found = {name: method_scores(folder, name) for name in names}
    evolved = made.Evolved(facts, labels, {name: scores for name, scores in found.items() if scores})
    plots = [
        plot("Labels won", made.wins_chart(evolved)),
        plot("E2 of methods and networks", made.scores_chart(evolved)),
    ]
    if (log := curves(evolution_histories(folder, facts))) is not None:
        plots.append(plot("Training of the evolutions", training_curves(log)))
    return Section(
        f"evolution-{number}",
        "Evolution" if number == 1 else f"Evolution ({number})",
        f"A library of {len(evolved.methods)} methods fused every pair; by the index E2 the best result became the "
        f"label of each of {facts[-1]['labels']} pairs, and AE-Netv2 learnt them. All are compared on "
        f"{facts[-1]['held_out_pairs']} held-out pairs. E2 rewards sharpness, and noise, above all else.",
        (("", made.evolutions_table(evolved)), ("", made.methods_table(evolved))),
        tuple(plots),
        (),
        tuple(made.sentences(evolved)),
    )


def method_scores(folder: str, name: str) -> dict[str, tuple[float, str]]:
    """key -> (E2, "" or why there is none) of a method of an evolution; {} where its folder is gone."""

    path = storage.join(folder, "library", name, "scores.json")
    if not storage.exists(path):
        return {}
    scores = read_json(path, f"{path} cannot be read.")
    return {key: (float(score), why) for key, (score, why) in scores.items()}


def evolution_histories(folder: str, facts: list[dict]) -> list[tuple[str, list[dict]]]:
    """(name, history) of every evolution's training that is there."""

    histories = []
    for one in facts:
        path = storage.join(folder, "evolutions", str(one["evolution"]), "training", "run.json")
        if storage.exists(path):
            run = read_json(path, f"{path} cannot be read.")
            histories.append((f"evolution {one['evolution']}", run["history"]))
    return histories


def curves(histories: Iterable[tuple[str, list[dict]]]):
    """Training histories, (name, entries) each, as rows of run, epoch, name, value; None without any."""
    import pandas as pd

    hidden = ("train/images", "train/steps", "train/data_time_s", "train/step_time_s", "epoch")
    rows = [
        (run, entry["epoch"], name, value)
        for run, history in histories
        for entry in history
        for name, value in entry.items()
        if name not in hidden
    ]
    return pd.DataFrame(rows, columns=["run", "epoch", "name", "value"]) if rows else None


def experts_section(methods: dict[str, str], runs: dict[str, dict], items: list):
    """Gate choices of the methods that have them, and features of MoE-Fusion's local experts; None without either."""
    import pandas as pd

    plots, sheets = [], []
    for name, folder in methods.items():
        path = storage.join(folder, GATES_FILE)
        if storage.exists(path):
            gates = pd.read_csv(io.BytesIO(storage.read_bytes(path)))
            plots.append(plot(f"{name}: experts chosen", gate_choices(gates)))
    for folder, about in runs.items():
        if about["settings"]["recipe"].get("model_name") == "moefusion":
            sheets += expert_sheets(folder, items)
    if not (plots or sheets):
        return None
    lead = "How often each gate chose each expert, and what every local expert makes of the foreground and background."
    return Section("experts", "Experts", lead, (), tuple(plots), tuple(sheets))


def expert_sheets(run: str, items: list) -> list:

    loaded, twin, _ = load_network(storage.absolute(run))
    if loaded.model.config.ablation in ("no_mole", "att_local"):
        return []
    sheets = []
    for item in items[:SHEETS]:
        attention = None
        if twin is not None:
            from detection.moefusion.joint import attend

            attention = attend(twin, item.visible, item.infrared)
        sheet = expert_sheet(loaded.model, item.visible, item.infrared, attention)
        sheets.append(Sheet(f"{run}: {item.key}", data_uri(jpeg(sheet), "jpeg")))
    return sheets


def jpeg(image_HW3) -> bytes:

    return cv2.imencode(".jpg", image_HW3[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


def as_jpeg(data: bytes) -> bytes:

    return jpeg(decode(data).pixels)


def read_json(path: str, otherwise: str) -> dict:

    try:
        return json.loads(storage.read_bytes(path))
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise UserError(f"{otherwise} Give its --out folder, or run it to the end.") from error
