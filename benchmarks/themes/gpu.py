"""Kiln's step on one GPU: ResNet-50 on photographs, small networks on small images."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import machine
from benchmarks.model import Case, Settings, Target, Theme, get_metric, ratio_to_best
from benchmarks.processes import contender_command
from components.errors import UserError


@dataclass(frozen=True)
class StepSize:
    """A network, the side of its images in pixels, and the global batch."""

    architecture: str
    side: int
    batch: int


PHOTOS = StepSize("resnet50", 224, 256)
RESNET18 = StepSize("resnet18", 32, 1024)
CNN = StepSize("cnn", 28, 1024)
IMPLEMENTATIONS = {
    PHOTOS: ("kiln", "shards", "plain"),
    RESNET18: ("kiln", "plain", "graph"),
    CNN: ("kiln", "plain", "graph"),
}
"""The implementations of the step (`contenders.gpu_step`) that run at each size."""


def theme(settings: Settings) -> Theme:
    """Return the theme. Raises `UserError` without a GPU, except in a smoke run on the CPU."""
    has_gpu = bool(machine.gpu_name())
    if not has_gpu and not settings.smoke:
        raise UserError(
            "gpu: no GPU on this machine; with --smoke its cases run on the processor and claim "
            "nothing"
        )
    steps = 2 if settings.smoke else 100
    sizes = ", ".join(
        f"{size.architecture} at {size.side} x {size.side}, batch {size.batch}"
        for size in IMPLEMENTATIONS
    )
    return Theme(
        name="gpu",
        title="Kiln's step on one GPU",
        metric="images_per_s",
        unit="images/s",
        cases=[
            _case(implementation, size, steps, settings.smoke)
            for size, implementations in IMPLEMENTATIONS.items()
            for implementation in implementations
            if has_gpu or implementation != "graph"
        ],
        targets=_targets(),
        conditions=[
            f"{sizes}; {steps} steps after ten",
            "kiln: its own step on random uint8 images, flip and crop, precision by its probe, "
            "deterministic where torch is",
            "kiln from shards: the same through a file of the disk, which is in memory's cache",
            "plain: bf16, channels-last, fused SGD, cuDNN free to choose, one batch made "
            "beforehand; graph: the same captured",
            "tflops: of the network's convolutions and products; busy: the profiler's time of all "
            "kernels to the wall's",
            "horizon, another network and data: airbench has 94 % of CIFAR-10's test images right "
            "after 3.29 s of one A100 (arXiv:2404.00498)",
        ],
        gpu=True,
    )


def _case(implementation: str, size: StepSize, steps: int, smoke: bool) -> Case:
    side = min(size.side, 72) if smoke else size.side
    batch = 4 if smoke else size.batch
    numbers = map(str, (side, batch, steps))
    return Case(
        _case_name(implementation, size),
        contender_command("gpu_step", implementation, size.architecture, *numbers, "{result}"),
    )


def _case_name(implementation: str, size: StepSize) -> str:
    return f"{implementation.replace('shards', 'kiln from shards')}, {size.architecture}"


def _targets() -> list[Target]:
    photos = _case_name("kiln", PHOTOS)
    return [
        Target(
            "13",
            "ResNet-50 at 224, random images: images/s",
            lambda results: get_metric(results, photos, "images_per_s"),
            3500,
        ),
        Target(
            "13",
            "the same from shards",
            ratio_to_best(_case_name("shards", PHOTOS), photos, "images_per_s"),
            0.95,
        ),
        _utilization_target(RESNET18),
        _utilization_target(CNN),
    ]


def _utilization_target(size: StepSize) -> Target:
    case = _case_name("kiln", size)
    return Target(
        "13",
        f"{size.architecture} at {size.side}: share of the time in which the GPU computes",
        lambda results: get_metric(results, case, "busy"),
        0.9,
    )
