"""MLflow runs of trainings: find them, import them, read their tags and parameters."""

from __future__ import annotations

import time
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from components.records.training import Epoch
from components.tracking import store

FINGERPRINT_TAG = "kiln.fingerprint"
MODEL_TAG = "kiln.model"
INIT_TAG = "kiln.init"
"""Tag of a version: the starting weights, as `init` of params.yaml names them."""


def find_run(client: MlflowClient, experiment_id: str, fingerprint: str) -> str | None:
    """Return the newest finished run with a fingerprint, None if there is none."""
    runs = client.search_runs(
        [experiment_id],
        f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return runs[0].info.run_id if runs else None


@store.explain_denial("write runs of this experiment", store.TRAINING_IDENTITY)
def import_run(
    client: MlflowClient,
    experiment_id: str,
    model: str,
    params: dict[str, Any],
    tags: dict[str, str],
    history: list[Epoch],
) -> str:
    """Record a training whose own run is in another store, and return the id of the new run.

    The run has no commit, machine or times, which only the other store knows. The tag
    `kiln.imported` marks it.
    """
    tags = {MODEL_TAG: model, "kiln.imported": "true", **tags}
    run_id: str = client.create_run(experiment_id, run_name=model, tags=tags).info.run_id
    for key, value in flatten(params).items():
        client.log_param(run_id, key, value)
    now = int(time.time() * 1000)
    metrics = [
        Metric(key, value, now, row.epoch)
        for row in history
        for key, value in row.model_dump(exclude={"epoch", "step"}).items()
    ]
    client.log_batch(run_id, metrics=metrics)
    client.set_terminated(run_id, "FINISHED")
    return run_id


def get_tags_and_params(client: MlflowClient, run_id: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the tags and the parameters of a run, both empty if it was deleted permanently."""
    try:
        data = client.get_run(run_id).data
    except MlflowException as error:
        if not store.is_missing(error):
            raise
        return {}, {}
    return dict(data.tags), dict(data.params)


def data_tags(digests: dict[str, str]) -> dict[str, str]:
    """Return the digests of `TrainResult.data` as tags of a run or a version."""
    return {f"data.{name}.sha256": digest for name, digest in digests.items()}


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested dictionary as one level: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
