"""Sections `register`, `evaluate` and `promote`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from components.params.base import Section, Share, Whole


class Register(Section):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,254}$")]
    """Registered model: one per task, of which each trained model is a version."""


class Gates(Section):
    """Floors and ceilings on the test split that a version must meet to be promoted; null switches one off."""

    min_top1: Share | None = None
    """Least share of images whose most probable class is right."""
    min_class_recall: Share | None = None
    """Least recall of the worst class."""
    max_ece: Share | None = None
    """Largest expected calibration error (15 equal bins, arXiv:1706.04599)."""


class Evaluate(Section):
    num_workers: Annotated[Whole, Field(ge=1, le=4096)] = 1
    """Processes that share the test split, in turns if they are more than the cores; the metrics do not depend on it."""
    batch_size: Annotated[Whole, Field(ge=2, le=65_536)] = 500
    """Images per forward pass."""
    top_k: Annotated[Whole, Field(ge=2)] = 5
    """k of the top-k accuracy."""
    gates: Gates = Gates()
    """What a version must meet."""


class Promote(Section):
    alias: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")] = "champion"
    """The alias that `promote` moves unless told otherwise, and whose holder a candidate must not be worse than."""
    metric: Annotated[str, StringConstraints(min_length=1)] = "top1"
    """What `promote --best` goes by, of those in `reports/metrics.json`; of `nll` and `ece` less is better."""
    max_regression: Share = 0.005
    """Top-1 that may be lost: a candidate passes if even the low end of the paired 95 % interval does not lose more."""
