"""What a tracking server could not take, kept beside the checkout until it answers again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from components.files import write_bytes
from components.paths import ROOT

FOLDER = ROOT / ".kiln" / "spool"


def keep(address: str, run_id: str, metrics: list[Metric], status: str) -> Path:
    """Writes down the metrics that a run still lacks, and how it ended."""
    path = FOLDER / f"{run_id}.json"
    rows = [[m.key, m.value, m.timestamp, m.step] for m in metrics]
    write_bytes(path, json.dumps({"store": _digest(address), "status": status, "metrics": rows}).encode())
    return path


def replay(client: MlflowClient, address: str) -> list[str]:
    """Sends what was kept for this address; returns the runs that are complete now. What fails again is kept."""
    done = []
    for path in sorted(FOLDER.glob("*.json")):
        kept = json.loads(path.read_bytes())
        if kept["store"] != _digest(address):
            continue
        metrics = [Metric(*row) for row in kept["metrics"]]
        try:
            # Metrics that had arrived although their reply was lost are not sent twice.
            missing = _missing(client, path.stem, metrics)
            for start in range(0, len(missing), 500):
                client.log_batch(path.stem, metrics=missing[start : start + 500])
            client.set_terminated(path.stem, kept["status"])
        except MlflowException:
            continue
        path.unlink()
        done.append(path.stem)
    return done


def _digest(address: str) -> str:
    """An address may hold a password, which has no place in a file."""
    return hashlib.sha256(address.encode()).hexdigest()


def _missing(client: MlflowClient, run_id: str, metrics: list[Metric]) -> list[Metric]:
    there = {(key, m.step) for key in {m.key for m in metrics} for m in client.get_metric_history(run_id, key)}
    return [m for m in metrics if (m.key, m.step) not in there]
