"""fp32 or bfloat16, decided by a short measurement rather than by hope."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.artifacts import write_bytes
from components.training.collectives import sum_over_ranks

# bfloat16 has to be this much faster to be chosen, so that noise cannot change the choice of a borderline network,
FASTER = 1.2
# and its gradient has to point the same way: the cosine to that of fp32, over all parameters.
AGREES = 0.97
_ROUNDS = 4


@dataclass(frozen=True)
class Probe:
    """What was measured: `speedup` of bfloat16 over fp32 (summed over ranks), `cosine` of the gradients (least over ranks)."""

    precision: str
    speedup: float
    cosine: float


def autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.float16 if precision == "fp16" else torch.bfloat16, enabled=precision != "fp32")


def probe(model: nn.Module, images: Tensor, labels: Tensor) -> Probe:
    """Times forward and backward of one real batch in both precisions, alternating, on a copy of `model`; all ranks agree.

    Called by every rank, at the same time, so that each is measured while the others load the machine as in training.
    """
    trial = copy.deepcopy(model).train()
    best = {"fp32": float("inf"), "bf16": float("inf")}
    gradients = {}
    for _ in range(_ROUNDS):
        for precision in best:
            start = time.perf_counter()
            gradients[precision] = _gradient(trial, images, labels, precision)
            best[precision] = min(best[precision], time.perf_counter() - start)
    cosine = F.cosine_similarity(gradients["fp32"], gradients["bf16"], dim=0).item()
    disagree = 0.0 if cosine >= AGREES else 1.0  # NaN disagrees
    total = sum_over_ranks(torch.tensor([best["fp32"], best["bf16"], disagree], dtype=torch.float64, device=images.device))
    speedup = float(total[0] / total[1])
    return Probe("bf16" if speedup >= FASTER and not total[2] else "fp32", speedup, cosine)


def _gradient(model: nn.Module, images: Tensor, labels: Tensor, precision: str) -> Tensor:
    model.zero_grad(set_to_none=True)
    with autocast(images.device, precision):
        logits = model(images)
    F.cross_entropy(logits.float(), labels).backward()
    return torch.cat([p.grad.detach().reshape(-1).double() for p in model.parameters() if p.grad is not None]).cpu()


def situation(*facts: object) -> str:
    """Digest of what the probe's choice may depend on: the network, its batches, the machine, torch."""
    return hashlib.sha256(json.dumps([*facts, torch.__version__]).encode()).hexdigest()


def recall(memory: Path, situation: str) -> str:
    """What an earlier probe chose in this situation (network, batch, machine, libraries), else `auto`.

    A stopwatch must not decide whether the same commit gives the same model: on one machine the first answer stands.
    Deleting the file asks again.
    """
    return _choices(memory).get(situation, "auto")


def remember(memory: Path, situation: str, precision: str) -> None:
    write_bytes(memory, json.dumps({**_choices(memory), situation: precision}, indent=2, sort_keys=True).encode())


def _choices(memory: Path) -> dict[str, str]:
    try:
        choices: dict[str, str] = json.loads(memory.read_bytes())
        return choices
    except (FileNotFoundError, ValueError):
        return {}
