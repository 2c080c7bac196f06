"""Versions in the model registry: one per model's bytes, with the evidence on which they were judged."""

from __future__ import annotations

import hashlib
import random
import tempfile
import time
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, RESOURCE_ALREADY_EXISTS, ErrorCode
from torch import nn

from components.errors import UserError
from components.records.evaluation import ModelVerdict
from components.records.registry import Receipt
from components.records.training import Network
from components.registry import packaging
from components.registry.packaging import Loaded
from components.tracking import store

SHA256 = packaging.SHA256
STATUS = "validation_status"
VERDICT = "kiln.verdict"
_ATTEMPTS = 8
_TRAINING = "the training identity"


def find(client: MlflowClient, name: str, sha256: str) -> ModelVersion | None:
    """The version that holds these bytes.

    Should there be several (two registered at once, or the reply to the call that made one was lost and it was made
    again), the lowest number is the one, for everybody and for ever; the others, which nobody can have a receipt of,
    are removed, or lose their digest where a server lets this user remove nothing. One that was judged or has an alias is
    somebody's copy and stays.
    """
    found = sorted(client.search_model_versions(f"name = '{name}' and tags.`{SHA256}` = '{sha256}'"), key=_number)
    held = set(aliases(client, name).values()) if found[1:] else set()
    for spare in found[1:]:
        if STATUS in spare.tags or _number(spare) in held:
            continue
        try:
            client.delete_model_version(name, spare.version)
        except MlflowException as error:
            # Else whoever else registers these bytes has just done so.
            if error.error_code == ErrorCode.Name(PERMISSION_DENIED):
                client.set_model_version_tag(name, spare.version, SHA256, f"spare of version {found[0].version}")
    return found[0] if found else None


def _number(version: ModelVersion) -> int:
    return int(version.version)


def model_id(version: ModelVersion) -> str:
    """The logged model behind a version (its field of that name stays empty in MLflow's SQL store)."""
    return str(version.source).removeprefix("models:/")


def ensure(client: MlflowClient, name: str, description: str | None = None) -> None:
    """Makes the registered model, unless it is there."""
    try:
        client.create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def create(
    client: MlflowClient,
    name: str,
    model: str,
    module: nn.Module,
    network: Network,
    sha256: str,
    run_id: str,
    tags: dict[str, str],
) -> ModelVersion:
    """Stores a model under a training's run, and only when it is there whole makes it a version, unless another process
    has done so meanwhile.

    Raises:
        UserError: what came back from the store is not what went in; no version was made.
    """
    ensure(client, name)
    info = packaging.save(module, network, sha256, model, run_id, client.get_run(run_id).info.experiment_id)
    for attempt in range(1, _ATTEMPTS + 1):
        version = find(client, name, sha256)
        if version is not None:
            return version
        try:
            with store.permitted(f"add a version to {name}", _TRAINING):
                client.create_model_version(
                    name,
                    source=info.model_uri,
                    run_id=run_id,
                    model_id=info.model_id,
                    tags={SHA256: sha256, "kiln.model": model, **tags},
                    await_creation_for=0,
                )
        except MlflowException:
            # Many registrations at once: the store hands out a number twice and refuses the second.
            if attempt == _ATTEMPTS:
                raise
            time.sleep(random.uniform(0, 0.2 * attempt))  # noqa: S311 (to step out of each other's way)
    version = find(client, name, sha256)
    assert version is not None
    return version


def load(receipt: Receipt) -> Loaded:
    """Exactly the version that a receipt names.

    Raises:
        UserError: it is not there, is not the one that the receipt was written for, was altered, or brings code along.
    """
    again = f"register it again with `dvc repro -s -f register@{receipt.model}`"
    try:
        version = get(MlflowClient(), receipt.name, receipt.version)
    except UserError as error:
        raise UserError(f"{error}; {again}") from None
    if model_id(version) != receipt.model_id:
        raise UserError(
            f"{receipt.name} version {receipt.version} is model {model_id(version)} here, the receipt says "
            f"{receipt.model_id}: it is from another registry; {again}"
        )
    loaded = packaging.load(f"models:/{receipt.name}/{receipt.version}")
    if loaded.sha256 != receipt.sha256:
        raise UserError(
            f"{receipt.name} version {receipt.version} does not hold the trained weights: expected sha256 "
            f"{receipt.sha256}, found {loaded.sha256}; it was altered after it was registered"
        )
    return loaded


