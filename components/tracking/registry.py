"""The model registry: one version per model's bytes, loaded without executing anything that came with it."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
import yaml
from mlflow import MlflowClient
from mlflow import pytorch as flavor
from mlflow.artifacts import download_artifacts
from mlflow.entities import Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.types import Schema, TensorSpec
from torch import nn

from components.artifacts import ModelVerdict, Network, Receipt
from components.errors import UserError
from components.models import weights
from components.provenance import LIBRARIES, environment

SHA256 = "kiln.sha256"
STATUS = "validation_status"
VERDICT = "kiln.verdict"
_PARITY = 1e-4


@dataclass(frozen=True)
class Loaded:
    """A version as the registry gave it: the module (uint8 images to logits), its network, the digest of what came."""

    module: nn.Module
    network: Network
    sha256: str


def find(client: MlflowClient, name: str, sha256: str) -> ModelVersion | None:
    """The version that holds these bytes: the first, should a lost reply ever have left two."""
    found = client.search_model_versions(f"name = '{name}' and tags.`{SHA256}` = '{sha256}'")
    return min(found, key=lambda version: int(version.version), default=None)


def model_id(version: ModelVersion) -> str:
    """The logged model behind a version (its field of that name stays empty in MLflow's SQL store)."""
    return str(version.source).removeprefix("models:/")


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
    """Stores a model as pt2 under a training's run, reads it back, and only then makes it a version.

    Raises:
        UserError: what came back from the store is not what went in; no version was made.
    """
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
    # MLflow files the model under the experiment that is set, whatever the run's is.
    mlflow.set_experiment(experiment_id=client.get_run(run_id).info.experiment_id)
    # Two images, for a batch of one would be exported as a constant.
    example = np.zeros((2, *network.shape), np.uint8)
    libraries = environment()
    info = flavor.log_model(
        module.eval(),
        name=model,
        run_id=run_id,
        serialization_format="pt2",
        input_example=example,
        signature=ModelSignature(
            Schema([TensorSpec(np.dtype(np.uint8), (-1, *network.shape))]),
            Schema([TensorSpec(np.dtype(np.float32), (-1, len(network.classes)))]),
        ),
        pip_requirements=[
            f"{lib}=={libraries[f'version.{lib}'].split('+')[0]}" for lib in LIBRARIES if lib in ("mlflow", "torch", "numpy")
        ],
        metadata={"kiln.network": network.model_dump_json(), SHA256: sha256},
    )
    _check_parity(info.model_uri, module, network, sha256)
    return client.create_model_version(
        name,
        source=info.model_uri,
        run_id=run_id,
        model_id=info.model_id,
        tags={SHA256: sha256, "kiln.model": model, **tags},
        await_creation_for=0,
    )


def _check_parity(model_uri: str, module: nn.Module, network: Network, sha256: str) -> None:
    stored = _load(model_uri)
    images = torch.randint(0, 256, (3, *network.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = module(images), stored.module(images)
    if stored.sha256 != sha256 or not torch.allclose(expected, found, rtol=_PARITY, atol=_PARITY):
        raise UserError(
            f"{model_uri} does not hold what was stored there: expected sha256 {sha256}, found {stored.sha256}, "
            f"logits differ by {(expected - found).abs().max():.2g}; no version was made, run `dvc repro` again"
        )


def load(receipt: Receipt) -> Loaded:
    """Exactly the version that a receipt names.

    Raises:
        UserError: it is not there, is not the one that the receipt was written for, was altered, or brings code along.
    """
    again = f"register it again with `dvc repro -s -f register@{receipt.model}`"
    try:
        version = _version(MlflowClient(), receipt.name, receipt.version)
    except UserError as error:
        raise UserError(f"{error}; {again}") from None
    if model_id(version) != receipt.model_id:
        raise UserError(
            f"{receipt.name} version {receipt.version} is model {model_id(version)} here, the receipt says "
            f"{receipt.model_id}: it is from another registry; {again}"
        )
    loaded = _load(f"models:/{receipt.name}/{receipt.version}")
    if loaded.sha256 != receipt.sha256:
        raise UserError(
            f"{receipt.name} version {receipt.version} does not hold the trained weights: expected sha256 "
            f"{receipt.sha256}, found {loaded.sha256}; it was altered after it was registered"
        )
    return loaded


def _load(model_uri: str) -> Loaded:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(download_artifacts(artifact_uri=model_uri, dst_path=folder))
        _refuse_code(model_uri, path)
        metadata = yaml.safe_load((path / "MLmodel").read_text())["metadata"]
        network = Network.model_validate_json(metadata["kiln.network"])
        try:
            module = flavor.load_model(str(path))
        except MlflowException as error:
            raise UserError(f"{model_uri} is refused: {error}") from None
    return Loaded(module, network, weights.sha256(network, dict(module.state_dict())))


def _refuse_code(model_uri: str, path: Path) -> None:
    """A model's `code/` would be put on the import path, and its `loader_module` imported (both before any check)."""
    described: dict[str, Any] = yaml.safe_load((path / "MLmodel").read_text())
    flavors = described.get("flavors", {})
    reasons = [
        *(f"its flavor {name} brings code" for name, facts in flavors.items() if facts.get("code")),
        *(["it has a folder code/"] if (path / "code").exists() else []),
        *(
            f"its flavor {name} is loaded by {facts['loader_module']}"
            for name, facts in flavors.items()
            if facts.get("loader_module", flavor.__name__) != flavor.__name__
        ),
        *(
            ["it is not stored as pt2 by Kiln"]
            if "pytorch" not in flavors or "metadata" not in described or "kiln.network" not in described["metadata"]
            else []
        ),
    ]
    if reasons:
        raise UserError(f"{model_uri} is refused before it is loaded: {'; '.join(reasons)}")


def record_verdict(client: MlflowClient, receipt: Receipt, verdict: ModelVerdict, figures: dict[str, float]) -> None:
    """Writes an evaluation onto its version and its run; the status last, for it is what others rely on."""
    version = client.get_model_version(receipt.name, str(receipt.version))
    now = int(time.time() * 1000)
    client.log_batch(
        version.run_id,
        metrics=[Metric(f"test_{key}", value, now, 0, model_id=model_id(version)) for key, value in figures.items()],
    )
    client.log_dict(version.run_id, verdict.model_dump(mode="json"), f"evaluation/version-{receipt.version}/verdict.json")
    for key, value in {VERDICT: verdict.model_dump_json(), STATUS: "passed" if verdict.passed else "failed"}.items():
        client.set_model_version_tag(receipt.name, str(receipt.version), key, value)


def require_passed(client: MlflowClient, name: str, number: int) -> ModelVersion:
    """The version, if its verdict passed and its bytes are still those that were judged.

    Raises:
        UserError: it is not so; says what is known of the version and what to do.
    """
    version = _version(client, name, number)
    text, status = version.tags.get(VERDICT), version.tags.get(STATUS)
    if text is None or status is None:
        raise UserError(f"{name} version {number} was never evaluated; `dvc repro` evaluates what it registers")
    verdict = ModelVerdict.model_validate_json(text)
    if not verdict.passed or status != "passed":
        gates = "; ".join(f"{g.gate} is {g.threshold:g}, found {g.value:.4f}" for g in verdict.gates if not g.passed)
        raise UserError(
            f"{name} version {number} failed its validation ({gates or f'{STATUS} is {status}'}); it is not promoted"
        )
    found = _load(f"models:/{name}/{number}").sha256
    if found != verdict.sha256:
        raise UserError(
            f"{name} version {number} was altered after its verdict: judged sha256 {verdict.sha256}, found {found}; "
            "it is not promoted"
        )
    return version


def promote(client: MlflowClient, version: ModelVersion, alias: str, reason: str) -> str | None:
    """Moves `alias` to `version` and notes why on it. Returns the version that had it before."""
    before: str | None = client.get_registered_model(version.name).aliases.get(alias)
    client.set_registered_model_alias(version.name, alias, version.version)
    client.set_model_version_tag(version.name, version.version, f"kiln.promoted.{alias}", reason)
    return before


def overview(client: MlflowClient, name: str) -> list[dict[str, str]]:
    """Every version of a registered model, oldest first: number, model, status, digest, aliases."""
    try:
        aliases = client.get_registered_model(name).aliases
    except MlflowException:
        return []
    versions = sorted(client.search_model_versions(f"name = '{name}'"), key=lambda v: int(v.version))
    return [
        {
            "version": str(v.version),
            "model": v.tags.get("kiln.model", "?"),
            "status": v.tags.get(STATUS, "not evaluated"),
            "sha256": v.tags.get(SHA256, ""),
            "model_id": model_id(v),
            "aliases": ", ".join(alias for alias, number in aliases.items() if str(number) == str(v.version)),
        }
        for v in versions
    ]


def _version(client: MlflowClient, name: str, number: int) -> ModelVersion:
    try:
        return client.get_model_version(name, str(number))
    except MlflowException:
        there = ", ".join(row["version"] for row in overview(client, name)) or "none"
        raise UserError(f"{name} version {number} is not in this registry; versions there: {there}") from None
