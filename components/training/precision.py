"""fp32 or bfloat16, decided by a short measurement rather than by hope."""

from __future__ import annotations

import copy
import math
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
# Rounds, for the best of several, and their seconds together on one rank; the first look at the speed takes few images.
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
        seconds, _ = _round(trial, images[:rows], labels[:rows])
    each = float(seconds.sum()) / rank_and_world()[1]
    rows = min(len(images), max(rows, int(rows * _BUDGET_S / (_ROUNDS * each))))
    best = torch.full_like(seconds, math.inf)
    for _ in range(_ROUNDS):
        seconds, gradients = _round(trial, images[:rows], labels[:rows])
        best = torch.minimum(best, seconds)
    cosine = F.cosine_similarity(gradients[0], gradients[1], dim=0).item()
    disagree = float(not cosine >= AGREES)  # NaN disagrees
    speedup = float(best[0] / best[1])
    wrong = sum_over_ranks(torch.tensor([disagree], device=images.device))
    return Probe("bf16" if speedup >= FASTER and not wrong.item() else "fp32", speedup, cosine)


def _round(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Seconds in fp32 and in bfloat16, summed over ranks, and this rank's gradients."""
    seconds, gradients = [], []
    for precision in ("fp32", "bf16"):
        start = time.perf_counter()
        gradients.append(_gradient(model, images, labels, precision))
        seconds.append(time.perf_counter() - start)
    return sum_over_ranks(torch.tensor(seconds, dtype=torch.float64, device=images.device)), gradients


def _gradient(model: nn.Module, images: Tensor, labels: Tensor, precision: str) -> Tensor:
    model.zero_grad(set_to_none=True)
    with autocast(images.device, precision):
        logits = model(images)
    F.cross_entropy(logits.float(), labels).backward()
    return torch.cat([p.grad.detach().reshape(-1).double() for p in model.parameters() if p.grad is not None]).cpu()
