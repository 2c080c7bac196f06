"""Sections `register`, `evaluate` and `promote`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from components.params.base import Fraction, Integer, Section
from components.params.names import require_alias, require_model_name


class Register(Section):
    """Section `register`."""

    name: Annotated[str, AfterValidator(require_model_name)]
    """Registered model. There is one per task; each trained model becomes a version of it. 1 to 245
    of the characters `A-Z a-z 0-9 _ . -`; it does not end with `-history`."""


class Gates(Section):
    """Thresholds on the test split that a version must meet to be promoted; null disables one."""

    min_top1: Fraction | None = None
    """Smallest fraction of images whose most probable class is correct (top-1 accuracy)."""
    min_class_recall: Fraction | None = None
    """Smallest recall of the worst class."""
    max_ece: Fraction | None = None
    """Largest expected calibration error (15 bins of equal width, arXiv:1706.04599)."""


class Evaluate(Section):
    """Section `evaluate`."""

    num_workers: Annotated[Integer, Field(ge=1, le=4096)] = 1
    """Processes that share the test split. They take turns when they outnumber the cores. The
    metrics do not depend on it."""
    batch_size: Annotated[Integer, Field(ge=2, le=65_536)] = 500
    """Images per forward pass."""
    top_k: Annotated[Integer, Field(ge=2)] = 5
    """k of the top-k accuracy."""
    gates: Gates = Gates()
    """Thresholds that a version must meet."""


class Promote(Section):
    """Section `promote`."""

    alias: Annotated[str, AfterValidator(require_alias)] = "champion"
    """Alias that `promote` moves by default. A candidate must not be worse than the version that
    holds it. 1 to 63 of the characters `a-z 0-9 _ -`; neither `latest` nor `v1`, `v2`, ..., which
    MLflow reserves."""
    recompute: Literal["when_possible", "require"] = "when_possible"
    """`promote` computes the predictions, metrics and gates of a version again from its weights if
    the test split is at hand. With `require` it refuses a version whose test split is not."""
    metric: Annotated[str, StringConstraints(min_length=1)] = "top1"
    """Metric of `reports/metrics.json` by which `promote --best` chooses. The lowest value wins for
    `nll` and `ece`, the highest for all others."""
    max_regression: Fraction = 0.005
    """Tolerated loss of top-1 accuracy. A candidate passes if the lower end of the paired 95 %
    interval of the difference is no further below zero. On a small test split, equally good models
    are refused: `promote --dry-run` prints the smallest value that the split can resolve. Set it
    once, to a loss that you accept (docs/explanation/promotion.md)."""