@store.permitted("write a verdict onto a version", _TRAINING)
def record_verdict(
    client: MlflowClient, receipt: Receipt, verdict: ModelVerdict, predictions: bytes, figures: dict[str, float]
) -> None:
    """Writes an evaluation onto its version and its run; the status last, for it is what others rely on."""
    version = client.get_model_version(receipt.name, str(receipt.version))
    now = int(time.time() * 1000)
    client.log_batch(
        version.run_id,
        metrics=[Metric(f"test_{key}", value, now, 0, model_id=model_id(version)) for key, value in figures.items()],
    )
    folder = _evidence_folder(verdict)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "predictions.parquet"
        path.write_bytes(predictions)
        client.log_artifact(version.run_id, str(path), folder)
    client.log_dict(version.run_id, verdict.model_dump(mode="json"), f"{folder}/verdict.json")
    for key, value in {VERDICT: verdict.model_dump_json(), STATUS: "passed" if verdict.passed else "failed"}.items():
        client.set_model_version_tag(receipt.name, str(receipt.version), key, value)


@store.permitted("write a comparison onto a run", _TRAINING)
def record_comparison(client: MlflowClient, name: str, number: int, figures: dict[str, float]) -> None:
    """Notes on a version's run how it compares with whoever is champion at this moment."""
    version, now = client.get_model_version(name, str(number)), int(time.time() * 1000)
    metrics = [Metric(f"champion_{key}", value, now, 0, model_id=model_id(version)) for key, value in figures.items()]
    client.log_batch(version.run_id, metrics=metrics)


def _evidence_folder(verdict: ModelVerdict) -> str:
    return f"evaluation/version-{verdict.version}-on-{verdict.test_sha256[:16]}"


def verdict_of(version: ModelVersion) -> ModelVerdict:
    """Raises `UserError` when the version was never evaluated."""
    text = version.tags.get(VERDICT)
    if text is None or version.tags.get(STATUS) is None:
        raise UserError(
            f"{version.name} version {version.version} was never evaluated; `dvc repro` evaluates what it registers"
        )
    return ModelVerdict.model_validate_json(text)


def predictions_of(version: ModelVersion) -> bytes:
    """The per-example predictions on which a version was judged. Raises `UserError` if they are gone or altered."""
    verdict = verdict_of(version)
    where = f"runs:/{version.run_id}/{_evidence_folder(verdict)}/predictions.parquet"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            data = Path(download_artifacts(artifact_uri=where, dst_path=scratch)).read_bytes()
        except (MlflowException, OSError) as error:
            raise UserError(
                f"the predictions of {version.name} version {version.version} are gone ({where}: {error}); "
                "evaluate it again with `dvc repro -s -f evaluate`"
            ) from None
    found = hashlib.sha256(data).hexdigest()
    if found != verdict.predictions_sha256:
        raise UserError(
            f"the predictions of {version.name} version {version.version} were altered: expected sha256 "
            f"{verdict.predictions_sha256}, found {found} at {where}"
        )
    return data


def intact(version: ModelVersion) -> tuple[ModelVerdict, Loaded]:
    """The verdict of a version and its model, after fetching its files again and comparing them with those that were judged.

    Raises:
        UserError: it was never evaluated, or was altered since; names both digests.
    """
    verdict = verdict_of(version)
    loaded = packaging.load(f"models:/{version.name}/{version.version}")
    for what, judged, found in (
        ("weights", verdict.sha256, loaded.sha256),
        ("files", verdict.files_sha256, loaded.files_sha256),
    ):
        if judged != found:
            raise UserError(
                f"{version.name} version {version.version} was altered after its verdict: its {what} were judged "
                f"with sha256 {judged}, now it is {found}; nothing may rely on it"
            )
    return verdict, loaded


def get(client: MlflowClient, name: str, number: int) -> ModelVersion:
    """Raises `UserError` when there is no such version, and names those that there are."""
    try:
        with store.permitted(f"read {name}", "those who were given READ"):
            return client.get_model_version(name, str(number))
    except MlflowException:
        there = ", ".join(row["version"] for row in overview(client, name)) or "none"
        raise UserError(f"{name} version {number} is not in this registry; versions there: {there}") from None


def versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Every version, oldest first."""
    return sorted(client.search_model_versions(f"name = '{name}'"), key=_number)


def aliases(client: MlflowClient, name: str) -> dict[str, int]:
    """alias -> version. Raises `UserError` when there is no such registered model."""
    try:
        with store.permitted(f"read {name}", "those who were given READ"):
            return {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()}
    except MlflowException:
        raise UserError(
            f"there is no registered model {name!r} in this registry; `dvc repro` registers what it trains"
        ) from None


def overview(client: MlflowClient, name: str) -> list[dict[str, str]]:
    """Every version of a registered model, oldest first: number, model, status, digest, aliases."""
    found = versions(client, name)
    held = aliases(client, name) if found else {}
    return [
        {
            "version": str(v.version),
            "model": v.tags.get("kiln.model", "?"),
            "status": v.tags.get(STATUS, "not evaluated"),
            "model_id": model_id(v),
            "aliases": ", ".join(alias for alias, number in held.items() if number == _number(v)),
        }
        for v in found
    ]
