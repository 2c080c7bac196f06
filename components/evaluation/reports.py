"""The evaluation of one version, and the reports on all evaluated versions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from components.data.format.images import Images
from components.evaluation.gates import check_gates
from components.evaluation.metrics import Metrics, compute_metrics, compute_probabilities
from components.evaluation.plots import plot_report
from components.evaluation.predictions import decode_predictions, encode_predictions
from components.files import write_bytes
from components.params import Evaluate
from components.records.evaluation import ModelVerdict, Verdict
from components.records.receipt import Receipt
from components.records.splits import Manifest


@dataclass(frozen=True)
class Evaluation:
    """Results of one version on the test split.

    `probability` is `float64 (N, K)`. `predictions` is the content of the predictions file.
    """

    receipt: Receipt
    classes: list[str]
    probability: np.ndarray
    metrics: Metrics
    ms_per_image: float
    predictions: bytes
    verdict: ModelVerdict

    def summarize(self) -> str:
        """Return one line with the main figures and the failed gates."""
        failed = ", ".join(
            f"{gate.gate} {gate.threshold:g} (is {gate.value:.4f})"
            for gate in self.verdict.gates
            if not gate.passed
        )
        scalars = self.metrics.scalars
        return (
            f"{self.receipt.model} (version {self.receipt.version}): "
            f"top-1 {scalars['top1']:.2%}, ECE {scalars['ece']:.3f}, "
            f"{self.ms_per_image:.2f} ms per image: {f'FAILED {failed}' if failed else 'passed'}"
        )


def make_evaluation(
    receipt: Receipt,
    files_sha256: str,
    images: Images,
    split: Manifest,
    logits: np.ndarray,
    seconds: float,
    settings: Evaluate,
) -> Evaluation:
    """Compute metrics, gates, predictions file and verdict of one version from its logits.

    Args:
        receipt: the version.
        files_sha256: digest of all files of the version.
        images: images of the test split.
        split: manifest of the test split.
        logits: logits of the version on `images`, `float32 (N, K)`.
        seconds: time that the version took to compute `logits`.
        settings: section `evaluate` of the parameters.
    """
    predictions = encode_predictions(images.ids, images.labels, compute_probabilities(logits))
    # From the file, so that a reader of the file gets the same metrics.
    probability = decode_predictions(predictions).probability
    metrics = compute_metrics(probability, images.labels, settings.top_k)
    gates = check_gates(settings.gates, metrics.scalars)
    verdict = ModelVerdict(
        name=receipt.name,
        version=receipt.version,
        sha256=receipt.sha256,
        files_sha256=files_sha256,
        test_sha256=split.sha256,
        predictions_sha256=hashlib.sha256(predictions).hexdigest(),
        passed=all(gate.passed for gate in gates),
        metrics=metrics.scalars,
        gates=gates,
    )
    return Evaluation(
        receipt=receipt,
        classes=split.classes,
        probability=probability,
        metrics=metrics,
        ms_per_image=1000 * seconds / len(images),
        predictions=predictions,
        verdict=verdict,
    )


def write_reports(folder: Path, evaluations: dict[str, Evaluation], images: Images) -> None:
    """Write metrics, verdict, predictions, tables and figures into an empty folder.

    The same evaluations give the same bytes.

    Args:
        folder: folder to write into.
        evaluations: evaluation of each model, by the model's name.
        images: images of the test split.
    """
    scalars = {model: evaluation.metrics.scalars for model, evaluation in evaluations.items()}
    write_bytes(folder / "metrics.json", (json.dumps(scalars, indent=2) + "\n").encode())
    verdicts = {model: evaluation.verdict for model, evaluation in evaluations.items()}
    Verdict(models=verdicts).write(folder / "verdict.json")
    (folder / "confusion").mkdir()
    (folder / "figures").mkdir()
    for model, evaluation in evaluations.items():
        write_bytes(folder / "predictions" / f"{model}.parquet", evaluation.predictions)
        table = _make_confusion_table(evaluation, images.labels)
        table.to_csv(folder / "confusion" / f"{model}.csv", index=False)
        top1 = evaluation.metrics.scalars["top1"]
        plot_report(
            f"{model}: top-1 {top1:.2%} on {len(images):,} test images",
            evaluation.classes,
            evaluation.metrics,
            evaluation.probability,
            images,
            folder / "figures" / f"{model}.png",
        )
    per_class = [_make_class_table(model, evaluation) for model, evaluation in evaluations.items()]
    pd.concat(per_class).to_csv(folder / "per_class.csv", index=False)


def _make_confusion_table(evaluation: Evaluation, labels: np.ndarray) -> pd.DataFrame:
    """Return one row per image: the names of its actual and of its predicted class."""
    classes = np.array(evaluation.classes)
    predicted = evaluation.probability.argmax(axis=1)
    return pd.DataFrame({"actual": classes[labels], "predicted": classes[predicted]})


def _make_class_table(model: str, evaluation: Evaluation) -> pd.DataFrame:
    """Return one row per class with its metrics."""
    metrics = evaluation.metrics
    return pd.DataFrame(
        {
            "model": model,
            "class": np.array(evaluation.classes),
            "precision": metrics.precision,
            "recall": metrics.recall,
            "f1": metrics.f1,
            "support": metrics.support,
        }
    )
