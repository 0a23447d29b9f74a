"""The jobs of `duskfuse`: the only code that imports ray. Each parses, reads, calls `fusion`, writes."""

import os

# Ray reads these when it is imported. No usage statistics leave the machine, and token authentication is on only
# where RAY_AUTH_MODE asks for it (a bare ray.init() would turn it on for its own cluster and lock other clients out).
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# Threads that wait must not spin: workers share their cores with Ray, and a spinning pool then runs many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")  # the jobs show their own, in their own units
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # it prints every line twice

if os.environ.get("RAY_ADDRESS", "") in ("", "local"):  # Ray on this machine, which asks for no token, on loopback
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
