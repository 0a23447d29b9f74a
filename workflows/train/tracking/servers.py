"""MLflow and Weights & Biases as watchers of a training, set up by Ray's own integrations with them.

Ray's ready callbacks for both (MLflowLoggerCallback, WandbLoggerCallback) are of Ray Tune and know trials only; what
Ray has for one training is `setup_mlflow` and `setup_wandb`, which are called here, once, in the controller.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
import uuid
from typing import Any

from fusion import storage
from workflows.train.tracking.base import EpochLogger, Numbers

PATIENCE, LAST_PATIENCE = 5.0, 60.0  # seconds that a training waits for a server, after an epoch and after the last
BRIEFLY = 0.5  # the same for a server that failed
EXPERIMENT = "duskfuse"


class RemoteLogger(EpochLogger):
    """Sends epochs from a thread of its own, so that a server that is slow or gone holds up no training.

    What could not be sent is kept and tried again with the next epoch. `key`: what OUT remembers of the server's run,
    so that a resumed training goes on in it.
    """

    def __init__(self, out: str, settings: Numbers, epochs: int) -> None:
        super().__init__(out, settings)
        self.epochs = epochs
        self.waiting: dict[int, Numbers] = {}
        self.sent: set[int] = set()
        self.thread: threading.Thread | None = None

    def write(self, rows: dict[int, Numbers], anew: bool) -> None:
        newest = max(rows)
        self.sent.discard(newest)  # done again, from an older checkpoint
        self.waiting |= rows
        patience = BRIEFLY if self.warned else LAST_PATIENCE if newest >= self.epochs else PATIENCE
        until = time.monotonic() + patience
        while self.waiting and time.monotonic() < until:
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self._send, daemon=True)
                self.thread.start()
            self.thread.join(max(0.0, until - time.monotonic()))
            if self.warned:
                return

    def _send(self) -> None:
        try:
            self.connect()
            while self.waiting:
                epoch = min(list(self.waiting))  # the other thread may add some meanwhile
                if epoch not in self.sent:
                    self.send(epoch, self.waiting[epoch])
                    self.sent.add(epoch)
                del self.waiting[epoch]
            if self.warned:
                self.warned = False  # it is back; the next failure is told again
        except BaseException as error:  # wandb raises more than Exception
            self.warn(error)

    def connect(self) -> None:
        """Once there is a run on the server, nothing. Called before anything is sent."""
        raise NotImplementedError

    def send(self, epoch: int, row: Numbers) -> None:
        raise NotImplementedError

    def remembered(self) -> str | None:
        """The server's name of the run of an earlier start."""
        path = storage.join(self.out, self.memory)
        return json.loads(storage.read_bytes(path))["run"] if storage.exists(path) else None

    def remember(self, run: str) -> None:
        storage.write_text(storage.join(self.out, self.memory), json.dumps({"run": run}) + "\n")

    @property
    def memory(self) -> str:
        return f"{self.name.lower()}.json"

    @property
    def title(self) -> str:
        return self.out.partition("?")[0].rstrip("/").rpartition("/")[2]


class MLflow(RemoteLogger):
    """A run of the experiment "duskfuse" on a tracking server; the settings are its parameters."""

    name = "MLflow"

    def __init__(self, out: str, settings: Numbers, epochs: int, uri: str) -> None:
        super().__init__(out, settings, epochs)
        self.uri = uri
        self.client: Any = None
        self.run = ""

    def connect(self) -> None:
        if self.client is not None:
            return
        # else it would try for ten minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        import mlflow
        from ray.air.integrations.mlflow import setup_mlflow

        client = mlflow.MlflowClient(tracking_uri=self.uri)
        known = self.remembered()
        if known is not None:
            try:
                self.sent |= {int(one.step) for one in client.get_metric_history(known, "epoch")}
                client.set_terminated(known, status="RUNNING")
            except mlflow.exceptions.RestException:  # another server, or it was deleted there
                known = None
        if known is None:
            setup_mlflow(
                self.settings,
                tracking_uri=self.uri,
                experiment_name=EXPERIMENT,
                run_name=self.title,
                create_experiment_if_not_exists=True,
            )
            known = mlflow.active_run().info.run_id
            self.remember(known)
        self.client, self.run = client, known

    def send(self, epoch: int, row: Numbers) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        values = {**row, "epoch": float(epoch)}
        self.client.log_batch(self.run, metrics=[Metric(name, value, now, epoch) for name, value in values.items()])
        if epoch >= self.epochs:
            self.client.set_terminated(self.run)


class WandB(RemoteLogger):
    """A run of a project of Weights & Biases; WANDB_MODE=offline keeps it in OUT/wandb."""

    name = "wandb"

    def __init__(self, out: str, settings: Numbers, epochs: int, project: str) -> None:
        super().__init__(out, settings, epochs)
        self.project = project
        self.run: Any = None

    def connect(self) -> None:
        if self.run is not None:
            return
        import wandb
        from ray.air.integrations.wandb import setup_wandb

        known = self.remembered()
        if known is None:
            known = uuid.uuid4().hex[:12]
            self.remember(known)
        self.run = setup_wandb(
            self.settings,
            project=self.project,
            trial_id=known,
            trial_name=self.title,
            dir=tempfile.mkdtemp() if storage.is_uri(self.out) else self.out,
            settings=wandb.Settings(init_timeout=20, silent=True, console="off", disable_git=True, disable_code=True),
        )
        self.sent |= set(range(1, self.run.step))  # a run takes each step once, in order

    def send(self, epoch: int, row: Numbers) -> None:
        self.run.log(row, step=epoch)
        if epoch >= self.epochs:
            self.run.finish()
