"""MLflow and Weights & Biases as loggers of a training, set up by Ray's own integrations with them.

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

PATIENCE, PATIENCE_AT_END = 5.0, 60.0  # seconds that a training waits for a server, after an epoch and after the last
PATIENCE_AFTER_FAILURE = 0.5  # the same for a server that failed
EXPERIMENT = "duskfuse"


class RemoteLogger(EpochLogger):
    """Send epochs from a thread of its own, so that a slow or lost server does not hold up the training.

    What could not be sent is kept and tried again with the next epoch. The server's id of the run is kept in a file in
    OUT, so that a resumed training continues the same run.
    """

    def __init__(self, out: str, settings: Numbers, epochs: int) -> None:
        super().__init__(out, settings)
        self.epochs = epochs
        self.waiting: dict[int, Numbers] = {}
        self.sent: set[int] = set()
        self.thread: threading.Thread | None = None

    def write(self, rows: dict[int, Numbers], restart: bool) -> None:
        newest = max(rows)
        self.sent.discard(newest)  # done again, from an older checkpoint
        self.waiting |= rows
        patience = PATIENCE_AFTER_FAILURE if self.warned else PATIENCE_AT_END if newest >= self.epochs else PATIENCE
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
        """Open the run on the server, unless it is open. Called before anything is sent."""
        raise NotImplementedError

    def send(self, epoch: int, row: Numbers) -> None:
        """Send the numbers of an epoch."""
        raise NotImplementedError

    def read_run_id(self) -> str | None:
        """Return the server's id of the run that an earlier start has opened; None for the first start."""
        path = storage.join(self.out, self.run_id_file)
        return json.loads(storage.read_bytes(path))["run"] if storage.exists(path) else None

    def write_run_id(self, run_id: str) -> None:
        """Keep the server's id of the run for later starts."""
        storage.write_text(storage.join(self.out, self.run_id_file), json.dumps({"run": run_id}) + "\n")

    @property
    def run_id_file(self) -> str:
        """The name of the file in OUT."""
        return f"{self.name.lower()}.json"

    @property
    def title(self) -> str:
        """The name of the run on the server: that of the folder."""
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
        run_id = self.read_run_id()
        if run_id is not None:
            try:
                self.sent |= {int(metric.step) for metric in client.get_metric_history(run_id, "epoch")}
                client.set_terminated(run_id, status="RUNNING")
            except mlflow.exceptions.RestException:  # another server, or it was deleted there
                run_id = None
        if run_id is None:
            setup_mlflow(
                self.settings,
                tracking_uri=self.uri,
                experiment_name=EXPERIMENT,
                run_name=self.title,
                create_experiment_if_not_exists=True,
            )
            run_id = mlflow.active_run().info.run_id
            self.write_run_id(run_id)
        self.client, self.run = client, run_id

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

        run_id = self.read_run_id()
        if run_id is None:
            run_id = uuid.uuid4().hex[:12]
            self.write_run_id(run_id)
        self.run = setup_wandb(
            self.settings,
            project=self.project,
            trial_id=run_id,
            trial_name=self.title,
            dir=tempfile.mkdtemp() if storage.is_uri(self.out) else self.out,
            settings=wandb.Settings(init_timeout=20, silent=True, console="off", disable_git=True, disable_code=True),
        )
        self.sent |= set(range(1, self.run.step))  # a run takes each step once, in order

    def send(self, epoch: int, row: Numbers) -> None:
        self.run.log(row, step=epoch)
        if epoch >= self.epochs:
            self.run.finish()
