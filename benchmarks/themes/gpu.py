"""Kiln's step on one GPU: ResNet-50 on photographs, small networks on small images."""

from __future__ import annotations

import sys

from benchmarks import machine
from benchmarks.model import Case, Settings, Target, Theme, figure, ratio
from components.errors import UserError

# Architecture, side of the image, batch.
PHOTOS, RESNET18, CNN = ("resnet50", 224, 256), ("resnet18", 32, 1024), ("cnn", 28, 1024)


def theme(settings: Settings) -> Theme:
    """Raises `UserError` without a GPU, but for a smoke run, which then takes the processor."""
    there = bool(machine.gpu())
    if not there and not settings.smoke:
        raise UserError("gpu: no GPU on this machine; with --smoke its cases run on the processor and claim nothing")
    steps = 2 if settings.smoke else 100
    works = {PHOTOS: ("kiln", "shards", "plain"), **dict.fromkeys((RESNET18, CNN), ("kiln", "plain", "graph"))}
    cases = []
    for work, ways in works.items():
        architecture, side, batch = work
        small = (architecture, str(min(side, 72)), "4") if settings.smoke else (architecture, str(side), str(batch))
        cases += [
            Case(
                _name(way, architecture),
                [sys.executable, "-m", "benchmarks.contenders.gpu_step", way, *small, str(steps), "{result}"],
            )
            for way in ways
            if there or way != "graph"
        ]
    photos = _name("kiln", PHOTOS[0])
    return Theme(
        name="gpu",
        title="Kiln's step on one GPU",
        metric="images_per_s",
        unit="images/s",
        cases=cases,
        targets=[
            Target("13", "ResNet-50 at 224, random images: images/s", lambda f: figure(f, photos, "images_per_s"), 3500),
            Target("13", "the same from shards", ratio(_name("shards", PHOTOS[0]), photos, "images_per_s"), 0.95),
            *(_saturated(*work) for work in (RESNET18, CNN)),
        ],
        conditions=[
            f"{', '.join(f'{a} at {s} x {s}, batch {b}' for a, s, b in works)}; {steps} steps after ten",
            "kiln: its own step on random uint8 images, flip and crop, precision by its probe, deterministic where torch is",
            "kiln from shards: the same through a file of the disk, which is in memory's cache",
            "plain: bf16, channels-last, fused SGD, cuDNN free to choose, one batch made beforehand; graph: the same captured",
            "tflops: of the network's convolutions and products; busy: the profiler's time of all kernels to the wall's",
            "horizon, another network and data: airbench has 94 % of CIFAR-10's test images right after 3.29 s of one A100 "
            "(arXiv:2404.00498)",
        ],
        gpu=True,
    )  # fmt: skip


def _name(way: str, architecture: str) -> str:
    return f"{way.replace('shards', 'kiln from shards')}, {architecture}"


def _saturated(architecture: str, side: int, _: int) -> Target:
    text = f"{architecture} at {side}: share of the time in which the GPU computes"
    return Target("13", text, lambda f: figure(f, _name("kiln", architecture), "busy"), 0.9)
