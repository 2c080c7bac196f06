"""Verdicts on versions, and comparisons between two of them."""

from __future__ import annotations

from components.records.base import Record


class GateResult(Record):
    """One gate: the value that was measured beside the threshold of `evaluate.gates`."""

    gate: str
    threshold: float
    value: float
    passed: bool


class ModelVerdict(Record):
    """Metrics and gates of one registered version on one test split.

    `sha256` is the digest of the weights, `files_sha256` of all files of the version,
    `test_sha256` of the test split, `predictions_sha256` of the Parquet file with the
    predictions for each example.
    """

    name: str
    version: int
    sha256: str
    files_sha256: str
    test_sha256: str
    predictions_sha256: str
    passed: bool
    metrics: dict[str, float]
    gates: list[GateResult]


class Verdict(Record):
    """`reports/verdict.json`: the verdict of each model of `train.models`."""

    models: dict[str, ModelVerdict]


class Comparison(Record):
    """Paired comparison of two models on the same examples (`components.evaluation.comparison`).

    `gained` and `lost` count the examples that only the candidate or only the champion
    classifies correctly. `low` and `high` bound the difference in top-1 (95 %): a score interval,
    in moves that Kiln 0.1.0 recorded a percentile bootstrap. `rejudged` is true when the
    champion's own verdict is of another test split, so that it was evaluated again on the
    candidate's.
    """

    images: int
    candidate_top1: float
    champion_top1: float
    gained: int
    lost: int
    low: float
    high: float
    p_value: float
    max_regression: float
    passed: bool
    rejudged: bool = False
