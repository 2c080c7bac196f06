"""The evaluation of one version and the files of the reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from components.evaluation.reports import Evaluation, make_evaluation, write_reports
from components.params import Evaluate
from components.records.evaluation import Verdict
from components.records.receipt import Receipt
from components.records.splits import Manifest
from tests.conftest import make_images

IMAGES = make_images(12, prefix="test")
SPLIT = Manifest(
    split="test",
    origin={},
    shape=(12, 12, 1),
    rows=12,
    classes=["a", "b", "c"],
    class_counts=[4, 4, 4],
    shards=[],
)


def evaluate(model: str) -> Evaluation:
    """Evaluate a model that classifies the first of the 12 images incorrectly."""
    logits = 4 * np.eye(3, dtype=np.float32)[IMAGES.labels]
    logits[0] = [0, 0, 4]
    receipt = Receipt(model=model, name="n", version=7, model_id="m", sha256="a" * 64)
    settings = Evaluate.model_validate({"gates": {"min_top1": 0.9, "min_class_recall": 0.8}})
    return make_evaluation(receipt, "b" * 64, IMAGES, SPLIT, logits, 0.6, settings)


def test_verdict_contains_metrics_and_failed_gates() -> None:
    evaluation = evaluate("cnn")
    assert evaluation.verdict.metrics["top1"] == 11 / 12
    assert [gate.passed for gate in evaluation.verdict.gates] == [True, False]
    assert not evaluation.verdict.passed
    assert evaluation.verdict.test_sha256 == SPLIT.sha256
    assert evaluation.summarize().startswith("cnn (version 7): top-1 91.67%, ECE ")
    assert evaluation.summarize().endswith(
        "50.00 ms per image: FAILED min_class_recall 0.8 (is 0.7500)"
    )


def test_reports_have_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_reports(tmp_path / name, {"cnn": evaluate("cnn")}, IMAGES)
    contents = [
        {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}
        for folder in (tmp_path / "one", tmp_path / "two")
    ]
    assert contents[0] == contents[1]
    assert set(contents[0]) == {
        "metrics.json",
        "verdict.json",
        "per_class.csv",
        "predictions/cnn.parquet",
        "confusion/cnn.csv",
        "figures/cnn.png",
    }
    assert json.loads(contents[0]["metrics.json"])["cnn"]["top1"] == 11 / 12
    assert Verdict.read(tmp_path / "one" / "verdict.json").models["cnn"] == evaluate("cnn").verdict
