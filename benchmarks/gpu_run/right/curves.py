"""Curves of the loss, beside those of fp32 on the CPU."""

from __future__ import annotations

import torch

from benchmarks.gpu_run.right.setup import Setup, allow_tf32
from benchmarks.gpu_run.right.trials import CPU, Trial

TOLERANCES = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 3e-2, "fp16": 3e-2}
"""Largest relative difference of a step's loss to fp32 on the CPU."""
FP16_SCALE = 1024.0
CURVES = {"cnn": (24, 0.02), "resnet20": (24, 0.002), "resnet18": (6, 0.02)}
"""Steps and learning rate of each network.

Rates are so low that the training does not amplify rounding. Initial weights that differ by a
relative 1e-7 change no loss of ResNet-20 by more than a relative 4e-5; at a rate of 0.02 they
change it by up to 2.6e-3. ResNet-18 makes few steps because it has fifty times the operations of
the others, and the CPU is slow.
"""


def check_curves(setup: Setup) -> None:
    """Compare the loss of each step with that of fp32 on the CPU."""
    for name in setup.names(*CURVES):
        steps, rate = CURVES[name]
        trial = setup.trial(
            name, steps=steps, epochs=1, recipe={"learning_rate": rate, "warmup_epochs": 0}
        )
        with setup.results.attempt(f"curve {name}"):
            expected, _ = compute_step_losses(trial, CPU, "fp32")
            for precision in TOLERANCES:
                with setup.results.attempt(f"curve {name} {precision}"):
                    _compare_curve(setup, name, trial, precision, expected)


def _compare_curve(
    setup: Setup, name: str, trial: Trial, precision: str, expected: list[float]
) -> None:
    with allow_tf32(precision == "tf32"):
        losses, scale = compute_step_losses(
            trial, setup.device, "fp32" if precision == "tf32" else precision
        )
    differences = [abs(a - b) / b for a, b in zip(losses, expected, strict=True)]
    worst = max(differences)
    setup.results.add(
        "curve",
        network=name,
        precision=precision,
        steps=len(losses),
        first_loss=expected[0],
        last_loss=expected[-1],
        max_relative_difference=worst,
        first_relative_difference=differences[0],
        worst_step=differences.index(worst) + 1,
        scale=scale,
        tolerance=TOLERANCES[precision],
        ok=worst <= TOLERANCES[precision],
    )


def compute_step_losses(
    trial: Trial, device: torch.device, precision: str
) -> tuple[list[float], float]:
    """Train one epoch; return the mean loss of each step, and the last scale of the gradient."""
    stepper = trial.make_stepper(device, precision)
    scaler = stepper.state.scaler
    if scaler.is_enabled():
        # With the initial scale of 65536 fp16 may overflow, and the scaler skip the first steps.
        scaler.load_state_dict(scaler.state_dict() | {"scale": FP16_SCALE})
    totals = list(stepper.train_epoch())
    sizes = [min(trial.batch, trial.rows - n * trial.batch) for n in range(trial.steps)]
    losses = [float(t.loss) / size for t, size in zip(totals, sizes, strict=True)]
    return losses, scaler.get_scale()
