"""Ray: connecting, what there is to use, and errors that come back from it."""

from __future__ import annotations

import logging
import os
import signal
import threading

from workflows.cluster import join
from workflows.console import log_progress

NOISY_LOGGERS = ("ray.data", "ray.data._internal.execution.streaming_executor", "ray.train")


def connect(cpu_oversubscription: int = 1) -> int:
    """Join the cluster of RAY_ADDRESS (set by `ray job submit`), or start Ray on this machine. Idempotent.

    Ray on this machine counts every CPU `cpu_oversubscription` times, for jobs whose processes mostly wait. Returns how
    often CPUs are counted: 1 in a cluster that was there. Raises UserError where joining or starting fails.
    """
    import ray
    import ray.data

    if ray.is_initialized():
        cpu_oversubscription = 1
    else:
        address = os.environ.get("RAY_ADDRESS", "")
        joins = address not in ("", "local")
        log_progress(f"connecting to Ray at {address}" if joins else "starting Ray on this machine")
        cpu_oversubscription = 1 if joins else cpu_oversubscription
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            if joins:
                join.check_head(address)
                ray.init(address=address, logging_level=logging.WARNING, runtime_env=WORKER_RUNTIME_ENV)
            else:
                # Ray Train and Tune ask the dashboard which actors live; it listens on this machine only.
                ray.init(
                    address="local",
                    include_dashboard=True,
                    num_cpus=cpu_oversubscription * (os.cpu_count() or 1) if cpu_oversubscription > 1 else None,
                    logging_level=logging.WARNING,
                    runtime_env=WORKER_RUNTIME_ENV,
                )
        except Exception as error:
            if (user_error := join.to_user_error(address, error)) is None:
                raise
            raise user_error from error
        if on_sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # ray.init has set its own
        join.wait_for_gpus(log_progress)
    context = ray.data.DataContext.get_current()
    context.print_on_execution_start = False
    silence_ray_logs()
    return cpu_oversubscription


def silence_ray_logs() -> None:
    """Silence the progress messages of Ray's loggers in this process; warnings and errors stay."""
    import ray

    # this one is named after its file
    context = os.path.join(os.path.dirname(ray.__file__), "train/v2/_internal/execution/context.py")
    for name in (*NOISY_LOGGERS, context):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # that its progress bars are off


def setup_worker() -> None:
    """Silence Ray's loggers and export RAY_ADDRESS, in every process that Ray starts for a job.

    Without it, Ray Train's cleaner of a killed trial asks for "the" Ray of the machine, fails where there are two, and
    the trial's resources are leaked (2.60).
    """
    import ray

    os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    silence_ray_logs()


WORKER_RUNTIME_ENV = {"worker_process_setup_hook": setup_worker}  # the `runtime_env` of a job


def resources() -> tuple[float, int]:
    """Return (CPUs, GPUs) of the whole cluster."""
    import ray

    total = ray.cluster_resources()
    return float(total.get("CPU", 1)), int(total.get("GPU", 0))
