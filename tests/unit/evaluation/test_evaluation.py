"""Metrics against slow oracles, gates at their bounds, predictions that do not depend on who computed them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from components.evaluation.gates import judge
from components.evaluation.metrics import ECE_BINS, compute, probabilities
from components.evaluation.plots import report_figure
from components.evaluation.predict import batch_starts, predict
from components.models import build
from components.params import Gates
from tests.conftest import make_images
from tests.unit.models.test_models import network

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(501, 10)).astype(np.float32) * 2
LABELS = np.where(RANDOM.random(501) < 0.6, LOGITS.argmax(1), RANDOM.integers(0, 10, 501))
PROBABILITY = probabilities(LOGITS)


def test_probabilities_are_a_softmax_even_of_huge_logits() -> None:
    assert np.allclose(PROBABILITY.sum(1), 1)
    assert np.allclose(PROBABILITY, torch.softmax(torch.from_numpy(LOGITS).double(), 1).numpy())
    assert probabilities(np.array([[1e4, 0.0]], np.float32)).tolist() == [[1.0, 0.0]]


def test_metrics_are_those_of_a_slow_oracle() -> None:
    found = compute(PROBABILITY, LABELS, top_k=5)
    predicted = [int(row.argmax()) for row in PROBABILITY]
    hits = [p == y for p, y in zip(predicted, LABELS, strict=True)]
    assert found.scalars["top1"] == sum(hits) / 501
    in_five = [y in np.argsort(-row)[:5] for row, y in zip(PROBABILITY, LABELS, strict=True)]
    assert found.scalars["top5"] == pytest.approx(sum(in_five) / 501)
    assert found.scalars["nll"] == pytest.approx(
        -sum(math.log(row[y]) for row, y in zip(PROBABILITY, LABELS, strict=True)) / 501
    )
    recall, f1 = [], []
    for k in range(10):
        true = sum(p == y == k for p, y in zip(predicted, LABELS, strict=True))
        recall.append(true / max(1, sum(k == LABELS)))
        precision = true / max(1, predicted.count(k))
        f1.append(2 * precision * recall[k] / max(1e-9, precision + recall[k]))
        assert found.confusion[k, k] == true
    assert found.scalars["min_class_recall"] == pytest.approx(min(recall))
    assert found.scalars["macro_f1"] == pytest.approx(sum(f1) / 10)
    assert found.confusion.sum() == 501
    gap = 0.0
    for n in range(ECE_BINS):
        inside = [i for i in range(501) if n / ECE_BINS < PROBABILITY[i].max() <= (n + 1) / ECE_BINS]
        gap += abs(sum(hits[i] for i in inside) - sum(PROBABILITY[i].max() for i in inside)) / 501
    assert found.scalars["ece"] == pytest.approx(gap, abs=1e-5)


def test_a_class_without_examples_does_not_count_as_a_failure() -> None:
    labels = np.where(LABELS == 9, 0, LABELS)
    found = compute(PROBABILITY, labels, top_k=5)
    assert found.support[9] == 0
    assert found.scalars["min_class_recall"] == found.recall[:9].min()


def test_top_k_is_at_most_the_number_of_classes() -> None:
    assert compute(PROBABILITY[:, :3] / PROBABILITY[:, :3].sum(1, keepdims=True), LABELS % 3, top_k=5).scalars["top3"] == 1.0


@pytest.mark.parametrize(
    ("gates", "passed"),
    [
        ({"min_top1": 0.9}, True),
        ({"min_top1": 0.9001}, False),
        ({"max_ece": 0.05}, True),
        ({"max_ece": 0.0499}, False),
        ({"min_class_recall": 0.7, "max_ece": 1}, True),
        ({"min_class_recall": 0.71, "max_ece": 1}, False),
        ({}, True),
    ],
)
def test_gates_include_their_bound(gates: dict[str, float], passed: bool) -> None:
    results = judge(Gates(**gates), {"top1": 0.9, "min_class_recall": 0.7, "ece": 0.05})
    assert len(results) == len(gates)
    assert all(r.passed for r in results) == passed


def test_not_a_number_passes_no_gate() -> None:
    nan = float("nan")
    with pytest.raises(ValueError, match="finite"):  # it cannot even be written into a verdict
        judge(Gates(min_top1=0.1), {"top1": nan, "min_class_recall": nan, "ece": nan})


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_predictions_do_not_depend_on_how_batches_are_dealt_out(workers: int) -> None:
    torch.manual_seed(0)
    module = build(network("resnet20", channels=1, size=12, width=8)).eval()
    pixels = make_images(103).pixels
    starts = batch_starts(103, 10)
    whole, seconds = predict(module, pixels, 10, starts)
    assert seconds > 0
    assert sum(len(batch) for batch in whole) == 103
    for part in range(workers):
        some, _ = predict(module, pixels, 10, starts[part::workers])
        assert all(np.array_equal(a, b) for a, b in zip(some, whole[part::workers], strict=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_figure_is_a_picture_and_always_the_same(tmp_path: Path, channels: int) -> None:
    images = make_images(501, classes=10, size=20, channels=channels)
    for name in ("one.png", "two.png"):
        report_figure(
            "title", [str(n) for n in range(10)], compute(PROBABILITY, LABELS, 5), PROBABILITY, images, tmp_path / name
        )
    data = (tmp_path / "one.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert data == (tmp_path / "two.png").read_bytes()


def test_a_figure_without_a_single_mistake(tmp_path: Path) -> None:
    images = make_images(12)
    perfect = np.eye(3)[images.labels]
    report_figure("title", ["a", "b", "c"], compute(perfect, images.labels, 5), perfect, images, tmp_path / "p.png")
