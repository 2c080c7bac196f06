"""The evidence on a version: what its verdict says, recomputed as far as that can be done here.

The verdict and the predictions are written by the training identity, which could forge them. The
evidence that a promotion relies on is therefore computed again: the predictions from the stored
weights where the test split is at hand, the metrics from the predictions, and the gates from the
metrics and the promoter's own `params.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from components.console import ProgressBar
from components.data.format.shards import MANIFEST, read_manifest, read_split
from components.errors import UserError
from components.evaluation.gates import check_gates
from components.evaluation.metrics import compute_metrics, compute_probabilities
from components.evaluation.predict import predict_split, require_compatible
from components.evaluation.predictions import (
    Predictions,
    decode_predictions,
    encode_predictions,
)
from components.params import Params
from components.records.evaluation import GateResult, ModelVerdict
from components.registry import verdicts
from components.registry.packaging import LoadedModel

# Processors of different kinds round differently. A probability of another model differs by more.
PROBABILITY_TOLERANCE = 1e-3
# Another order of sums in numpy or torch.
METRIC_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Evidence:
    """A verdict, checked, and the predictions, metrics and gates that a promotion relies on.

    `predictions` is a Parquet file (`components.evaluation.predictions`). `gates` are those of the
    verdict and of the promoter's `params.yaml`. `recomputed` is true if the predictions were made
    here from the stored weights, and false if they are those that were stored with the verdict.
    `reproduced` is `LoadedModel.reproduced`.
    """

    verdict: ModelVerdict
    predictions: bytes
    metrics: dict[str, float]
    gates: list[GateResult]
    recomputed: bool
    reproduced: bool

    @property
    def predicted(self) -> tuple[ModelVerdict, bytes]:
        """The verdict and the predictions, as a comparison takes them."""
        return self.verdict, self.predictions

    def describe_origin(self) -> str:
        """Return where the predictions come from, for display."""
        origin = (
            "computed here from the weights" if self.recomputed else "of the evaluating identity"
        )
        return origin if self.reproduced else f"{origin}; MLflow files not compared"


def collect(client: MlflowClient, version: ModelVersion, params: Params, test: Path) -> Evidence:
    """Verify a version and its verdict, and recompute the evidence as far as possible.

    Args:
        client: Client of the store.
        version: The version.
        params: The parameters; `promote.recompute` says whether the test split must be at hand.
        test: Folder of a test split. It is used if it is the one that the verdict names.

    Raises:
        UserError: The version was never evaluated or was altered since; its predictions or metrics
            are not those of its weights; or `promote.recompute` is `require` and something cannot
            be computed here. No override covers this.
    """
    verdict, loaded = verdicts.load_verified(client, version)
    label = f"{version.name} version {version.version}"
    stored = verdicts.download_predictions(client, version)
    if recomputed := read_split_digest(test) == verdict.test_sha256:
        predictions = predict(loaded, label, test, params)
        _require_agreement(label, stored, predictions)
    else:
        predictions = stored
    if params.promote.recompute == "require":
        _require_recomputed(label, verdict, test, recomputed, loaded.reproduced)
    _require_metrics(label, verdict.metrics, _compute_metrics(label, stored, params.evaluate.top_k))
    metrics = _compute_metrics(label, predictions, params.evaluate.top_k)
    gates = {(gate.gate, gate.threshold): gate for gate in verdict.gates}
    gates |= {(g.gate, g.threshold): g for g in check_gates(params.evaluate.gates, metrics)}
    return Evidence(
        verdict, predictions, metrics, list(gates.values()), recomputed, loaded.reproduced
    )


def read_split_digest(test: Path) -> str | None:
    """Return the digest of the split in a folder, None if there is none."""
    return read_manifest(test).sha256 if (test / MANIFEST).exists() else None


def predict(loaded: LoadedModel, label: str, test: Path, params: Params) -> bytes:
    """Return the predictions of a model for the split in a folder, as a Parquet file.

    Raises:
        UserError: The model does not fit the split.
    """
    images, manifest = read_split(test)
    require_compatible(label, loaded.network, manifest)
    with ProgressBar(f"{label} on the test split") as progress:
        logits, _ = predict_split(
            loaded.module, images.pixels, params.evaluate.batch_size, progress.update_count
        )
    return encode_predictions(images.ids, images.labels, compute_probabilities(logits))


def _require_recomputed(
    label: str, verdict: ModelVerdict, test: Path, recomputed: bool, reproduced: bool
) -> None:
    if not recomputed:
        raise UserError(
            f"{label} was judged on the test split {verdict.test_sha256}, in {test} is "
            f"{read_split_digest(test) or 'nothing'}, and promote.recompute is require: have its "
            "split there (`dvc pull`, or `dvc checkout` at its commit) or name its folder with "
            "--test"
        )
    if not reproduced:
        raise UserError(
            f"the files of {label} for MLflow's users were made by another torch or MLflow, and "
            "promote.recompute is require: promote it where requirements.lock of its commit is "
            "installed (`python -m pipelines.trace` names the commit)"
        )


def _require_agreement(label: str, stored: bytes, predictions: bytes) -> None:
    """Raise `UserError` unless stored predictions are the recomputed ones, up to rounding."""
    if stored == predictions:
        return
    actual = decode_predictions(stored)
    expected = decode_predictions(predictions)
    if actual.ids != expected.ids or not np.array_equal(actual.labels, expected.labels):
        raise UserError(
            f"{label} is refused: its predictions are for other examples or labels than those of "
            "the test split that its verdict names; they were forged or mixed up. Find out who "
            "wrote them, and evaluate it again with `dvc repro -s -f evaluate`"
        )
    difference = _largest_difference(actual, expected)
    if not difference <= PROBABILITY_TOLERANCE:
        raise UserError(
            f"{label} is refused: its predictions are not those of its weights, probabilities "
            f"differ by up to {difference:.2g} ({PROBABILITY_TOLERANCE:g} is rounding); they were "
            "forged or mixed up. Find out who wrote them, and evaluate it again with "
            "`dvc repro -s -f evaluate`"
        )


def _largest_difference(actual: Predictions, expected: Predictions) -> float:
    if actual.probability.shape != expected.probability.shape:
        return float("inf")
    return float(np.abs(actual.probability - expected.probability).max())


def _compute_metrics(label: str, predictions: bytes, top_k: int) -> dict[str, float]:
    decoded = decode_predictions(predictions)
    try:
        return compute_metrics(decoded.probability, decoded.labels, top_k).scalars
    except ValueError as error:
        raise UserError(
            f"{label} is refused: its predictions have no metrics ({error}); evaluate it again "
            "with `dvc repro -s -f evaluate`"
        ) from None


def _require_metrics(label: str, verdict: dict[str, float], metrics: dict[str, float]) -> None:
    """Raise `UserError` if a metric of the verdict does not follow from the predictions."""
    for name, value in verdict.items():
        if name in metrics and not abs(value - metrics[name]) <= METRIC_TOLERANCE:
            raise UserError(
                f"{label} is refused: its verdict gives {name} as {value:.4f}, its predictions "
                f"give {metrics[name]:.4f}; it was forged or mixed up. Find out who wrote it, and "
                "evaluate it again with `dvc repro -s -f evaluate`"
            )
