"""JSON that jobs wrote at revision 103a0ad, in today's keys, so that old folders are read and unfinished work goes on.

Each function takes what a file holds and returns it with today's keys; what has them already comes back unchanged.
"""

from __future__ import annotations

from typing import Any

from fusion.data.legacy import SPLIT_KEYS, rename_keys, upgrade_corpus_config
from fusion.legacy import upgrade_history, upgrade_recipe

JSON = dict[str, Any]

PROVENANCE_KEYS = {"stamp": "provenance"}
SETTINGS_KEYS = {"from": "init_checkpoint", "network of": "network_of_evolution", "library": "methods", **SPLIT_KEYS}
DETECTION_COLUMNS = {  # how they begin; the class follows, and the limit of an interval
    "AP50 ": "ap50_",
    "mAP50-95": "map50_95",
    "mAP50": "map50",
    "boxes ": "boxes_",
    "above zero": "above_zero",
}
EVOLUTION_KEYS = {"label score": "label_score"}


def upgrade_detection_column(name: str) -> str:
    """Return a column of detect's table.csv or differences.csv, or a value of the latter's "measure"."""
    for old, new in DETECTION_COLUMNS.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
            start, space, limit = name.rpartition(" ")
            return f"{start}_{limit}" if space and limit in ("low", "high") else name
    return name


def upgrade_settings(settings: JSON) -> JSON:
    """Return what claims a folder: plan.json, settings.json, model.json, method.json or search.json."""
    settings = rename_keys(settings, SETTINGS_KEYS)
    if isinstance(settings.get("config"), dict):  # of a corpus
        settings["config"] = upgrade_corpus_config(settings["config"])
    if "recipe" in settings:
        settings["recipe"] = upgrade_recipe(settings["recipe"])
    if "kind" in settings:  # of a method
        settings.setdefault("identity", None)
    return settings


def upgrade_result(result: JSON) -> JSON:
    """Return what a job writes last: run.json, fused.json, detect.json, tune.json, variants.json or commonness.json."""
    result = rename_keys(result, PROVENANCE_KEYS)
    if isinstance(result.get("settings"), dict):  # of a training
        result["settings"] = upgrade_settings(result["settings"])
    if isinstance(result.get("history"), list):
        result["history"] = upgrade_history(result["history"])
    if isinstance(result.get("source"), dict):  # of fused or scored images
        result["source"] = _upgrade_source(result["source"])
    return result


def upgrade_score(result: JSON) -> JSON:
    """Return what score.json holds."""
    return rename_keys(upgrade_result(result), {"sources": "reference"})


def _upgrade_source(source: JSON) -> JSON:
    """Return which pairs or corpus was fused or scored."""
    source = rename_keys(source, {"content": "content_sha256"})
    if isinstance(source.get("config"), dict):
        source["config"] = upgrade_corpus_config(source["config"])
    return source


def upgrade_trial(record: JSON) -> JSON:
    """Return what the file of a trial holds."""
    record = rename_keys(record, {"begun": "attempt"})
    record["history"] = upgrade_history(record["history"])
    return record


def upgrade_evolve(result: JSON) -> JSON:
    """Return what evolve.json holds."""
    result = rename_keys(result, PROVENANCE_KEYS)
    result["evolutions"] = [upgrade_evolution(evolution) for evolution in result["evolutions"]]
    return result


def upgrade_evolution(evolution: JSON) -> JSON:
    """Return what evolution.json holds."""
    evolution = rename_keys(evolution, EVOLUTION_KEYS)
    if "held out" in evolution:
        scores = dict(evolution.pop("held out"))
        pairs = scores.pop("pairs")
        scored = evolution.pop("held out scored", {})
        evolution["held_out_pairs"] = pairs
        evolution["held_out_scores"] = scores
        evolution["held_out_scored"] = {name: scored.get(name, pairs) for name in scores}
    return evolution
