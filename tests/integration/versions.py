"""Register and evaluate small versions without training, for tests of the registry."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import torch
from mlflow import MlflowClient

from components.data.format.images import Images
from components.data.format.shards import read_manifest, write_split
from components.evaluation.metrics import compute_metrics
from components.evaluation.predictions import decode_predictions, encode_predictions
from components.models import weights
from components.models.architectures import build
from components.params import load_params
from components.records.evaluation import GateResult, ModelVerdict
from components.records.receipt import Receipt
from components.records.splits import Channels, Manifest
from components.records.training import Network
from components.registry import evidence, model_versions, verdicts
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
    metrics: dict[str, float] | None = None,
) -> ModelVerdict:
    """Return a verdict with one gate on the files that a version has now."""
    metrics = metrics or {"top1": 0.9, "nll": 0.1}
    value = metrics["top1"] if passed else 0.1
    gate = GateResult(gate="min_top1", threshold=0.001, value=value, passed=passed)
    return ModelVerdict(
        name=receipt.name,
        version=receipt.version,
        sha256=receipt.sha256,
        files_sha256=model_versions.load(MlflowClient(), receipt).files_sha256,
        test_sha256=split,
        predictions_sha256=hashlib.sha256(predictions).hexdigest(),
        passed=passed,
        metrics=metrics,
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
    record_predictions(client, receipt, predictions, passed, split)


def record_predictions(
    client: MlflowClient,
    receipt: Receipt,
    predictions: bytes,
    passed: bool = True,
    split: str = "t" * 64,
) -> None:
    """Record an evaluation with the metrics that follow from a file of predictions."""
    decoded = decode_predictions(predictions)
    metrics = compute_metrics(decoded.probability, decoded.labels, 5).scalars
    verdict = make_verdict(receipt, passed, predictions, split, metrics)
    verdicts.record_verdict(client, receipt, verdict, predictions, verdict.metrics)


def write_test_split(
    client: MlflowClient, receipt: Receipt, folder: Path, wrong: int = 0, seed: int = 0
) -> Manifest:
    """Write a split of 2,000 images of which a version classifies all but `wrong` correctly."""
    pixels = np.random.default_rng(seed).integers(0, 256, (EXAMPLES, *NETWORK.shape), np.uint8)
    module = model_versions.load(client, receipt, compare_files=False).module
    with torch.inference_mode():
        labels = module(torch.from_numpy(pixels)).argmax(1).numpy()
    labels[:wrong] = (labels[:wrong] + 1) % 3
    shutil.rmtree(folder, ignore_errors=True)
    images = Images(pixels, labels, [f"test/{n}" for n in range(EXAMPLES)])
    return write_split(folder, "test", images, NETWORK.classes, shard_mb=1)


def evaluate_honestly(client: MlflowClient, receipt: Receipt, test: Path) -> bytes:
    """Record the evaluation of a version on a test split, and return its predictions."""
    loaded = model_versions.load(client, receipt, compare_files=False)
    predictions = evidence.predict(loaded, "version", test, load_params())
    record_predictions(client, receipt, predictions, split=read_manifest(test).sha256)
    return predictions


def files_of_version(client: MlflowClient, receipt: Receipt) -> Path:
    """Return the folder in which the embedded store keeps a version's files."""
    location = client.get_logged_model(receipt.model_id).artifact_location
    return Path(location.removeprefix("file://"))
