"""Metrics that a tracking server could not take, kept in the checkout until it answers again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from components.files import write_bytes
from components.paths import STATE
from components.redaction import hide_passwords
from components.tracking.address import EMBEDDED_URI

FOLDER = STATE / "spool"
_BATCH_SIZE = 500


def save(uri: str, run_id: str, metrics: list[Metric], status: str) -> Path:
    """Write the metrics that a run still lacks, and its final status, to a file of the spool.

    Args:
        uri: Address of the store that the run is in.
        run_id: The run.
        metrics: Metrics that the store has not confirmed.
        status: MLflow's status of the ended run, for example "FINISHED".
    """
    path = FOLDER / f"{run_id}.json"
    rows = [[m.key, m.value, m.timestamp, m.step] for m in metrics]
    content = {"store": _digest(uri), "status": status, "metrics": rows}
    write_bytes(path, json.dumps(content).encode(), private=True)
    return path


def replay(client: MlflowClient, uri: str) -> list[str]:
    """Send the files that were saved for this store, and delete those that arrived.

    Files that cannot be sent stay for the next call.

    Returns:
        The ids of the runs that are complete now.
    """
    completed = []
    for path in sorted(FOLDER.glob("*.json")):
        content = json.loads(path.read_bytes())
        if content["store"] != _digest(uri):
            continue
        run_id = path.stem
        metrics = [Metric(*row) for row in content["metrics"]]
        try:
            # A metric can have arrived although its reply was lost. It is not sent twice.
            missing = _missing(client, run_id, metrics)
            for start in range(0, len(missing), _BATCH_SIZE):
                client.log_batch(run_id, metrics=missing[start : start + _BATCH_SIZE])
            client.set_terminated(run_id, content["status"])
        except MlflowException:
            continue
        path.unlink()
        completed.append(run_id)
    return completed


def _digest(uri: str) -> str:
    """Return a digest to recognise a store by, also after its password has changed.

    A password is no part of it, because a short one could be guessed from its digest.
    """
    # The embedded store stays the same when its folder is moved.
    key = "embedded" if uri == EMBEDDED_URI else hide_passwords(uri)
    return hashlib.sha256(key.encode()).hexdigest()


def _missing(client: MlflowClient, run_id: str, metrics: list[Metric]) -> list[Metric]:
    """Return those of `metrics` that the run does not have yet, by key and step."""
    logged = {
        (key, m.step)
        for key in {m.key for m in metrics}
        for m in client.get_metric_history(run_id, key)
    }
    return [m for m in metrics if (m.key, m.step) not in logged]
