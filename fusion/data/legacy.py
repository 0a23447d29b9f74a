"""A corpus's JSON as revision 103a0ad wrote it, in today's keys."""

from __future__ import annotations

from typing import Any

BY_TOTALS = "demmi-rf-counts by totals"  # what that preset was before it told data sets apart; none of today's
SPLIT_KEYS = {"val_share": "val_fraction", "test_share": "test_fraction"}
MANIFEST_KEYS = {"content": "content_sha256", "stamp": "provenance"}


def rename_keys(data: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Return `data` with the keys of `names` (old -> new) renamed, in the same order; values are left as they are."""
    return {names.get(key, key): value for key, value in data.items()}


def upgrade_corpus_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a corpus, as plan.json and manifest.json have them, with today's keys.

    Those without `data_sets` are from before it: `demmi-rf-counts` then had one number for all data sets together.
    """
    config = rename_keys(config, SPLIT_KEYS)
    if "shard_samples" in config and "data_sets" not in config:
        by_totals = str(config.get("preset", "")).strip().lower() == "demmi-rf-counts"
        config |= {"data_sets": ""} | ({"preset": BY_TOTALS} if by_totals else {})
    if "shard_samples" in config:
        config.setdefault("sequence_pattern", "")
    return config


def upgrade_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what manifest.json holds with today's keys."""
    manifest = rename_keys(manifest, MANIFEST_KEYS)
    if isinstance(manifest.get("config"), dict):
        manifest["config"] = upgrade_corpus_config(manifest["config"])
    return manifest
