"""Passwords, keys and tokens in text that people read or that is kept: masked."""

from __future__ import annotations

import re
from typing import Any

MASK = "***"
# scheme://user:password@host, where a port (host:5000/a@b) is no password, and https://token@host
_IN_URI = re.compile(
    r"""(?<=://)[^\s'"/@:?#]*:(?!\d+/)(?:[^\s'"@]*@)+|(?:(?<=https://)|(?<=http://)|(?<=s3://))[^\s'"/@:?#]+@"""
)
_NAMED = re.compile(
    r"""((?:^|[\s'"?&;,{(])[\w.-]*(?:secret|token|password|passwd|credential|signature|api[_-]?key|access[_-]?key)"""
    r"""[\w.-]*(?:\s*=\s*|["']\s*:\s*)["']?|\bBearer\s+)([^&\s'",;})]+)""",
    re.IGNORECASE,
)


def mask_secrets(text: object) -> str:
    """Return the text with what only its owner may read replaced by `MASK`.

    Masked are user and password of a URI (`s3://KEY:SECRET@bucket`, `https://user:word@host`) and values that a name
    calls secret (`?X-Amz-Signature=...`, `WANDB_API_KEY=...`).
    """
    return _NAMED.sub(rf"\g<1>{MASK}", _IN_URI.sub(f"{MASK}@", str(text)))


def mask_secrets_in(value: Any) -> Any:
    """Return JSON-like data with every text in it masked; tuples become lists."""
    if isinstance(value, dict):
        return {name: mask_secrets_in(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask_secrets_in(item) for item in value]
    return mask_secrets(value) if isinstance(value, str) else value
