"""UserErrors out of what Ray raises."""

from __future__ import annotations

from fusion.errors import UserError


def user_error_in(error: BaseException) -> UserError | None:
    """Return the UserError that a remote task raised, however deep Ray wrapped it; None where there is none."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, UserError):
            return UserError(*current.args[:1])
        queue += [current.__cause__, current.__context__, getattr(current, "cause", None)]
        failures = getattr(current, "worker_failures", None)
        queue += list(failures.values()) if isinstance(failures, dict) else []
    return None
