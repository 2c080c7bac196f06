"""Small versions in a store of their own, made, judged and looked into without training anything."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.evaluation.predictions import encode
from components.models import build, weights
from components.records.evaluation import GateResult, ModelVerdict
from components.records.registry import Receipt
from components.records.splits import Channels
from components.records.training import Network
from components.registry import model_versions
from components.tracking import runs, store

NETWORK = Network(
    architecture="cnn", width=8, shape=(12, 12, 1), classes=["a", "b", "c"], channels=Channels(mean=[80.0], std=[60.0])
)
NAME = "task"
EXAMPLES = 2000


def make(client: Any, seed: int, name: str = NAME, network: Network = NETWORK) -> Receipt:
    """Registers the model of that seed, as the register stage does."""
    torch.manual_seed(seed)
    module = build(network)
    digest = weights.sha256(network, module.state_dict())
    version = model_versions.find(client, name, digest)
    if version is None:
        run_id = runs.import_run(client, store.experiment(client, name), "cnn", {"seed": seed}, {}, [])
        version = model_versions.create(client, name, "cnn", module, network, digest, run_id, {})
    return Receipt(
        model="cnn", name=name, version=int(version.version), model_id=model_versions.model_id(version), sha256=digest
    )


def verdict(
    receipt: Receipt, passed: bool = True, predictions: bytes = b"none", split: str = "t" * 64, top1: float = 0.9
) -> ModelVerdict:
    gate = GateResult(gate="min_top1", threshold=0.5, value=top1 if passed else 0.1, passed=passed)
    return ModelVerdict(
        name=receipt.name,
        version=receipt.version,
        sha256=receipt.sha256,
        files_sha256=model_versions.load(receipt).files_sha256,
        test_sha256=split,
        predictions_sha256=hashlib.sha256(predictions).hexdigest(),
        passed=passed,
        metrics={"top1": top1, "nll": 1 - top1},
        gates=[gate],
    )


def judge(client: Any, receipt: Receipt, right: int, passed: bool = True, split: str = "t" * 64) -> None:
    """Evaluates a version as one that has the first `right` of 2,000 examples right."""
    labels = np.arange(EXAMPLES) % 3
    predicted = np.where(np.arange(EXAMPLES) < right, labels, (labels + 1) % 3)
    data = encode([f"test/{n}" for n in range(EXAMPLES)], labels, np.eye(3)[predicted])
    found = verdict(receipt, passed, data, split, right / EXAMPLES)
    model_versions.record_verdict(client, receipt, found, data, found.metrics)


def folder(client: Any, receipt: Receipt) -> Path:
    """Where the embedded store keeps the version's files."""
    return Path(client.get_logged_model(receipt.model_id).artifact_location.removeprefix("file://"))
