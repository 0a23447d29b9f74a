"""Joining a Ray cluster: quick errors in one line, and waiting for GPUs that a cluster starts when asked."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from fusion.errors import UserError

WAIT_FOR_HEAD = 10.0  # seconds, for a head that is just starting; ray.init itself would try for minutes
GPUS = "DUSKFUSE_GPUS"
"""Environment variable: so many GPUs must be there before a job begins, and the autoscaler is asked for them."""


def check_head(address: str) -> None:
    """Raise ConnectionError, ValueError or AuthenticationError where ray.init would try for minutes and say less."""
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray._private.services import canonicalize_bootstrap_address
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled, without type hints

    if "://" in address:  # ray:// has a server of its own; ray.init refuses others
        return
    head = canonicalize_bootstrap_address(address) or address  # "auto" -> the head that was started on this machine
    host, _, port = head.rpartition(":")
    if not port.isdigit():
        raise ValueError(f"{address!r} is not HOST:PORT")
    end = time.monotonic() + WAIT_FOR_HEAD
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=WAIT_FOR_HEAD).close()
            break
        except socket.gaierror as error:
            raise ConnectionError(f"no host is called {host}: {error.strerror}") from error
        except OSError as error:
            if time.monotonic() > end:
                raise ConnectionError(f"nothing answers at {head}: {error.strerror or error}") from error
            time.sleep(0.5)
    ensure_token_if_auth_enabled(create_token_if_missing=False)  # without one the next line ends the process
    GcsClient(address=head)  # the first call tells whether the token fits


def to_user_error(address: str, error: Exception) -> UserError | None:
    """Return in one line what was tried and what to change. None: the error is a bug."""
    import ray

    if isinstance(error, ray.exceptions.AuthenticationError):
        mode = os.environ.get("RAY_AUTH_MODE")
        wrong = (
            "the token is missing or is another one: give the cluster's in"
            if mode == "token"
            else f"RAY_AUTH_MODE is {mode!r} here: set it to 'token' and give"
        )
        return UserError(
            f"the Ray cluster at {address} asks for a token; {wrong} RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
            "~/.ray/auth_token (docs/cluster.md)."
        )
    # type() is: Ray raises a bare Exception when a node does not come up in time
    if not isinstance(error, (OSError, RuntimeError, ValueError)) and type(error) is not Exception:
        return None
    if address.startswith(("http://", "https://")):
        return UserError(
            f"RAY_ADDRESS is {address}, the dashboard, which is for `ray job submit`. Submit the job there, or set "
            "RAY_ADDRESS to the head itself, HOST:6379."
        )
    first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if address in ("", "local"):
        return UserError(f"Ray did not start on this machine ({first}). Is it very busy, or short of memory or disk?")
    return UserError(f"cannot reach Ray ({first}). Check RAY_ADDRESS and RAY_AUTH_MODE, or unset both.")


def wait_for_gpus(log_progress: Callable[[str], None]) -> None:
    """Ask the autoscaler for as many GPUs as DUSKFUSE_GPUS says, and wait until they are there."""
    import ray
    from ray.autoscaler.sdk import request_resources

    text = os.environ.get(GPUS, "0")
    if not text.isdigit():
        raise UserError(f"{GPUS} is {text!r}; it is a number of GPUs.")
    wanted, last = int(text), -1
    while (gpus := int(ray.cluster_resources().get("GPU", 0))) < wanted:
        if gpus != last:
            log_progress(f"waiting for GPUs: {gpus} of {wanted} are there")
            request_resources(bundles=[{"CPU": 1, "GPU": 1}] * wanted)
        last = gpus
        time.sleep(2)
    if last >= 0:
        request_resources(bundles=[])  # from here on what is idle may go
