"""Absolute gates: what a version must reach on the test split, whoever else is in the registry."""

from __future__ import annotations

from components.params import Gates
from components.records.evaluation import GateResult

# Gate -> the metric that it looks at; `min_` gates are floors, `max_` gates ceilings, and both include their bound.
_METRIC = {"min_top1": "top1", "min_class_recall": "min_class_recall", "max_ece": "ece"}


def judge(gates: Gates, scalars: dict[str, float]) -> list[GateResult]:
    """One result for each gate that is switched on. A metric that is not a number passes nothing."""
    results = []
    for gate, threshold in gates.model_dump(exclude_none=True).items():
        value = scalars[_METRIC[gate]]
        passed = value >= threshold if gate.startswith("min_") else value <= threshold
        results.append(GateResult(gate=gate, threshold=threshold, value=value, passed=passed))
    return results
