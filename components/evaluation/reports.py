"""What an evaluation finds of one version, and the reports on all of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from components.data.format.images import Images
from components.evaluation.gates import judge
from components.evaluation.metrics import Metrics, compute, probabilities
from components.evaluation.plots import report_figure
from components.evaluation.predictions import encode
from components.files import write_bytes
from components.params import Evaluate
from components.records.evaluation import ModelVerdict, Verdict
from components.records.registry import Receipt
from components.records.splits import Manifest


@dataclass(frozen=True)
class Evaluation:
    """One version on the test split. `probability` is `float64 (N, K)`."""

    receipt: Receipt
    classes: list[str]
    probability: np.ndarray
    metrics: Metrics
    ms_per_image: float
    predictions: bytes
    verdict: ModelVerdict

    def summary(self) -> str:
        """One line: the figures, and which gates failed."""
        failed = ", ".join(f"{g.gate} {g.threshold:g} (is {g.value:.4f})" for g in self.verdict.gates if not g.passed)
        scalars = self.metrics.scalars
        return (
            f"{self.receipt.model} (version {self.receipt.version}): top-1 {scalars['top1']:.2%}, ECE {scalars['ece']:.3f}, "
            f"{self.ms_per_image:.2f} ms per image: {f'FAILED {failed}' if failed else 'passed'}"
        )


def assess(
    receipt: Receipt,
    files_sha256: str,
    images: Images,
    split: Manifest,
    logits: np.ndarray,
    seconds: float,
    settings: Evaluate,
) -> Evaluation:
    """Metrics, gates and evidence from a version's logits, `float32 (N, K)`, on `images`, which are those of `split`;
    `seconds` is what computing the logits took."""
    probability = probabilities(logits)
    metrics = compute(probability, images.labels, settings.top_k)
    gates = judge(settings.gates, metrics.scalars)
    predictions = encode(images.ids, images.labels, probability)
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
    return Evaluation(receipt, split.classes, probability, metrics, 1000 * seconds / len(images), predictions, verdict)


def write(folder: Path, evaluations: dict[str, Evaluation], images: Images) -> None:
    """Writes metrics, verdict, predictions, tables and figures of each model; the same bytes for the same evaluations."""
    scalars = {model: done.metrics.scalars for model, done in evaluations.items()}
    write_bytes(folder / "metrics.json", (json.dumps(scalars, indent=2) + "\n").encode())
    Verdict(models={model: done.verdict for model, done in evaluations.items()}).write(folder / "verdict.json")
    (folder / "confusion").mkdir()
    (folder / "figures").mkdir()
    rows = []
    for model, done in evaluations.items():
        write_bytes(folder / "predictions" / f"{model}.parquet", done.predictions)
        names = np.array(done.classes)
        predicted = done.probability.argmax(axis=1)
        pd.DataFrame({"actual": names[images.labels], "predicted": names[predicted]}).to_csv(
            folder / "confusion" / f"{model}.csv", index=False
        )
        report_figure(
            f"{model}: top-1 {done.metrics.scalars['top1']:.2%} on {len(images):,} test images",
            done.classes,
            done.metrics,
            done.probability,
            images,
            folder / "figures" / f"{model}.png",
        )
        m = done.metrics
        rows.append(
            pd.DataFrame(
                {"model": model, "class": names, "precision": m.precision, "recall": m.recall, "f1": m.f1, "support": m.support}
            )
        )
    pd.concat(rows).to_csv(folder / "per_class.csv", index=False)
