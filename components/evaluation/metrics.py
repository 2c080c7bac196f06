"""Classification metrics of one split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import softmax
from sklearn.metrics import (
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)
from torchmetrics.functional.classification import multiclass_calibration_error

ECE_BINS = 15


@dataclass(frozen=True)
class Metrics:
    """Metrics of one model on one split.

    `scalars` maps names to values: `nll` is in nats per image, the others are shares of 1. The
    arrays per class are `(K,)`. `confusion[actual, predicted]` is a number of images.
    """

    scalars: dict[str, float]
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    confusion: np.ndarray


def compute_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the softmax of logits `(N, K)` in float64; each row sums to 1."""
    probability: np.ndarray = softmax(logits.astype(np.float64), axis=1)
    return probability


def compute_metrics(probability: np.ndarray, labels: np.ndarray, top_k: int) -> Metrics:
    """Return the metrics of probabilities `(N, K)` against labels `(N,)`.

    In the name `top{k}`, k is the smaller of `top_k` and the number of classes. Averages over
    classes and `min_class_recall` leave out classes without examples. `ece` is the expected
    calibration error of the most probable class with 15 bins of equal width (arXiv:1706.04599).
    """
    classes = np.arange(probability.shape[1])
    predicted = probability.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=0
    )
    present = support > 0
    k = min(top_k, len(classes))
    scalars = {
        "top1": float((predicted == labels).mean()),
        f"top{k}": _compute_top_k_accuracy(probability, labels, k),
        "macro_precision": float(precision[present].mean()),
        "macro_recall": float(recall[present].mean()),
        "macro_f1": float(f1[present].mean()),
        "min_class_recall": float(recall[present].min()),
        "nll": float(log_loss(labels, probability, labels=classes)),
        "ece": _compute_calibration_error(probability, labels),
    }
    confusion = confusion_matrix(labels, predicted, labels=classes)
    return Metrics(scalars, precision, recall, f1, support, confusion)


def _compute_top_k_accuracy(probability: np.ndarray, labels: np.ndarray, k: int) -> float:
    classes = np.arange(probability.shape[1])
    if k == len(classes):
        return 1.0
    return float(top_k_accuracy_score(labels, probability, k=k, labels=classes))


def _compute_calibration_error(probability: np.ndarray, labels: np.ndarray) -> float:
    error = multiclass_calibration_error(
        torch.from_numpy(probability),
        torch.from_numpy(labels),
        num_classes=probability.shape[1],
        n_bins=ECE_BINS,
        norm="l1",
    )
    return float(error)
