"""The precision probe beside all four combinations of precision and layout: `DATA ARCHITECTURE ROUNDS RESULT`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contenders.common import report
from benchmarks.contenders.stepping import CPU, fashion, join, leave
from components.models import build
from components.training.collectives import sum_over_ranks
from components.training.loop import prepare_process
from components.training.precision import autocast, cosine, probe

_BATCH = 256
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
# Kiln keeps every model in this one; what it probes is the precision.
KILNS = "channels-last"


def main() -> None:
    data, architecture, rounds, result = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    torch.set_num_threads(1)
    rank, world = join()
    prepare_process(CPU)
    network, images, _ = fashion(data, architecture)
    rows = torch.arange(_BATCH // world) + rank * _BATCH // world
    pixels, labels = torch.from_numpy(images.pixels)[rows], torch.from_numpy(images.labels)[rows]
    torch.manual_seed(0)
    model = build(network).train()
    best: dict[tuple[str, str], float] = {}
    gradients: dict[tuple[str, str], list[Tensor]] = {}
    for _ in range(rounds + 1):  # the first also makes the kernels
        for layout, memory_format in LAYOUTS.items():
            model = model.to(memory_format=memory_format)
            for precision in ("fp32", "bf16"):
                key = (precision, layout)
                start = time.perf_counter()
                gradients[key] = gradient(model, pixels, labels, precision, memory_format)
                best[key] = min(best.get(key, float("inf")), time.perf_counter() - start)
    model = build(network).to(memory_format=torch.channels_last)
    start = time.perf_counter()
    chosen = probe(model, pixels, labels)
    probe_s = time.perf_counter() - start
    times = sum_over_ranks(torch.tensor(list(best.values()), dtype=torch.float64)) / world
    seconds = dict(zip(best, times.tolist(), strict=True))
    picked = (chosen.precision, KILNS)
    if rank == 0:
        values = {"images_per_s": _BATCH / world / seconds[picked], "best_to_picked": min(seconds.values()) / seconds[picked]}
        values["cosine"] = cosine(gradients[picked], gradients["fp32", "contiguous"])
        each = {f"{precision} {layout} s": value for (precision, layout), value in seconds.items()}
        report(result, {**values, "probe_s": probe_s, **each}, [f"picked {' '.join(picked)}"])
    leave()


def gradient(model: nn.Module, pixels: Tensor, labels: Tensor, precision: str, layout: torch.memory_format) -> list[Tensor]:
    """Of one batch, by parameter. The images are laid out like the weights."""
    model.zero_grad(set_to_none=True)
    images = pixels.permute(0, 3, 1, 2).contiguous(memory_format=layout).permute(0, 2, 3, 1)
    with autocast(CPU, precision):
        logits = model(images)
    F.cross_entropy(logits.float(), labels).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


if __name__ == "__main__":
    main()
