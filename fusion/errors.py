"""The one exception whose text is meant for the user."""

from __future__ import annotations

from fusion.secrets import mask_secrets


class UserError(Exception):
    """Something the user can put right: one line that says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2. Passwords and keys in it are masked.
    """

    def __init__(self, *texts: object) -> None:
        super().__init__(*(mask_secrets(text) if isinstance(text, str) else text for text in texts))
