"""Trainings that must end with a message: a loss that is not finite, too little memory."""

from __future__ import annotations

import re
from typing import Any

import torch

from benchmarks.gpu_run.right.recorder import Recorder
from benchmarks.gpu_run.right.setup import Setup
from benchmarks.gpu_run.right.trials import Spec, Trial
from components.errors import UserError

HUGE_BATCH = 8000
"""In fp32 the activations of ResNet-50 at 32 x 32 with its CIFAR stem take more than 200 GB, and
none of them has 2^31 elements, for which some kernels have no code."""


def check_divergence(setup: Setup) -> None:
    """Train with a huge learning rate: it ends with a message, and no bad checkpoint."""
    for name, precision, every_step in (
        ("cnn", "bf16", True),
        ("cnn", "bf16", False),
        ("resnet20", "fp32", False),
        ("resnet20", "fp16", True),
    ):
        with setup.results.attempt(f"not finite {name} {precision}"):
            trial = setup.trial(name, recipe={"learning_rate": 1e30, "warmup_epochs": 0})
            recorder = Recorder(every_step=every_step)
            message = ""
            try:
                trial.train(setup.device, precision, callback=recorder)
            except UserError as error:
                message = str(error)
            states = recorder.checkpoints
            bad_steps = [step for step, state in states.items() if not _is_finite(state)]
            named = re.search(r"epoch \d+, step \d+ of \d+", message) is not None
            setup.results.add(
                "not finite",
                network=name,
                precision=precision,
                message=message[:300],
                checkpoints=sorted(states),
                checkpoints_not_finite=bad_steps,
                ok=named and not bad_steps,
            )


def _is_finite(state: dict[str, Any]) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in state["model"].values())


def check_out_of_memory(setup: Setup) -> None:
    """Train on a batch that cannot fit, then on a small one in the same process."""
    if setup.needs_cuda("out of memory"):
        return
    allocated = torch.cuda.memory_allocated(setup.device)
    trial = Trial(Spec("resnet50", 32, 1), batch=HUGE_BATCH, steps=2, epochs=1)
    with setup.results.attempt("out of memory"):
        setup.results.add("out of memory", **_train_out_of_memory(trial, setup.device))
    with setup.results.attempt("after out of memory"):
        small = setup.trial("resnet18")
        pair = (small.train(setup.device, "bf16"), small.train(setup.device, "bf16"))
        setup.add_equality(
            "after out of memory",
            small,
            pair,
            allocated_before_gb=allocated / 1e9,
            allocated_after_gb=torch.cuda.memory_allocated(setup.device) / 1e9,
        )


def _train_out_of_memory(trial: Trial, device: torch.device) -> dict[str, Any]:
    """Return the error of a training whose batch cannot fit, and whether it helps the user."""
    message = ""
    kind = "none"
    try:
        trial.train(device, "fp32")
    # An error that is not translated, among them torch.OutOfMemoryError, is a RuntimeError.
    except (UserError, RuntimeError) as error:
        message = str(error)
        kind = type(error).__name__
    named = "micro_batch_size" in message and str(trial.batch) in message.replace(",", "")
    return {"error_type": kind, "message": message[:500], "ok": kind == "UserError" and named}
