"""The precision probe and all combinations it could choose: `SPLITS ARCHITECTURE ROUNDS RESULT`.

A combination is a precision and a memory layout. Kiln keeps every model in channels-last and
probes the precision only.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contenders.common import write_result
from benchmarks.contenders.stepping import CPU, join_group, leave_group, load_fashion_mnist
from components.models.architectures import build
from components.records.training import Network
from components.training.collectives import sum_over_ranks
from components.training.precision import autocast, cosine, probe
from components.training.process_settings import prepare_process

Combination = tuple[str, str]
"""Precision and layout."""

LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
_GLOBAL_BATCH = 256


def main() -> None:
    splits, architecture = sys.argv[1:3]
    rounds = int(sys.argv[3])
    result = Path(sys.argv[4])
    torch.set_num_threads(1)
    rank, world = join_group()
    prepare_process(CPU)
    network, images, _ = load_fashion_mnist(splits, architecture, flip=0.5)
    rows = torch.arange(_GLOBAL_BATCH // world) + rank * _GLOBAL_BATCH // world
    pixels = torch.from_numpy(images.pixels)[rows]
    labels = torch.from_numpy(images.labels)[rows]
    torch.manual_seed(0)
    best, gradients = _measure_combinations(network, pixels, labels, rounds)
    model = build(network).to(memory_format=torch.channels_last)
    start = time.perf_counter()
    precision = probe(model, pixels, labels).precision
    probe_s = time.perf_counter() - start
    totals = sum_over_ranks(torch.tensor(list(best.values()), dtype=torch.float64))
    seconds = dict(zip(best, (totals / world).tolist(), strict=True))
    chosen = (precision, "channels-last")
    if rank == 0:
        values = {
            "images_per_s": _GLOBAL_BATCH / world / seconds[chosen],
            "best_to_picked": min(seconds.values()) / seconds[chosen],
            "cosine": cosine(gradients[chosen], gradients["fp32", "contiguous"]),
            "probe_s": probe_s,
        }
        values |= {f"{' '.join(combination)} s": value for combination, value in seconds.items()}
        write_result(result, values, [f"picked {' '.join(chosen)}"])
    leave_group()


def _measure_combinations(
    network: Network, pixels: Tensor, labels: Tensor, rounds: int
) -> tuple[dict[Combination, float], dict[Combination, list[Tensor]]]:
    """Return the shortest time of each combination in seconds, over all rounds, and its gradient.

    There is one more round than `rounds`, because the first includes the creation of kernels.
    """
    model: nn.Module = build(network).train()
    best: dict[Combination, float] = {}
    gradients: dict[Combination, list[Tensor]] = {}
    for _ in range(rounds + 1):
        for layout, memory_format in LAYOUTS.items():
            model = model.to(memory_format=memory_format)
            for precision in ("fp32", "bf16"):
                key = (precision, layout)
                start = time.perf_counter()
                gradients[key] = compute_gradient(model, pixels, labels, precision, memory_format)
                best[key] = min(best.get(key, float("inf")), time.perf_counter() - start)
    return best, gradients


def compute_gradient(
    model: nn.Module, pixels: Tensor, labels: Tensor, precision: str, layout: torch.memory_format
) -> list[Tensor]:
    """Return the gradient of one batch, by parameter. The images get the layout of the weights."""
    model.zero_grad(set_to_none=True)
    images = pixels.permute(0, 3, 1, 2).contiguous(memory_format=layout).permute(0, 2, 3, 1)
    with autocast(CPU, precision):
        logits = model(images)
    F.cross_entropy(logits.float(), labels).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


if __name__ == "__main__":
    main()
