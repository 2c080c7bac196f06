"""Images per second of the training loop.

Network, data, batch, recipe, processes and threads are the same for every contender.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import data
from benchmarks.contenders.common import Workload
from benchmarks.harness import LOCAL_RAY
from benchmarks.model import (
    Case,
    Condition,
    Round,
    Settings,
    Target,
    Theme,
    mean_metric,
    ratio_to_best,
)
from benchmarks.processes import contender_command, torchrun_command
from components.data.format.shards import read_manifest

RAY = "kiln on ray"
LOOP = "kiln under torchrun"
DDP = "torch ddp"
LIGHTNING = "lightning"
ACCELERATE = "accelerate"
LOADER = "ray + dataloader"
TUNED = "torch ddp by hand (bf16, channels-last, resident)"
PEERS = (LIGHTNING, ACCELERATE, LOADER)
"""The contenders of the throughput target; the best of them counts. Plain DDP is informative."""

_MAX_ACCURACY_LOSS = 0.002
# Peak learning rates of the networks that can be compared, as in params.yaml.
_PEAK_LEARNING_RATES = {"cnn": 0.2, "resnet20": 0.4}


def theme(settings: Settings) -> Theme:
    """Return a short comparison of the rate alone. `accuracy` trains to the end."""
    full = build_theme(settings, settings.rows or 10_000, settings.epochs or 3)
    unmeasured = (
        "2. at a test accuracy within 0.2 points of the best peer's (too short for that: "
        "`make bench NAME=accuracy`)"
    )
    targets = [replace(target, condition=None) for target in full.targets]
    return replace(full, targets=targets, unmeasured=[unmeasured])


def workload_file(settings: Settings) -> Path:
    """Return the file that `build_theme` writes the workload to."""
    return settings.scratch / "workload.json"


def build_theme(settings: Settings, rows: int | None, epochs: int) -> Theme:
    """Return the comparison of all contenders on the first `rows` training images, or on all."""
    if settings.smoke:
        rows = data.SMOKE_TRAIN_ROWS
        epochs = 2
    eval_rows = data.SMOKE_EVAL_ROWS if settings.smoke else None
    splits = data.truncate_splits(data.prepare_splits(), settings.scratch / "data", rows, eval_rows)
    workload = Workload(
        str(splits),
        settings.network,
        epochs,
        global_batch=256,
        learning_rate=_PEAK_LEARNING_RATES[settings.network],
    )
    workload.write(workload_file(settings))
    suffix = "" if settings.network == "cnn" else f"-{settings.network}"
    return Theme(
        name="throughput" + suffix,
        title=f"Training throughput on Fashion-MNIST, {settings.network}",
        metric="images_per_s",
        unit="images/s",
        cases=_cases(workload_file(settings), workload.processes),
        targets=[
            Target(
                "2",
                "Kiln on Ray to the best of Lightning, Accelerate and Ray plus DataLoader",
                ratio_to_best(RAY, PEERS, "images_per_s"),
                2.0,
                condition=as_accurate_as(RAY, PEERS),
            ),
        ],
        conditions=_conditions(workload, read_manifest(splits / "train").rows),
    )


def _cases(workload: Path, processes: int) -> list[Case]:
    arguments = (workload, "{result}", "{round}")

    def torchrun(name: str, *more: str) -> list[str]:
        return torchrun_command(name, *arguments, *more, processes=processes)

    def alone(name: str) -> list[str]:
        return contender_command(name, *arguments)

    return [
        Case(RAY, alone("kiln_ray")),
        Case(LOOP, torchrun("kiln_loop")),
        Case(DDP, torchrun("torch_ddp")),
        Case(LIGHTNING, alone("lightning_ddp"), required_modules=("lightning",)),
        Case(ACCELERATE, torchrun("accelerate_ddp"), required_modules=("accelerate",)),
        Case(LOADER, alone("ray_loader"), env=LOCAL_RAY),
        Case(TUNED, torchrun("torch_ddp", "tuned")),
    ]


def _conditions(workload: Workload, rows: int) -> list[str]:
    return [
        f"network {workload.architecture}, {rows:,} training images, global batch "
        f"{workload.global_batch}, {workload.epochs} epochs, {workload.processes} processes of one "
        "thread, gloo",
        "SGD with Nesterov momentum 0.9, weight decay 5e-4, warm-up and half cosine to a peak of "
        f"{workload.learning_rate:g}, horizontal flip; the round's number is the seed",
        "rate: steps of all epochs but the first, validation and start-up left out",
        "peers: fp32 in torch's default layout, images normalised beforehand and resident as "
        "tensors, DataLoader without worker processes (both cores are busy training), the flip "
        "drawn per image and done per batch",
        "Kiln: as `pipelines.train` runs it (precision by its probe, checkpoints, events), on the "
        "bare shards",
        "test top-1: the 10,000 test images (500 in a smoke run) in fp32; Kiln's is that of its "
        "best epoch on validation",
    ]


def as_accurate_as(case: str, peers: Sequence[str]) -> Condition:
    """Return the condition that a case is at most 0.2 points less accurate than its best peer.

    Accuracies are means over the rounds.
    """

    def holds(rounds: Sequence[Round]) -> tuple[bool, str]:
        top1 = mean_metric(rounds, case, "test_top1")
        best = max(mean_metric(rounds, peer, "test_top1") for peer in peers)
        remark = f"mean test top-1 {top1:.2%}, best peer {best:.2%}"
        return top1 >= best - _MAX_ACCURACY_LOSS, remark

    return holds
