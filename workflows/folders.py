"""An output folder belongs to one piece of work: claimed before it begins, looked at from here when it is done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fusion import storage
from fusion.errors import UserError


def claim(out: str, name: str, content: dict[str, Any], what: str) -> None:
    """Write `content` as OUT/`name` first, so that a folder never mixes two pieces of work.

    UserError if OUT is claimed with other content, or is not empty and not claimed. `what`: "corpus", "run".
    """
    path = storage.join(out, name)
    try:
        there = json.loads(storage.read_bytes(path))
    except (FileNotFoundError, NotADirectoryError):
        if storage.is_dir(out) and storage.list_files(out):
            raise UserError(f"{out} is not empty and holds no {what}. Choose another --out, or empty it.") from None
        storage.write_text(path, json.dumps(content, indent=1) + "\n")
        return
    except ValueError:
        there = None
    if there != json.loads(json.dumps(content)):
        raise UserError(
            f"{out} holds another {what}: other input, settings or versions (see {path}). Choose another --out, or "
            "delete it."
        )


def check_seen(out: str, hidden: Sequence[str], what: str) -> None:
    """UserError when files that workers have written are not here: a local folder on several nodes."""
    if hidden:
        raise UserError(
            f"{len(hidden)} {what}, {hidden[0]} first, were written but cannot be seen from here under {out}. "
            "On several nodes --out must be a shared folder or s3://."
        )
