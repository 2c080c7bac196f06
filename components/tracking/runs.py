"""Each training is one MLflow run: what went in, what came of it epoch by epoch, on which machine."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.context.registry import resolve_tags

from components.records.training import Epoch
from components.tracking import spool, store

FINGERPRINT = "kiln.fingerprint"
MODEL = "kiln.model"
_PATIENCE_S = 20
_TOGETHER_S = 1.0  # a request costs as much for one figure as for a hundred


class TrainingRun:
    """An open run. Everything goes out on a thread of its own, so that a slow or dead server never holds up training.

    What does not get through is tried again with whatever comes next, and in the end kept in the spool.
    """

    def __init__(self, client: MlflowClient, run_id: str, logged: Iterable[tuple[str, int]] = ()) -> None:
        self.client, self.run_id = client, run_id
        self.logged = set(logged)
        self.spooled: Path | None = None
        self._unsent: list[Metric] = []
        self._guard = threading.Lock()
        self._ended = False
        self._queue: queue.Queue[str | None] = queue.Queue()  # how it ended, or None for "there is something to send"
        self._thread = threading.Thread(target=self._send, name="mlflow-run", daemon=True)
        self._thread.start()

    def epoch(self, row: Epoch, extra: dict[str, float] | None = None) -> None:
        """Logs one epoch, once however often it is told (a restarted worker group tells again)."""
        self._put(row.model_dump(exclude={"epoch", "step"}) | (extra or {}), row.epoch)

    def metrics(self, values: dict[str, float]) -> None:
        """Logs figures that belong to no epoch."""
        self._put(values, 0)

    def _put(self, values: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, step) for key, value in values.items() if (key, step) not in self.logged]
        self.logged |= {(m.key, m.step) for m in metrics}
        with self._guard:
            self._unsent += metrics
        self._queue.put(None)

    def end(self, status: str) -> None:
        """Ends the run, within `_PATIENCE_S` whatever the server does. `spooled` names what is kept if it does not answer."""
        self._queue.put(status)
        self._thread.join(_PATIENCE_S)
        if not self._ended:
            self.spooled = spool.keep(store.uri(), self.run_id, list(self._unsent), status)

    def _send(self) -> None:
        while True:
            status = self._queue.get() or self._gather()
            with suppress(Exception):  # training outlives its tracking: MLflow's, requests' and database errors
                self._log()
                if status is not None:
                    self.client.set_terminated(self.run_id, status)
                    self._ended = True
            if status is not None:
                return

    def _gather(self) -> str | None:
        """Waits a little for more, or for the end: figures that come often go out together."""
        until = time.monotonic() + _TOGETHER_S
        while (left := until - time.monotonic()) > 0:
            with suppress(queue.Empty):
                status = self._queue.get(timeout=left)
                if status is not None:
                    return status
        return None

    def _log(self) -> None:
        with self._guard:
            metrics = list(self._unsent)
        if metrics:
            self.client.log_batch(self.run_id, metrics=metrics)
            with self._guard:
                self._unsent = self._unsent[len(metrics) :]  # what came in meanwhile stands behind them


class _Machine(SystemMetricsMonitor):  # type: ignore[misc]
    """MLflow's own logs every ten seconds and drops what came after the last: all there is of a run that is shorter."""

    def monitor(self) -> None:
        super().monitor()
        with suppress(Exception):  # as in `TrainingRun`
            self.collect_metrics()
            self.publish_metrics(self.aggregate_metrics())


