"""Each training is one MLflow run: what went in, what came of it epoch by epoch, on which machine."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from components.artifacts import Epoch
from components.tracking import store

FINGERPRINT = "kiln.fingerprint"
MODEL = "kiln.model"


class TrainingRun:
    """An open run. Metrics go out on a thread of their own, so that a slow server never holds up the driver."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id
        self.logged: set[int] = set()
        self.failure: Exception | None = None
        self._queue: queue.Queue[list[Metric] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._send, name="mlflow-metrics", daemon=True)
        self._thread.start()

    def epoch(self, row: Epoch, extra: dict[str, float] | None = None) -> None:
        """Logs one epoch, once however often it is told (a restarted worker group tells again)."""
        if row.epoch in self.logged:
            return
        self.logged.add(row.epoch)
        values = row.model_dump(exclude={"epoch", "step"}) | (extra or {})
        now = int(time.time() * 1000)
        self._queue.put([Metric(key, value, now, row.epoch) for key, value in values.items()])

    def metrics(self, values: dict[str, float]) -> None:
        """Logs figures that belong to no epoch."""
        now = int(time.time() * 1000)
        self._queue.put([Metric(key, value, now, 0) for key, value in values.items()])

    def close(self) -> None:
        """Waits until everything is logged, at most a minute. What could not be logged is in `failure`."""
        self._queue.put(None)
        self._thread.join(timeout=60)
        if self._thread.is_alive():
            self.failure = TimeoutError("metrics were still unsent after 60 s")

    def _send(self) -> None:
        while (metrics := self._queue.get()) is not None:
            try:
                self.client.log_batch(self.run_id, metrics=metrics)
            except Exception as error:  # noqa: BLE001 (training outlives its tracking; the driver tells of it)
                self.failure = error


@contextmanager
def training_run(
    client: MlflowClient,
    experiment_name: str,
    model: str,
    params: dict[str, Any],
    tags: dict[str, str],
    datasets: dict[str, tuple[str, str]],
) -> Iterator[TrainingRun]:
    """Opens a run, which ends FINISHED or, if the block raises, FAILED.

    `params` may be nested; `datasets` maps a context (`training`, `validation`) to a path and its SHA-256.
    """
    mlflow.set_experiment(experiment_id=store.experiment(client, experiment_name))
    with mlflow.start_run(run_name=model, tags={MODEL: model, **tags}, log_system_metrics=True) as active:
        mlflow.log_params(flatten(params))
        for context, (path, sha256) in datasets.items():
            # MLflow keeps 36 characters of a digest; the tags have all of it.
            mlflow.log_input(MetaDataset(resolve_dataset_source(path), name=path, digest=sha256[:32]), context=context)
        run = TrainingRun(client, active.info.run_id)
        try:
            yield run
        finally:
            run.close()


def find_run(client: MlflowClient, experiment_id: str, fingerprint: str) -> str | None:
    """The newest finished run with that fingerprint."""
    runs = client.search_runs(
        [experiment_id],
        f"tags.`{FINGERPRINT}` = '{fingerprint}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return runs[0].info.run_id if runs else None


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
