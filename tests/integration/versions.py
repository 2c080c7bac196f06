"""Register and evaluate small versions without training, for tests of the registry."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from mlflow import MlflowClient

from components.evaluation.predictions import encode_predictions
from components.models import weights
from components.models.architectures import build
from components.records.evaluation import GateResult, ModelVerdict
from components.records.receipt import Receipt
from components.records.splits import Channels
from components.records.training import Network
from components.registry import model_versions, verdicts
from components.tracking import runs, store

NETWORK = Network(
    architecture="cnn",
    width=8,
    shape=(12, 12, 1),
    classes=["a", "b", "c"],
    channels=Channels(mean=[80.0], std=[60.0]),
)
NAME = "task"
EXAMPLES = 2000


def register_version(
    client: MlflowClient, seed: int, name: str = NAME, network: Network = NETWORK
) -> Receipt:
    """Register the model with this seed as the register stage does, and return its receipt."""
    torch.manual_seed(seed)
    module = build(network)
    digest = weights.sha256(network, module.state_dict())
    version = model_versions.find_by_digest(client, name, digest)
    if version is None:
        experiment_id = store.ensure_experiment(client, name)
        run_id = runs.import_run(client, experiment_id, "cnn", {"seed": seed}, {}, [])
        version = model_versions.create(client, name, "cnn", module, network, digest, run_id, {})
    return Receipt(
        model="cnn",
        name=name,
        version=int(version.version),
        model_id=model_versions.get_model_id(version),
        sha256=digest,
    )


def make_verdict(
    receipt: Receipt,
    passed: bool = True,
    predictions: bytes = b"none",
    split: str = "t" * 64,
    top1: float = 0.9,
) -> ModelVerdict:
    """Return a verdict with one gate on the files that a version has now."""
    gate = GateResult(gate="min_top1", threshold=0.5, value=top1 if passed else 0.1, passed=passed)
    return ModelVerdict(
        name=receipt.name,
        version=receipt.version,
        sha256=receipt.sha256,
        files_sha256=model_versions.load(MlflowClient(), receipt).files_sha256,
        test_sha256=split,
        predictions_sha256=hashlib.sha256(predictions).hexdigest(),
        passed=passed,
        metrics={"top1": top1, "nll": 1 - top1},
        gates=[gate],
    )


def evaluate_version(
    client: MlflowClient,
    receipt: Receipt,
    num_correct: int,
    passed: bool = True,
    split: str = "t" * 64,
) -> None:
    """Record an evaluation in which the first `num_correct` of 2,000 predictions are correct."""
    labels = np.arange(EXAMPLES) % 3
    predicted = np.where(np.arange(EXAMPLES) < num_correct, labels, (labels + 1) % 3)
    ids = [f"test/{n}" for n in range(EXAMPLES)]
    predictions = encode_predictions(ids, labels, np.eye(3)[predicted])
    verdict = make_verdict(receipt, passed, predictions, split, num_correct / EXAMPLES)
    verdicts.record_verdict(client, receipt, verdict, predictions, verdict.metrics)


def files_of_version(client: MlflowClient, receipt: Receipt) -> Path:
    """Return the folder in which the embedded store keeps a version's files."""
    location = client.get_logged_model(receipt.model_id).artifact_location
    return Path(location.removeprefix("file://"))
