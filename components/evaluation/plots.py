"""The figure of one model's evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from components.data.format.images import Images
from components.evaluation.metrics import ECE_BINS, Metrics
from components.figures import label_fonts, show_image

# With more classes, their names would overlap.
_MAX_LABELLED_CLASSES = 25
# Grid of the most confident mistakes.
_ROWS = 3
_COLUMNS = 6


def plot_report(
    title: str,
    classes: list[str],
    metrics: Metrics,
    probability: np.ndarray,
    images: Images,
    path: Path,
) -> None:
    """Write a PNG: confusion, recall and precision per class, calibration, confident mistakes.

    Args:
        title: heading of the figure.
        classes: names of the classes.
        metrics: metrics of the model on the split.
        probability: predicted probabilities, `float (N, K)`.
        images: the images of the split, in the same order.
        path: file to write.
    """
    with label_fonts(classes) as labels:
        figure = Figure(figsize=(14, 10), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title)
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.15, 1])[0]
        upper, lower = left.subplots(2, 1, height_ratios=[1.6, 1])
        _plot_confusion(upper, labels, metrics)
        _plot_per_class(lower, labels, metrics)
        top, bottom = right.subfigures(2, 1, squeeze=False, height_ratios=[1, 1.15])[:, 0]
        _plot_calibration(top.subplots(), probability, images.labels, metrics.scalars["ece"])
        _plot_mistakes(bottom, labels, probability, images)
        figure.savefig(path, dpi=90, metadata={"Software": None})


def _plot_confusion(axis: Axes, classes: list[str], metrics: Metrics) -> None:
    share = metrics.confusion / np.maximum(metrics.support, 1)[:, None]
    # On a linear scale the diagonal would hide the mistakes. The square root makes small shares
    # visible.
    axis.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if len(classes) <= _MAX_LABELLED_CLASSES:
        for row, column in np.argwhere(metrics.confusion):
            axis.text(
                column,
                row,
                str(metrics.confusion[row, column]),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share[row, column] > 0.4 else "black",
            )
        axis.set_xticks(range(len(classes)), classes, rotation=35, ha="right", fontsize=8)
        axis.set_yticks(range(len(classes)), classes, fontsize=8)
    axis.set_xlabel("predicted")
    axis.set_ylabel("actual")
    axis.set_title("confusion (images)", fontsize=10)


def _plot_per_class(axis: Axes, classes: list[str], metrics: Metrics) -> None:
    x = np.arange(len(classes))
    axis.bar(x - 0.2, metrics.recall, 0.4, label="recall")
    axis.bar(x + 0.2, metrics.precision, 0.4, label="precision")
    lowest = min(metrics.recall.min(), metrics.precision.min())
    axis.set_ylim(max(0.0, np.floor(10 * lowest - 1) / 10), 1)
    if len(classes) <= _MAX_LABELLED_CLASSES:
        axis.set_xticks(x, classes, rotation=35, ha="right", fontsize=8)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    axis.set_title("per class (the axis need not begin at 0)", fontsize=10, loc="left")


def _plot_calibration(axis: Axes, probability: np.ndarray, labels: np.ndarray, ece: float) -> None:
    confidence = probability.max(axis=1)
    correct = probability.argmax(axis=1) == labels
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    counts = np.bincount(bins, minlength=ECE_BINS)
    filled = counts > 0
    accuracy = np.bincount(bins, correct, ECE_BINS)[filled] / counts[filled]
    centres = (np.arange(ECE_BINS)[filled] + 0.5) / ECE_BINS
    # A bar is pale when few images fall into its bin.
    for centre, share, count in zip(centres, accuracy, counts[filled], strict=True):
        axis.bar(
            centre,
            share,
            0.9 / ECE_BINS,
            color="C0",
            alpha=0.15 + 0.85 * min(1.0, count / (0.01 * len(labels))),
        )
    axis.plot([0, 1], [0, 1], "k--", linewidth=1, label="perfectly calibrated")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_xlabel("confidence")
    axis.set_ylabel("share that is right")
    axis.legend(fontsize=8, loc="upper left")
    axis.set_title(f"calibration, ECE {ece:.3f} (pale: fewer than 1 % of the images)", fontsize=10)


def _plot_mistakes(
    figure: Figure, classes: list[str], probability: np.ndarray, images: Images
) -> None:
    predicted = probability.argmax(axis=1)
    confidence = probability.max(axis=1)
    wrong = np.flatnonzero(predicted != images.labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][: _ROWS * _COLUMNS]
    figure.suptitle("most confident mistakes: actual, taken for", fontsize=10)
    axes = list(figure.subplots(_ROWS, _COLUMNS).flat)
    for axis in axes:
        axis.set_axis_off()
    for axis, index in zip(axes, worst, strict=False):
        show_image(axis, images.pixels[index])
        actual = classes[images.labels[index]]
        axis.set_title(f"{actual}\n{classes[predicted[index]]} {confidence[index]:.2f}", fontsize=7)
