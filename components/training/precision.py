"""The choice between fp32 and bfloat16, by a short measurement."""

from __future__ import annotations

import copy
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.training.collectives import get_rank_and_world_size, sum_over_ranks
from components.training.events import PrecisionProbed

MIN_SPEEDUP = 1.2
"""Smallest speedup for which bfloat16 is chosen: noise must not decide for a borderline network."""
MIN_COSINE = 0.97
"""Smallest cosine similarity of the gradients in bfloat16 and fp32, over all parameters."""

_MAX_ROUNDS = 3
_BUDGET_S = 0.7  # for the rounds together, on one rank
_FIRST_BATCH = 8
_MAX_GPU_BATCH = 64
_BF16_CAPABILITY = (8, 0)  # Ampere


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return a context manager that computes in `precision`: `fp32`, `bf16` or `fp16`."""
    return torch.autocast(
        device.type,
        torch.float16 if precision == "fp16" else torch.bfloat16,
        enabled=precision != "fp32",
    )


def probe(model: nn.Module, images: Tensor, labels: Tensor) -> PrecisionProbed:
    """Compare forward and backward in fp32 and bfloat16, and choose one; all ranks choose the same.

    It works on a copy of `model`. Every rank calls this function at the same time, so that the
    ranks load the machine as they do in training.

    On a CPU, bfloat16 has to be faster by `MIN_SPEEDUP`. On a GPU nothing is timed: where the
    tensor cores know bfloat16, they multiply it at twice the rate of TF32 and it halves the memory
    traffic.
    """
    trial = copy.deepcopy(model).train()
    if images.is_cuda:
        faster = torch.cuda.get_device_capability(images.device) >= _BF16_CAPABILITY
        rows = min(_MAX_GPU_BATCH, len(images))
        speedup = None
        _, gradients = _run_round(trial, images[:rows], labels[:rows])
    else:
        speedup, gradients = _measure(trial, images, labels)
        faster = speedup >= MIN_SPEEDUP
    similarity = cosine(*gradients)
    disagrees = float(not similarity >= MIN_COSINE)  # NaN disagrees, too
    num_disagreeing = sum_over_ranks(torch.tensor([disagrees], device=images.device))
    chosen = "bf16" if faster and not num_disagreeing.item() else "fp32"
    return PrecisionProbed(chosen, speedup, similarity)


def _measure(trial: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, list[list[Tensor]]]:
    """Measure on as many of `images` as `_BUDGET_S` allows.

    Returns:
        The speedup by bfloat16, from the fastest of up to `_MAX_ROUNDS` rounds; and this rank's
        gradients in fp32 and in bfloat16.
    """
    rows = min(_FIRST_BATCH, len(images))
    for _ in range(2):  # the first round includes the creation of kernels
        best, gradients = _run_round(trial, images[:rows], labels[:rows])
    rounds, affordable_rows = _plan_rounds(best, rows)
    rounds_left = rounds - 1
    # A round with more images may show that the budget allows still more.
    while min(affordable_rows, len(images)) >= 2 * rows:
        rows = min(affordable_rows, len(images))
        best, gradients = _run_round(trial, images[:rows], labels[:rows])
        rounds_left = rounds - 1
        rounds, affordable_rows = _plan_rounds(best, rows)
    for _ in range(max(1, rounds_left)):
        seconds, gradients = _run_round(trial, images[:rows], labels[:rows])
        best = torch.minimum(best, seconds)
    return float(best[0] / best[1]), gradients


def _plan_rounds(seconds: Tensor, rows: int) -> tuple[int, int]:
    """Return the number of rounds that the budget allows, and of images in each.

    The time of a round is assumed to be proportional to its images. `seconds` are those of a round
    of `rows` images, summed over ranks.
    """
    seconds_per_round = float(seconds.sum()) / get_rank_and_world_size()[1]
    rounds = min(_MAX_ROUNDS, max(1, int(_BUDGET_S / seconds_per_round)))
    return rounds, int(rows * _BUDGET_S / (rounds * seconds_per_round))


def _run_round(
    model: nn.Module, images: Tensor, labels: Tensor
) -> tuple[Tensor, list[list[Tensor]]]:
    """Run forward and backward in fp32 and in bfloat16.

    Returns:
        Seconds in both precisions, `(2,)`, summed over ranks; and this rank's gradients in both.
    """
    seconds = []
    gradients = []
    for precision in ("fp32", "bf16"):
        model.zero_grad(set_to_none=True)
        synchronize(images.device)
        start = time.perf_counter()
        with autocast(images.device, precision):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        synchronize(images.device)
        seconds.append(time.perf_counter() - start)
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    totals = torch.tensor(seconds, dtype=torch.float64, device=images.device)
    return sum_over_ranks(totals), gradients


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its work; return at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cosine(gradients: list[Tensor], others: list[Tensor]) -> float:
    """Return the cosine similarity of two gradients, each given as one tensor per parameter.

    The products are summed per parameter. For a large network, copying each gradient into one long
    float64 vector would take longer than the whole measurement.
    """

    def dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
        products = [torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in zip(a, b, strict=True)]
        return torch.stack(products).double().sum()

    norms = (dot(gradients, gradients) * dot(others, others)).sqrt()
    return float(dot(gradients, others) / norms)
