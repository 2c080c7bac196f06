"""Kiln's own step (`components.training.loop.Stepper`), driven from outside and timed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from components.data.format.images import Images
from components.data.format.shards import read_split
from components.data.loading.image_stores import Ahead, Pool, Resident
from components.models import build
from components.params import Recipe
from components.records.splits import Channels
from components.records.training import Network
from components.training.callback import ALONE
from components.training.loop import Run, Stepper, prepare_process
from components.training.plan import describe
from components.training.precision import probe
from components.training.reducer import Totals
from components.training.state import State

CPU = torch.device("cpu")


def join() -> tuple[int, int]:
    """Rank and size of the group, if torchrun started this process; threads are set by the caller."""
    if dist.is_torchelastic_launched() and not dist.is_initialized():
        dist.init_process_group("gloo")
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def fashion(data: str, architecture: str, **augment: Any) -> tuple[Network, Images, Recipe]:
    """The prepared training split."""
    images, manifest = read_split(Path(data) / "train")
    chosen = recipe(architecture, **augment)
    return describe(chosen, manifest, manifest), images, chosen


def noise(architecture: str, side: int, rows: int) -> tuple[Network, Images, Recipe]:
    """Random RGB images of ten classes: for speed alone."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (rows, side, side, 3), dtype=torch.uint8, generator=generator).numpy()
    labels = (torch.arange(rows) % 10).numpy()
    channels = Channels(mean=[128.0] * 3, std=[74.0] * 3)
    chosen = recipe(architecture, flip=0.5, crop_padding=4)
    network = Network(
        architecture=architecture, width=None, shape=(side, side, 3), classes=[str(n) for n in range(10)], channels=channels,
        stem=chosen.stem_for(side, side),
    )  # fmt: skip
    return network, Images(pixels, labels, [str(n) for n in range(rows)]), chosen


def recipe(architecture: str, **augment: Any) -> Recipe:
    return Recipe.model_validate(
        {"architecture": architecture, "epochs": 1000, "learning_rate": 0.01, "augment": augment or {"flip": 0.5}}
    )


def make_stepper(
    network: Network, images: Images | Pool, recipe: Recipe, batch: int, parts: int, *,
    fixed: bool = False, device: torch.device = CPU,
) -> Stepper:  # fmt: skip
    """As `loop.train` makes it, in the precision that its probe chooses."""
    pool = Resident(images, device) if isinstance(images, Images) else images
    run = Run(network, pool, pool, recipe, batch, parts, seed=0, device=device, around=ALONE)
    prepare_process(device)
    torch.manual_seed(0)
    model = build(network).to(device).to(memory_format=torch.channels_last)
    first = torch.arange(batch // parts)
    chosen = probe(model, pool.take(first), pool.labels[first].to(device)).precision
    stepper = Stepper(run, State(model, recipe, -(-len(images) // batch), chosen))
    if fixed:
        stepper.ahead = Fixed(pool)
    return stepper


def endless(stepper: Stepper) -> Iterator[Totals]:
    """Step after step, epoch after epoch."""
    while True:
        yield from stepper.epoch()
        stepper.state.step = 0


def seconds_per_step(steps: Iterator[Totals], count: int) -> float:
    start = time.perf_counter()
    for _ in itertools.islice(steps, count):
        pass
    return (time.perf_counter() - start) / count


class Fixed(Ahead):
    """Always the same images, taken beforehand: what loading costs is the difference (without augmentation, both)."""

    def take(self, key: Hashable, rows: Tensor) -> Tensor:  # noqa: ARG002 (whatever is asked for)
        self.made: dict[int, Tensor] = getattr(self, "made", {})
        if len(rows) not in self.made:
            self.made[len(rows)] = self.pool.take(torch.arange(len(rows)))
        return self.made[len(rows)]
