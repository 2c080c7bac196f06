"""Classification metrics of one split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import softmax
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support, top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_calibration_error

ECE_BINS = 15


@dataclass(frozen=True)
class Metrics:
    """`scalars`: shares of 1, `nll` in nats per image. Per-class arrays are `(K,)`; `confusion[actual, predicted]` counts."""

    scalars: dict[str, float]
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    confusion: np.ndarray


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax in float64, `(N, K)`; each row sums to 1."""
    shares: np.ndarray = softmax(logits.astype(np.float64), axis=1)
    return shares


def compute(probability: np.ndarray, labels: np.ndarray, top_k: int) -> Metrics:
    """Metrics of probabilities `(N, K)` against labels `(N,)`.

    `top{k}` takes the smaller of `top_k` and the number of classes. Classes without an example are left out of
    `macro_f1` and `min_class_recall`. `ece` is the expected calibration error of the most probable class over 15 equal
    bins (arXiv:1706.04599).
    """
    classes = np.arange(probability.shape[1])
    predicted = probability.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    present = support > 0
    k = min(top_k, len(classes))
    scalars = {
        "top1": float((predicted == labels).mean()),
        f"top{k}": 1.0 if k == len(classes) else float(top_k_accuracy_score(labels, probability, k=k, labels=classes)),
        "macro_precision": float(precision[present].mean()),
        "macro_recall": float(recall[present].mean()),
        "macro_f1": float(f1[present].mean()),
        "min_class_recall": float(recall[present].min()),
        "nll": float(log_loss(labels, probability, labels=classes)),
        "ece": float(
            multiclass_calibration_error(
                torch.from_numpy(probability), torch.from_numpy(labels), num_classes=len(classes), n_bins=ECE_BINS, norm="l1"
            )
        ),
    }
    return Metrics(scalars, precision, recall, f1, support, confusion_matrix(labels, predicted, labels=classes))
