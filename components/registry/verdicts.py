"""The verdict on a version: stored with the predictions it is based on, and checked when used."""

from __future__ import annotations

import hashlib
import tempfile
import time
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.entities.model_registry import ModelVersion

from components.errors import UserError
from components.records.evaluation import ModelVerdict
from components.records.receipt import Receipt
from components.registry import model_versions, packaging
from components.registry.model_versions import STATUS_TAG, get_model_id
from components.registry.packaging import LoadedModel
from components.tracking import artifacts, store

VERDICT_TAG = "kiln.verdict"
_PREDICTIONS = "predictions.parquet"


@store.explain_denial("write a verdict onto a version", store.TRAINING_IDENTITY)
def record_verdict(
    client: MlflowClient,
    receipt: Receipt,
    verdict: ModelVerdict,
    predictions: bytes,
    metrics: dict[str, float],
) -> None:
    """Write an evaluation to its version and to the version's run.

    The tag `validation_status` is written last, because other programs rely on it. That of another
    verdict is deleted first: while the evidence changes, the version counts as not evaluated.

    Args:
        client: Client of the store.
        receipt: The version.
        verdict: Metrics and gates.
        predictions: The Parquet file with the predictions for each example.
        metrics: Metrics to log to the run, with `test_` before their names.
    """
    version = client.get_model_version(receipt.name, str(receipt.version))
    content = verdict.model_dump_json()
    if STATUS_TAG in version.tags and version.tags.get(VERDICT_TAG) != content:
        client.delete_model_version_tag(receipt.name, str(receipt.version), STATUS_TAG)
    _log_metrics(client, version, "test", metrics)
    folder = _artifact_folder(verdict)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / _PREDICTIONS
        path.write_bytes(predictions)
        client.log_artifact(version.run_id, str(path), folder)
    client.log_dict(version.run_id, verdict.model_dump(mode="json"), f"{folder}/verdict.json")
    status = "passed" if verdict.passed else "failed"
    for key, value in ((VERDICT_TAG, content), (STATUS_TAG, status)):
        client.set_model_version_tag(receipt.name, str(receipt.version), key, value)


@store.explain_denial("write a comparison onto a run", store.TRAINING_IDENTITY)
def record_comparison(
    client: MlflowClient, name: str, number: int, metrics: dict[str, float]
) -> None:
    """Log the comparison of a version with the present champion to the version's run.

    The names of the metrics get `champion_` before them.
    """
    version = client.get_model_version(name, str(number))
    _log_metrics(client, version, "champion", metrics)


def _log_metrics(
    client: MlflowClient, version: ModelVersion, prefix: str, metrics: dict[str, float]
) -> None:
    now = int(time.time() * 1000)
    model_id = get_model_id(version)
    client.log_batch(
        version.run_id,
        metrics=[
            Metric(f"{prefix}_{key}", value, now, 0, model_id=model_id)
            for key, value in metrics.items()
        ],
    )


def _artifact_folder(verdict: ModelVerdict) -> str:
    return f"evaluation/version-{verdict.version}-on-{verdict.test_sha256[:16]}"


def get_verdict(version: ModelVersion) -> ModelVerdict:
    """Return the verdict on a version.

    Raises:
        UserError: The version was never evaluated, or by another Kiln.
    """
    text = version.tags.get(VERDICT_TAG)
    if text is None or version.tags.get(STATUS_TAG) is None:
        raise UserError(
            f"{version.name} version {version.version} was never evaluated; `dvc repro` evaluates "
            "what it registers"
        )
    return ModelVerdict.from_json(
        text,
        f"the verdict on {version.name} version {version.version}",
        "upgrade Kiln, or evaluate it again with `dvc repro -s -f evaluate`",
    )


def download_predictions(client: MlflowClient, version: ModelVersion) -> bytes:
    """Return the Parquet file with the predictions that the verdict on a version is based on.

    Raises:
        UserError: The file is gone or was altered.
    """
    verdict = get_verdict(version)
    label = f"the predictions of {version.name} version {version.version}"
    path = f"{_artifact_folder(verdict)}/{_PREDICTIONS}"
    uri = f"runs:/{version.run_id}/{path}"
    data = artifacts.download_file(client, str(version.run_id), path, label)
    if data is None:
        raise UserError(
            f"{label} are gone ({uri}); evaluate it again with `dvc repro -s -f evaluate`"
        )
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != verdict.predictions_sha256:
        raise UserError(
            f"{label} were altered: expected sha256 {verdict.predictions_sha256}, found {sha256} "
            f"at {uri}"
        )
    return data


def load_verified(
    client: MlflowClient, version: ModelVersion, *, compare_files: bool = True
) -> tuple[ModelVerdict, LoadedModel]:
    """Return the verdict on a version and its model, downloaded and compared with the verdict.

    The digests are compared before anything of the files is parsed. `compare_files`: see
    `packaging.load`.

    Raises:
        UserError: The version was never evaluated, or its weights or another of its files were
            altered since. The message contains both digests.
    """
    verdict = get_verdict(version)
    with model_versions.open_version(client, version) as stored:
        for part, expected, actual in (
            ("weights", verdict.sha256, stored.sha256),
            ("files", verdict.files_sha256, stored.files_sha256),
        ):
            if expected != actual:
                raise UserError(
                    f"{stored.label} was altered after its verdict: its {part} were judged with "
                    f"sha256 {expected}, now it is {actual}; nothing may rely on it"
                )
        return verdict, packaging.load(stored, compare_files=compare_files)
