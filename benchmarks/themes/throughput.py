"""Images per second of the training loop, for the same network, data, batch, recipe, processes and threads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import data
from benchmarks.contenders.common import Work
from benchmarks.harness import OWN_RAY
from benchmarks.model import Case, Round, Settings, Target, Theme, mean, ratio
from components.data.format.shards import read_manifest

RAY, LOOP = "kiln on ray", "kiln under torchrun"
DDP, LIGHTNING, ACCELERATE, LOADER, TUNED = (
    "torch ddp", "lightning", "accelerate", "ray + dataloader", "torch ddp by hand (bf16, channels-last, resident)",
)  # fmt: skip
# Those of the target on throughput, of which the best counts; plain DDP is shown beside them.
PEERS = (LIGHTNING, ACCELERATE, LOADER)
_WITHIN = 0.002
# Networks that are compared, with their peak learning rates (those of params.yaml).
_PEAKS = {"cnn": 0.2, "resnet20": 0.4}


def theme(settings: Settings) -> Theme:
    """Short: the rate alone. `accuracy` trains to the end."""
    built = build(settings, settings.rows or 10_000, settings.epochs or 3)
    text = "2. at a test accuracy within 0.2 points of the best peer's (too short for that: `make bench NAME=accuracy`)"
    return replace(built, targets=[replace(target, condition=None) for target in built.targets], unmeasured=[text])


def build(settings: Settings, rows: int | None, epochs: int) -> Theme:
    """All contenders on the first `rows` training images, or on all of them."""
    if settings.smoke:
        rows, epochs = 2000, 2
    folder = data.cut(data.prepared(), settings.scratch / "data", rows, 500 if settings.smoke else None)
    suffix = "" if settings.network == "cnn" else f"-{settings.network}"
    images = read_manifest(folder / "train").rows
    work = Work(str(folder), settings.network, epochs, global_batch=256, learning_rate=_PEAKS[settings.network])
    file = work.write(settings.scratch / "work.json")
    return Theme(
        name="throughput" + suffix,
        title=f"Training throughput on Fashion-MNIST, {settings.network}",
        metric="images_per_s",
        unit="images/s",
        cases=[
            Case(RAY, _alone("kiln_ray", file)),
            Case(LOOP, _torchrun("kiln_loop", file, work)),
            Case(DDP, _torchrun("torch_ddp", file, work)),
            Case(LIGHTNING, _alone("lightning_ddp", file), needs=("lightning",)),
            Case(ACCELERATE, _torchrun("accelerate_ddp", file, work), needs=("accelerate",)),
            Case(LOADER, _alone("ray_loader", file), env=OWN_RAY),
            Case(TUNED, [*_torchrun("torch_ddp", file, work), "tuned"]),
        ],
        targets=[
            Target(
                "2", "Kiln on Ray to the best of Lightning, Accelerate and Ray plus DataLoader",
                ratio(RAY, PEERS, "images_per_s"), 2.0, condition=same_accuracy(RAY, PEERS),
            ),
        ],
        conditions=[
            f"network {work.architecture}, {images:,} training images, global batch {work.global_batch}, {epochs} epochs, "
            f"{work.processes} processes of one thread, gloo",
            "SGD with Nesterov momentum 0.9, weight decay 5e-4, warm-up and half cosine to a peak of "
            f"{work.learning_rate:g}, horizontal flip; the round's number is the seed",
            "rate: steps of all epochs but the first, validation and start-up left out",
            "peers: fp32 in torch's default layout, images normalised beforehand and resident as tensors, DataLoader without "
            "worker processes (both cores are busy training), the flip drawn per image and done per batch",
            "Kiln: as `pipelines.train` runs it (precision by its probe, checkpoints, events), on the bare shards",
            "test top-1: the 10,000 test images (500 in a smoke run) in fp32; Kiln's is that of its best epoch on validation",
        ],
    )  # fmt: skip


def same_accuracy(ours: str, peers: Sequence[str]) -> Callable[[Sequence[Round]], tuple[bool, str]]:
    """Ours is no more than 0.2 points below the best of the peers, by the means over rounds."""

    def holds(rounds: Sequence[Round]) -> tuple[bool, str]:
        own, best = mean(rounds, ours, "test_top1"), max(mean(rounds, peer, "test_top1") for peer in peers)
        return own >= best - _WITHIN, f"mean test top-1 {own:.2%}, best peer {best:.2%}"

    return holds


def _alone(module: str, file: Path) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.contenders.{module}", str(file), "{result}", "{round}"]


def _torchrun(module: str, file: Path, work: Work) -> list[str]:
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(work.processes)]
    return [*run, "--module", f"benchmarks.contenders.{module}", str(file), "{result}", "{round}"]
