"""Settings that must not change the result: CUDA graphs, micro-batches, the place of the images."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_run.right.resumptions import compare_resumed
from benchmarks.gpu_run.right.setup import Setup
from benchmarks.gpu_run.right.trials import ADAMW, MIXING, MUON_CLIPPED, RMSPROP
from components.data.format.shards import write_split
from components.data.loading.image_stores import DiskImages
from components.training.cuda_graphs import GraphedFunction


def check_cuda_graphs(setup: Setup) -> None:
    """Compare a training with CUDA graphs with one without them."""
    if setup.needs_cuda("graphs"):
        return
    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("cnn", "bf16", {}),
        ("resnet20", "bf16", MUON_CLIPPED),
        ("resnet20", "fp32", MUON_CLIPPED),
        ("resnet20", "bf16", MIXING),
        ("resnet20", "fp16", {"clip_gradient_norm": 0.5}),
        ("resnet18", "bf16", {}),
        ("cnn", "bf16", ADAMW),
        ("cnn", "bf16", RMSPROP),
    ]
    for name, precision, recipe in cases:
        for micro_batches in (1, 2):
            with setup.results.attempt(f"graphs {name} {precision} {sorted(recipe)}"):
                trial = setup.trial(name, recipe=recipe, micro_batches=micro_batches)
                graphs = trial.train(setup.device, precision, cuda_graphs=True)
                eager = trial.train(setup.device, precision, cuda_graphs=False)
                setup.add_equality(
                    "graphs",
                    trial,
                    (graphs, eager),
                    network=name,
                    precision=precision,
                    recipe=sorted(recipe),
                    micro_batches=micro_batches,
                )


def check_graph_fallback(setup: Setup) -> None:
    """A function that cannot be captured goes on as it is, and the next can be captured."""
    name = "graph fallback"
    if setup.needs_cuda(name):
        return
    with setup.results.attempt(name):
        values = torch.arange(4.0, device=setup.device)

        def waits(factor: int, x: Tensor) -> Tensor:
            return x * factor * float(x.sum())  # reads a number from the device

        def runs(factor: int, x: Tensor) -> Tensor:
            return torch.nn.functional.dropout(x * factor, 0.5)

        waiting = GraphedFunction(waits, setup.device)
        running = GraphedFunction(runs, setup.device)
        right = all(torch.equal(waiting(values, constants=(2,)), values * 12) for _ in range(6))
        drawn = []
        for _ in range(2):
            for call in range(6):
                torch.cuda.manual_seed(call % 2)
                drawn.append(running(values, constants=(3,)).clone())
        seeded = all(torch.equal(drawn[call % 2], values) for call, values in enumerate(drawn))
        setup.results.add(
            name,
            results_right=right,
            gave_up=not waiting.enabled,
            captured_afterwards=len(running.captured),
            random_numbers_follow_the_seed=seeded,
            ok=right and not waiting.enabled and len(running.captured) == 1 and seeded,
        )


def check_micro_batches(setup: Setup) -> None:
    """Train on four micro-batches twice, and once more with an interruption."""
    for name in setup.names("cnn", "resnet18"):
        with setup.results.attempt(f"micro-batches {name}"):
            trial = setup.trial(name, micro_batches=4)
            first = compare_resumed(setup, "micro-batches resumed", trial, "bf16", network=name)
            second = trial.train(setup.device, "bf16")
            setup.add_equality("micro-batches repeated", trial, (first, second), network=name)


def check_disk(setup: Setup) -> None:
    """Compare images that are read from disk with images in memory."""
    trial = setup.trial("resnet20", recipe=MIXING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = trial.make_images(trial.rows)
        write_split(folder / "train", "train", images, trial.network.classes, 64)
        store = DiskImages(folder / "train", folder / "cache", setup.device, lambda: None)
        from_disk = trial.train(setup.device, "bf16", store=store)
        in_memory = trial.train(setup.device, "bf16")
        setup.add_equality("images from disk", trial, (from_disk, in_memory))
