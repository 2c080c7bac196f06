"""The MLflow run of a training in progress: its parameters, data, metrics per epoch and machine."""

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
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.context.registry import resolve_tags

from components.records.training import Epoch
from components.tracking import spool, store
from components.tracking.runs import FINGERPRINT_TAG, MODEL_TAG, flatten

_END_TIMEOUT_S = 20
# Metrics of this interval are sent in one request. A hundred metrics cost no more than one.
_BATCH_INTERVAL_S = 1.0


class TrainingRun:
    """An open MLflow run. A background thread sends the logged metrics.

    A slow or dead server therefore never blocks training. Metrics that could not be sent are sent
    again with the next ones. Metrics that are still unsent at the end are saved in the spool.

    Args:
        client: Client of the store that the run is in.
        run_id: The run.
        logged: Pairs of key and step that the run already has. They are not logged again.
    """

    def __init__(
        self, client: MlflowClient, run_id: str, logged: Iterable[tuple[str, int]] = ()
    ) -> None:
        self.client = client
        self.run_id = run_id
        self.logged = set(logged)
        self.spooled: Path | None = None
        self._unsent: list[Metric] = []
        self._lock = threading.Lock()
        self._ended = False
        # The final status of the run, or None when there are new metrics.
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._thread = threading.Thread(target=self._send, name="mlflow-run", daemon=True)
        self._thread.start()

    def log_epoch(self, row: Epoch, extra: dict[str, float] | None = None) -> None:
        """Log the metrics of one epoch, unless the run has them.

        A worker group that was restarted reports its earlier epochs again.
        """
        self._put(row.model_dump(exclude={"epoch", "step"}) | (extra or {}), row.epoch)

    def log_metrics(self, values: dict[str, float]) -> None:
        """Log metrics that belong to no epoch."""
        self._put(values, 0)

    def end(self, status: str) -> None:
        """End the run, within 20 seconds even when the server does not answer.

        In that case `spooled` is the file with the metrics that were not sent.
        """
        self._queue.put(status)
        self._thread.join(_END_TIMEOUT_S)
        if not self._ended:
            self.spooled = spool.save(store.get_uri(), self.run_id, list(self._unsent), status)

    def _put(self, values: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [
            Metric(key, value, now, step)
            for key, value in values.items()
            if (key, step) not in self.logged
        ]
        self.logged |= {(m.key, m.step) for m in metrics}
        with self._lock:
            self._unsent += metrics
        self._queue.put(None)

    def _send(self) -> None:
        """Send logged metrics until the run ends. Runs on the background thread."""
        while True:
            status = self._queue.get() or self._wait_for_end()
            # Training continues without tracking: MLflow raises its own errors and those of
            # requests and of the database.
            with suppress(Exception):
                self._flush()
                if status is not None:
                    self.client.set_terminated(self.run_id, status)
                    self._ended = True
            if status is not None:
                return

    def _wait_for_end(self) -> str | None:
        """Wait for `_BATCH_INTERVAL_S` or until the run ends; return its final status then."""
        deadline = time.monotonic() + _BATCH_INTERVAL_S
        while (remaining := deadline - time.monotonic()) > 0:
            with suppress(queue.Empty):
                status = self._queue.get(timeout=remaining)
                if status is not None:
                    return status
        return None

    def _flush(self) -> None:
        with self._lock:
            metrics = list(self._unsent)
        if metrics:
            self.client.log_batch(self.run_id, metrics=metrics)
            with self._lock:
                # Metrics that were added during the request come after those that were sent.
                self._unsent = self._unsent[len(metrics) :]


@contextmanager
def open_training_run(
    client: MlflowClient,
    experiment_name: str,
    model: str,
    params: dict[str, Any],
    tags: dict[str, str],
    datasets: dict[str, tuple[str, str]],
    resume: str | None = None,
) -> Iterator[TrainingRun]:
    """Open a run for the length of the block and record this machine's load in it.

    The run ends as FINISHED, as KILLED after a KeyboardInterrupt, and as FAILED after any other
    exception. Once the run is open, errors of the server do not reach the block.

    Args:
        client: Client of the store.
        experiment_name: The experiment, created if it does not exist.
        model: Name of the model in `train.models`.
        params: Parameters, possibly nested.
        tags: Tags. `FINGERPRINT_TAG` is required with `resume`.
        datasets: Context ("training", "validation") to the path and SHA-256 of a split.
        resume: Run to continue, if it still exists, has this fingerprint and is not finished.

    Raises:
        UserError: The server does not let the user write runs.
    """
    with store.explain_denial(
        f"write runs of the experiment {experiment_name}", store.TRAINING_IDENTITY
    ):
        run_id = resume
        logged = _reopen(client, resume, tags[FINGERPRINT_TAG]) if resume else None
        if run_id is None or logged is None:
            experiment_id = store.ensure_experiment(client, experiment_name)
            run_id = _create(client, experiment_id, model, params, tags, datasets)
            logged = set()
    monitor = SystemMetricsMonitor(run_id, resume_logging=bool(logged))
    monitor.start()
    run = TrainingRun(client, run_id, logged)
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        # `finish` joins the monitor's thread, which may be waiting for a server that is dead.
        finishing = threading.Thread(target=monitor.finish, daemon=True)
        finishing.start()
        finishing.join(_END_TIMEOUT_S)
        run.end(status)


def _reopen(client: MlflowClient, run_id: str, fingerprint: str) -> set[tuple[str, int]] | None:
    """Set an unfinished run to RUNNING and return the pairs of key and step that it has.

    Returns None if the run does not exist, was deleted, is finished or has another fingerprint.
    """
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if store.is_missing(error):
            return None
        raise
    if run.info.status == "FINISHED" or run.info.lifecycle_stage == "deleted":
        return None
    if run.data.tags.get(FINGERPRINT_TAG) != fingerprint:
        return None
    client.update_run(run_id, status="RUNNING")
    keys = [key for key in run.data.metrics if not key.startswith("system/")]
    return {(key, m.step) for key in keys for m in client.get_metric_history(run_id, key)}


def _create(
    client: MlflowClient,
    experiment_id: str,
    model: str,
    params: dict[str, Any],
    tags: dict[str, str],
    datasets: dict[str, tuple[str, str]],
) -> str:
    tags = {**resolve_tags(), MODEL_TAG: model, **tags}
    run_id: str = client.create_run(experiment_id, run_name=model, tags=tags).info.run_id
    client.log_batch(
        run_id, params=[Param(key, str(value)) for key, value in flatten(params).items()]
    )
    inputs = [
        DatasetInput(_describe_dataset(path, sha256), [InputTag("mlflow.data.context", context)])
        for context, (path, sha256) in datasets.items()
    ]
    client.log_inputs(run_id, inputs)
    return run_id


def _describe_dataset(path: str, sha256: str) -> Dataset:
    # MLflow stores at most 36 characters of a digest. The tags of the run have all 64.
    metadata = MetaDataset(resolve_dataset_source(path), name=path, digest=sha256[:32])
    return Dataset(**metadata.to_dict())
