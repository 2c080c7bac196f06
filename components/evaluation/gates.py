"""Absolute gates: metrics that a version must reach on the test split.

A gate does not depend on the other versions in the registry.
"""

from __future__ import annotations

from components.params import Gates
from components.records.evaluation import GateResult

# Metric of each gate. `min_` gates are lower bounds, `max_` gates upper bounds, both inclusive.
_METRIC = {"min_top1": "top1", "min_class_recall": "min_class_recall", "max_ece": "ece"}


def check_gates(gates: Gates, scalars: dict[str, float]) -> list[GateResult]:
    """Return one result for each gate that is switched on.

    Args:
        gates: thresholds; `None` switches a gate off.
        scalars: metrics by name, as in `Metrics.scalars`.

    Raises:
        ValueError: a metric is NaN or infinite, which a `GateResult` cannot contain.
    """
    results = []
    for gate, threshold in gates.model_dump(exclude_none=True).items():
        value = scalars[_METRIC[gate]]
        passed = value >= threshold if gate.startswith("min_") else value <= threshold
        results.append(GateResult(gate=gate, threshold=threshold, value=value, passed=passed))
    return results