@contextmanager
def training_run(
    client: MlflowClient,
    experiment_name: str,
    model: str,
    params: dict[str, Any],
    tags: dict[str, str],
    datasets: dict[str, tuple[str, str]],
    resume: str | None = None,
) -> Iterator[TrainingRun]:
    """Opens a run, which ends FINISHED or, if the block raises, FAILED (KILLED if it was interrupted). Once it is open, no
    fault of the server's ends it.

    `params` may be nested; `datasets` maps a context (`training`, `validation`) to a path and its SHA-256. `resume` is the
    run to go on with, if it still exists and has not finished.
    """
    with store.permitted(f"write runs of the experiment {experiment_name}", "the training identity"):
        logged = _reopen(client, resume, tags[FINGERPRINT]) if resume else None
        if resume is None or logged is None:
            run_id, logged = _open(client, store.experiment(client, experiment_name), model, params, tags, datasets), set()
        else:
            run_id = resume
    machine = _Machine(run_id, resume_logging=bool(logged))
    machine.start()
    run, status = TrainingRun(client, run_id, logged), "FAILED"
    try:
        yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        # It joins its own thread, which may be waiting for a server that does not answer.
        finishing = threading.Thread(target=machine.finish, daemon=True)
        finishing.start()
        finishing.join(_PATIENCE_S)
        run.end(status)


def _reopen(client: MlflowClient, run_id: str, fingerprint: str) -> set[tuple[str, int]] | None:
    """Takes up an unfinished run again; returns which metrics it has at which steps. None: there is no such run any more."""
    try:
        found = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    over = found.info.status == "FINISHED" or found.info.lifecycle_stage == "deleted"
    if over or found.data.tags.get(FINGERPRINT) != fingerprint:
        return None
    client.update_run(run_id, status="RUNNING")
    own = [key for key in found.data.metrics if not key.startswith("system/")]
    return {(key, m.step) for key in own for m in client.get_metric_history(run_id, key)}


def _open(
    client: MlflowClient,
    experiment_id: str,
    model: str,
    params: dict[str, Any],
    tags: dict[str, str],
    datasets: dict[str, tuple[str, str]],
) -> str:
    tags = {**resolve_tags(), MODEL: model, **tags}
    run_id: str = client.create_run(experiment_id, run_name=model, tags=tags).info.run_id
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in flatten(params).items()])
    client.log_inputs(
        run_id,
        [
            # MLflow keeps 36 characters of a digest; the tags have all of it.
            DatasetInput(
                MetaDataset(resolve_dataset_source(path), name=path, digest=sha256[:32])._to_mlflow_entity(),
                [InputTag("mlflow.data.context", context)],
            )
            for context, (path, sha256) in datasets.items()
        ],
    )
    return run_id


def find_run(client: MlflowClient, experiment_id: str, fingerprint: str) -> str | None:
    """The newest finished run with that fingerprint."""
    runs = client.search_runs(
        [experiment_id],
        f"tags.`{FINGERPRINT}` = '{fingerprint}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return runs[0].info.run_id if runs else None


@store.permitted("write runs of this experiment", "the training identity")
def import_run(
    client: MlflowClient, experiment_id: str, model: str, params: dict[str, Any], tags: dict[str, str], history: list[Epoch]
) -> str:
    """Records here a training that another store saw; what only that one knows (commit, machine, times) is left out."""
    tags = {MODEL: model, "kiln.imported": "true", **tags}
    run_id: str = client.create_run(experiment_id, run_name=model, tags=tags).info.run_id
    for key, value in flatten(params).items():
        client.log_param(run_id, key, value)
    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[
            Metric(key, value, now, row.epoch)
            for row in history
            for key, value in row.model_dump(exclude={"epoch", "step"}).items()
        ],
    )
    client.set_terminated(run_id, "FINISHED")
    return run_id


def facts(client: MlflowClient, run_id: str) -> tuple[dict[str, str], dict[str, str]]:
    """Tags and parameters of a run; empty if it was deleted for good."""
    try:
        data = client.get_run(run_id).data
    except MlflowException:
        return {}, {}
    return dict(data.tags), dict(data.params)


def data_tags(digests: dict[str, str]) -> dict[str, str]:
    """The digests of `TrainResult.data` as tags of a run or a version."""
    return {f"data.{name}.sha256": digest for name, digest in digests.items()}


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
