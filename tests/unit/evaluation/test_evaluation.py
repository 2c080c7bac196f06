"""Metrics against a slow reference, gates at their bounds, predictions, figures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from components.errors import UserError
from components.evaluation.gates import check_gates
from components.evaluation.metrics import ECE_BINS, compute_metrics, compute_probabilities
from components.evaluation.plots import plot_report
from components.evaluation.predict import (
    list_batch_starts,
    predict_batches,
    predict_split,
    require_compatible,
)
from components.models.architectures import build
from components.params import Gates
from components.records.splits import Manifest
from tests.conftest import make_images
from tests.unit.models.test_models import make_network

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(501, 10)).astype(np.float32) * 2
LABELS = np.where(RANDOM.random(501) < 0.6, LOGITS.argmax(1), RANDOM.integers(0, 10, 501))
PROBABILITY = compute_probabilities(LOGITS)


def test_probabilities_are_a_softmax_even_of_large_logits() -> None:
    assert np.allclose(PROBABILITY.sum(1), 1)
    assert np.allclose(PROBABILITY, torch.softmax(torch.from_numpy(LOGITS).double(), 1).numpy())
    assert compute_probabilities(np.array([[1e4, 0.0]], np.float32)).tolist() == [[1.0, 0.0]]


def test_metrics_equal_a_slow_reference() -> None:
    metrics = compute_metrics(PROBABILITY, LABELS, top_k=5)
    predicted = [int(row.argmax()) for row in PROBABILITY]
    hits = [p == y for p, y in zip(predicted, LABELS, strict=True)]
    assert metrics.scalars["top1"] == sum(hits) / 501
    in_top5 = [y in np.argsort(-row)[:5] for row, y in zip(PROBABILITY, LABELS, strict=True)]
    assert metrics.scalars["top5"] == pytest.approx(sum(in_top5) / 501)
    assert metrics.scalars["nll"] == pytest.approx(
        -sum(math.log(row[y]) for row, y in zip(PROBABILITY, LABELS, strict=True)) / 501
    )
    recall, f1 = [], []
    for k in range(10):
        true = sum(p == y == k for p, y in zip(predicted, LABELS, strict=True))
        recall.append(true / max(1, sum(k == LABELS)))
        precision = true / max(1, predicted.count(k))
        f1.append(2 * precision * recall[k] / max(1e-9, precision + recall[k]))
        assert metrics.confusion[k, k] == true
    assert metrics.scalars["min_class_recall"] == pytest.approx(min(recall))
    assert metrics.scalars["macro_f1"] == pytest.approx(sum(f1) / 10)
    assert metrics.confusion.sum() == 501
    gap = 0.0
    confidence = PROBABILITY.max(1)
    for n in range(ECE_BINS):
        inside = [i for i in range(501) if n / ECE_BINS < confidence[i] <= (n + 1) / ECE_BINS]
        gap += abs(sum(hits[i] for i in inside) - sum(confidence[i] for i in inside)) / 501
    assert metrics.scalars["ece"] == pytest.approx(gap, abs=1e-5)


def test_class_without_examples_is_left_out_of_the_minimum_recall() -> None:
    labels = np.where(LABELS == 9, 0, LABELS)
    metrics = compute_metrics(PROBABILITY, labels, top_k=5)
    assert metrics.support[9] == 0
    assert metrics.scalars["min_class_recall"] == metrics.recall[:9].min()


def test_top_k_is_at_most_the_number_of_classes() -> None:
    three_classes = PROBABILITY[:, :3] / PROBABILITY[:, :3].sum(1, keepdims=True)
    assert compute_metrics(three_classes, LABELS % 3, top_k=5).scalars["top3"] == 1.0


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
    results = check_gates(Gates(**gates), {"top1": 0.9, "min_class_recall": 0.7, "ece": 0.05})
    assert len(results) == len(gates)
    assert all(r.passed for r in results) == passed


def test_nan_passes_no_gate() -> None:
    nan = float("nan")
    with pytest.raises(ValueError, match="finite"):  # a verdict cannot contain it
        check_gates(Gates(min_top1=0.1), {"top1": nan, "min_class_recall": nan, "ece": nan})


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_predictions_do_not_depend_on_the_division_into_processes(workers: int) -> None:
    torch.manual_seed(0)
    module = build(make_network("resnet20", channels=1, size=12, width=8)).eval()
    pixels = make_images(103).pixels
    starts = list_batch_starts(103, 10)
    reference, seconds = predict_batches(module, pixels, 10, starts)
    assert seconds > 0
    assert sum(len(batch) for batch in reference) == 103
    assert np.array_equal(predict_split(module, pixels, 10)[0], np.concatenate(reference))
    for worker in range(workers):
        batches, _ = predict_batches(module, pixels, 10, starts[worker::workers])
        for batch, expected in zip(batches, reference[worker::workers], strict=True):
            assert np.array_equal(batch, expected)


def test_model_for_other_images_or_classes_is_refused() -> None:
    network = make_network(channels=1, size=12)
    split = Manifest(
        split="test",
        origin={},
        shape=network.shape,
        rows=0,
        classes=network.classes,
        class_counts=[0] * 10,
        shards=[],
    )
    require_compatible("m", network, split)
    with pytest.raises(UserError, match=r"m was trained for 10 classes and images \(12, 12, 1\)"):
        require_compatible("m", network, split.model_copy(update={"shape": (12, 12, 3)}))
    with pytest.raises(UserError, match="the test split has 10 and"):
        require_compatible("m", network, split.model_copy(update={"classes": list("abcdefghij")}))


@pytest.mark.parametrize("channels", [1, 3])
def test_figure_is_a_reproducible_png(tmp_path: Path, channels: int) -> None:
    images = make_images(501, classes=10, size=20, channels=channels)
    for name in ("one.png", "two.png"):
        plot_report(
            "title",
            [str(n) for n in range(10)],
            compute_metrics(PROBABILITY, LABELS, 5),
            PROBABILITY,
            images,
            tmp_path / name,
        )
    data = (tmp_path / "one.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert data == (tmp_path / "two.png").read_bytes()


def test_figure_without_mistakes_is_written(tmp_path: Path) -> None:
    images = make_images(12)
    perfect = np.eye(3)[images.labels]
    plot_report(
        "title",
        ["a", "b", "c"],
        compute_metrics(perfect, images.labels, 5),
        perfect,
        images,
        tmp_path / "figure.png",
    )
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
