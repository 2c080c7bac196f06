"""fp32 or bfloat16, decided by a short measurement rather than by hope."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.training.collectives import rank_and_world, sum_over_ranks

# bfloat16 has to be this much faster to be chosen, so that noise cannot change the choice of a borderline network,
FASTER = 1.2
# and its gradient has to point the same way: the cosine to that of fp32, over all parameters.
AGREES = 0.97
# At most so many rounds, for the best of them, and their seconds together on one rank; the first look takes few images.
_ROUNDS, _BUDGET_S, _FEW = 3, 0.7, 8


@dataclass(frozen=True)
class Probe:
    """What was measured: `speedup` of bfloat16 over fp32, of all ranks; `cosine` of this rank's gradients."""

    precision: str
    speedup: float
    cosine: float


def autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.float16 if precision == "fp16" else torch.bfloat16, enabled=precision != "fp32")


def probe(model: nn.Module, images: Tensor, labels: Tensor) -> Probe:
    """Times forward and backward in both precisions, alternating, on a copy of `model` and as many of a real batch's images
    as most of a second allows; all ranks agree.

    Called by every rank, at the same time, so that each is measured while the others load the machine as in training.
    """
    trial = copy.deepcopy(model).train()
    rows = min(_FEW, len(images))
    for _ in range(2):  # the first also makes the kernels
        best, gradients = _round(trial, images[:rows], labels[:rows])
    rounds, more = _affordable(best, rows)
    left = rounds - 1
    # A GPU may take as long for few images as for many: then the next look allows more than this one did.
    while min(more, len(images)) >= 2 * rows:
        rows = min(more, len(images))
        best, gradients = _round(trial, images[:rows], labels[:rows])
        left = rounds - 1
        rounds, more = _affordable(best, rows)
    for _ in range(max(1, left)):
        seconds, gradients = _round(trial, images[:rows], labels[:rows])
        best = torch.minimum(best, seconds)
    agreement = cosine(*gradients)
    disagree = float(not agreement >= AGREES)  # NaN disagrees
    speedup = float(best[0] / best[1])
    wrong = sum_over_ranks(torch.tensor([disagree], device=images.device))
    return Probe("bf16" if speedup >= FASTER and not wrong.item() else "fp32", speedup, agreement)


def _affordable(seconds: Tensor, rows: int) -> tuple[int, int]:
    """How many rounds, and of how many images, if time goes with their number as in a round of `rows` images."""
    each = float(seconds.sum()) / rank_and_world()[1]
    rounds = min(_ROUNDS, max(1, int(_BUDGET_S / each)))
    return rounds, int(rows * _BUDGET_S / (rounds * each))


def _round(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
    """Seconds in fp32 and in bfloat16, summed over ranks, and this rank's gradients."""
    seconds, gradients = [], []
    for precision in ("fp32", "bf16"):
        model.zero_grad(set_to_none=True)
        settle(images.device)
        start = time.perf_counter()
        with autocast(images.device, precision):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        settle(images.device)
        seconds.append(time.perf_counter() - start)
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    return sum_over_ranks(torch.tensor(seconds, dtype=torch.float64, device=images.device)), gradients


def settle(device: torch.device) -> None:
    """A GPU finishes what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cosine(one: list[Tensor], other: list[Tensor]) -> float:
    """Of the angle between two gradients, over all parameters. By parts: one long vector of each, in float64, takes longer to
    make for a large network than all that is measured."""

    def dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
        return torch.stack([torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in zip(a, b, strict=True)]).double().sum()

    return float(dot(one, other) / (dot(one, one) * dot(other, other)).sqrt())
