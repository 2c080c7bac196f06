"""Implementations of one training step, which all do the same work.

A step takes a random batch of uint8 images that are resident on the device, flips and crops them,
normalises them, and makes one step of SGD with Nesterov momentum in bf16 and channels-last. A
smoke run on the CPU computes in fp32. A step adds the loss to a mean that is read once per turn.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contenders.stepping import iterate_steps, make_stepper
from benchmarks.gpu_run.settings import free_settings, kiln_settings
from benchmarks.gpu_run.workload import (
    LEARNING_RATE,
    MOMENTUM,
    WEIGHT_DECAY,
    MeanLoss,
    Workload,
    build_network,
    build_sgd,
    prepare_network,
)
from components.data.format.shards import write_split
from components.data.loading.image_stores import DiskImages, ImageStore

_TOP_K = (1, 5)

Settings = Callable[[torch.device], AbstractContextManager[None]]


@dataclass
class Implementation:
    """One training step that can be repeated.

    `step` makes one step, and need not wait for the device. `read_loss` returns the mean loss of
    the steps since its last call, and waits for them. Both run within `settings(device)`.
    """

    step: Callable[[], object]
    read_loss: Callable[[], float]
    settings: Settings = free_settings


def build_kiln(
    workload: Workload, *, cuda_graphs: bool = True, store: ImageStore | None = None
) -> Implementation:
    """Kiln's own step."""
    case = workload.case
    stepper = make_stepper(
        workload.network,
        store or workload.store,
        workload.recipe,
        case.batch,
        1,
        device=workload.device,
        precision=workload.precision,
        cuda_graphs=cuda_graphs,
    )
    steps = iterate_steps(stepper)
    losses: list[float] = []

    def read_loss() -> float:
        mean = sum(losses) / max(1, len(losses)) / case.batch
        losses.clear()
        return mean

    return Implementation(lambda: losses.append(next(steps).loss), read_loss, kiln_settings)


def build_kiln_eager(workload: Workload) -> Implementation:
    """Kiln's step without CUDA graphs."""
    return build_kiln(workload, cuda_graphs=False)


def build_kiln_shards(workload: Workload, folder: Path) -> Implementation:
    """Kiln's step on the same images, read from a file that is made from shards in `folder`."""
    write_split(folder / "train", "train", workload.images, workload.network.classes, 64)
    store = DiskImages(folder / "train", folder / "cache", workload.device, lambda: None)
    return build_kiln(workload, store=store)


def build_plain(workload: Workload, model: nn.Module | None = None) -> Implementation:
    """A loop optimised by hand: fused SGD, and no synchronisation."""
    network = model or build_network(workload)
    optimizer = build_sgd(network, fused=True)
    mean = MeanLoss(workload.device)

    def step() -> None:
        images, labels = workload.batches.draw()
        optimizer.zero_grad(set_to_none=True)
        with workload.autocast():
            loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        mean.add(loss)

    return Implementation(step, mean.read)


def build_compiled(workload: Workload) -> Implementation:
    """The plain loop with `torch.compile`.

    `Module.compile` is no alternative: it leaves an `nn.Sequential` as it is in torch 2.11.
    """
    torch.compiler.reset()
    compiled = cast(nn.Module, torch.compile(build_network(workload)))
    return build_plain(workload, compiled)


def build_graph_deterministic(workload: Workload) -> Implementation:
    """The graph with the deterministic algorithms that cuDNN proposes to Kiln."""
    return build_graph(workload, kiln_settings)


def build_graph(workload: Workload, settings: Settings = free_settings) -> Implementation:
    """The plain loop's whole step as one CUDA graph, with drawing and augmentation.

    It is warmed up on a side stream, as https://docs.pytorch.org/docs/stable/notes/cuda.html
    requires.
    """
    plain = build_plain(workload)
    count = 0
    with settings(workload.device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(4):
                plain.step()
        torch.cuda.current_stream().wait_stream(stream)
        plain.read_loss()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            plain.step()

    def step() -> None:
        nonlocal count
        graph.replay()
        count += 1

    def read_loss() -> float:
        nonlocal count
        mean = plain.read_loss() / max(1, count)  # the plain step was counted once, at capture
        count = 0
        return mean

    return Implementation(step, read_loss)


def build_torchvision(workload: Workload) -> Implementation:
    """The step of `train_one_epoch` in torchvision's references/classification/train.py.

    It reads loss and accuracies in every step, as its `MetricLogger` does. It runs in bf16 without
    a gradient scaler, and in channels-last layout.
    """
    network = build_network(workload)
    optimizer = build_sgd(network)
    criterion = nn.CrossEntropyLoss()
    losses: list[float] = []
    accuracies: list[float] = []

    def step() -> None:
        images, labels = workload.batches.draw()
        with workload.autocast():
            output = network(images)
            loss = criterion(output, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        top = _count_correct(output, labels)
        losses.append(loss.item())
        accuracies.extend(value.item() for value in top)

    return Implementation(step, lambda: _take_mean(losses))


def _count_correct(output: Tensor, labels: Tensor) -> list[Tensor]:
    """Return the top-1 and top-5 accuracies in per cent, as `utils.accuracy` there does."""
    with torch.inference_mode():
        _, predicted = output.topk(max(_TOP_K), 1, True, True)
        correct = predicted.t().eq(labels[None])
        return [
            correct[:k].flatten().sum(dtype=torch.float32) * (100.0 / len(labels)) for k in _TOP_K
        ]


def build_timm(workload: Workload) -> Implementation:
    """The step of timm's train.py, with its optimiser and, where it has it, its network.

    It reads the loss in every step (`losses_m.update(loss.item())`), and does not synchronise
    otherwise (`--synchronize-step` is off by default). bf16 needs no scaler.
    """
    from timm.optim import create_optimizer_v2
    from timm.utils import AverageMeter

    network = _build_timm_network(workload)
    optimizer = create_optimizer_v2(
        network, opt="sgd", lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, momentum=MOMENTUM
    )
    criterion = nn.CrossEntropyLoss()
    losses = AverageMeter()

    def step() -> None:
        images, labels = workload.batches.draw()
        images = images.contiguous(memory_format=torch.channels_last)
        with workload.autocast():
            loss = criterion(network(images), labels)
        loss.backward()
        optimizer.step()
        losses.update(loss.item(), len(images))
        optimizer.zero_grad()

    def read_loss() -> float:
        mean = float(losses.avg)
        losses.reset()
        return mean

    return Implementation(step, read_loss)


def _build_timm_network(workload: Workload) -> nn.Module:
    """Build timm's network with Kiln's stem, or Kiln's where timm has none of that name."""
    import timm

    network = workload.network
    if not network.architecture.startswith(("resnet18", "resnet50")):
        return build_network(workload)
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(
        network.architecture, num_classes=len(network.classes), in_chans=network.shape[2]
    )
    if network.stem == "cifar":
        model.conv1 = nn.Conv2d(network.shape[2], 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return prepare_network(model, workload.device)


def _take_mean(losses: list[float]) -> float:
    """Return the mean of a list, and empty it."""
    mean = sum(losses) / max(1, len(losses))
    losses.clear()
    return mean
