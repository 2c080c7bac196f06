"""Inputs of all checks: results, device and sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu_run.results import Results
from benchmarks.gpu_run.right.differences import describe_differences
from benchmarks.gpu_run.right.trials import CPU, SPECS, Trial
from components.training import loop

if TYPE_CHECKING:
    from benchmarks.gpu_run.right.process_groups import GroupCheck


@dataclass(frozen=True)
class Setup:
    """The results, the device and the sizes of the checks, and the children beside them."""

    results: Results
    device: torch.device
    smoke: bool
    groups: dict[str, GroupCheck] = field(default_factory=dict)

    def trial(self, name: str, **values: Any) -> Trial:
        """Return a trial of `SPECS[name]`; in a smoke run with few small images."""
        spec = SPECS[name]
        sizes: dict[str, Any] = {"batch": 64, "steps": 6}
        if self.smoke:
            spec = replace(spec, side=spec.side // 4)
            values = values | {"batch": 8, "steps": 3, "val_rows": 20}
        return Trial(spec, **(sizes | values))

    def names(self, *names: str) -> list[str]:
        """Return the networks of a check: of a smoke run on the CPU only the first."""
        return list(names[:1] if self.smoke and self.device == CPU else names)

    def needs_cuda(self, name: str) -> bool:
        """Record that a check was skipped and return True if the device is no GPU."""
        if self.device.type != "cuda":
            self.results.add(name, skipped="needs CUDA")
        return self.device.type != "cuda"

    def add_equality(
        self,
        name: str,
        trial: Trial,
        outcomes: tuple[loop.TrainingOutcome, loop.TrainingOutcome],
        **values: Any,
    ) -> bool:
        """Record whether two trainings gave the same weights and history, to the bit."""
        first, second = outcomes
        same_weights = trial.digest(first) == trial.digest(second)
        same_history = first.history == second.history
        ok = same_weights and same_history
        if not ok:
            values |= describe_differences(first.weights, second.weights)
        self.results.add(
            name, **values, same_weights=same_weights, same_history=same_history, tolerance=0, ok=ok
        )
        return ok


@contextmanager
def allow_tf32(allowed: bool) -> Iterator[None]:
    """Allow cuDNN's convolutions to round fp32 to TF32 within the block, or forbid it."""
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=False, allow_tf32=allowed
    ):
        yield
