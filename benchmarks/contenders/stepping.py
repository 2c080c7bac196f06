"""Kiln's own optimiser step (`components.training.stepper.Stepper`), run and timed from outside."""

from __future__ import annotations

import itertools
import time
from collections.abc import Hashable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from components.data.format.images import Images
from components.data.format.shards import read_split
from components.data.loading.image_stores import ImageStore, InMemoryImages, Prefetcher
from components.models.architectures import build
from components.models.stems import choose_stem
from components.params import Recipe
from components.records.splits import Channels
from components.records.training import Network
from components.training.config import LoopConfig
from components.training.plan import describe_network
from components.training.precision import probe
from components.training.process_settings import prepare_process
from components.training.state import TrainState
from components.training.stepper import Stepper
from components.training.totals import Totals

CPU = torch.device("cpu")


def join_group() -> tuple[int, int]:
    """Join the process group if torchrun started this process; return rank and world size."""
    if not dist.is_torchelastic_launched():
        return 0, 1
    dist.init_process_group("gloo")
    return dist.get_rank(), dist.get_world_size()


def leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def load_fashion_mnist(
    folder: str, architecture: str, *, flip: float, crop_padding: int = 0
) -> tuple[Network, Images, Recipe]:
    """Load the prepared training split, with a network and a recipe for it."""
    images, manifest = read_split(Path(folder) / "train")
    recipe = make_recipe(architecture, flip, crop_padding)
    return describe_network(recipe, manifest, manifest), images, recipe


def make_random_images(
    architecture: str, side: int, rows: int, *, channels: int = 3, crop_padding: int = 4
) -> tuple[Network, Images, Recipe]:
    """Make random images of ten classes, with a network and a recipe for them."""
    generator = torch.Generator().manual_seed(0)
    shape = (rows, side, side, channels)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator).numpy()
    labels = (torch.arange(rows) % 10).numpy()
    recipe = make_recipe(architecture, flip=0.5, crop_padding=crop_padding)
    network = Network(
        architecture=architecture,
        width=None,
        shape=(side, side, channels),
        classes=[str(n) for n in range(10)],
        channels=Channels(mean=[128.0] * channels, std=[74.0] * channels),
        stem=choose_stem(architecture, recipe.stem, side, side),
    )
    return network, Images(pixels, labels, [str(n) for n in range(rows)]), recipe


def make_recipe(architecture: str, flip: float, crop_padding: int) -> Recipe:
    """Make a recipe with more epochs than a contender trains."""
    return Recipe.model_validate(
        {
            "architecture": architecture,
            "epochs": 1000,
            "learning_rate": 0.01,
            "augment": {"flip": flip, "crop_padding": crop_padding},
        }
    )


def make_stepper(
    network: Network,
    images: Images | ImageStore,
    recipe: Recipe,
    global_batch: int,
    micro_batches: int,
    *,
    constant_images: bool = False,
    device: torch.device = CPU,
    precision: str = "auto",
    cuda_graphs: bool = True,
) -> Stepper:
    """Make a stepper as `components.training.loop.train` does; `auto` is the probe's precision.

    With `constant_images` every step gets the same images, which are fetched beforehand.
    """
    store = InMemoryImages(images, device) if isinstance(images, Images) else images
    config = LoopConfig(
        network=network,
        train=store,
        val=store,
        recipe=recipe,
        global_batch=global_batch,
        micro_batches=micro_batches,
        seed=0,
        device=device,
        cuda_graphs=cuda_graphs,
    )
    prepare_process(device)
    torch.manual_seed(0)
    model = build(network).to(device).to(memory_format=torch.channels_last)
    if precision == "auto":
        rows = torch.arange(global_batch // micro_batches)
        precision = probe(model, store.fetch(rows), store.labels[rows].to(device)).precision
    steps_per_epoch = -(-len(images) // global_batch)
    stepper = Stepper(config, TrainState(model, recipe, steps_per_epoch, precision))
    if constant_images:
        stepper.prefetcher = ConstantImages(store)
    return stepper


class ConstantImages(Prefetcher):
    """Returns the first images of the store for any rows.

    A step with a usual prefetcher takes longer by the cost of loading.
    """

    def __init__(self, store: ImageStore) -> None:
        super().__init__(store)
        self.images: dict[int, Tensor] = {}

    @property
    def resident(self) -> bool:
        return False

    def get(self, key: Hashable, rows: Tensor) -> Tensor:  # noqa: ARG002
        count = len(rows)
        if count not in self.images:
            self.images[count] = self.store.fetch(torch.arange(count))
        return self.images[count]


def iterate_steps(stepper: Stepper) -> Iterator[Totals]:
    """Make one step per iteration. The first epoch is repeated endlessly."""
    while True:
        yield from stepper.train_epoch()
        stepper.state.step = 0


def measure_step_s(steps: Iterator[Totals], count: int) -> float:
    """Make `count` steps and return the mean seconds of one."""
    start = time.perf_counter()
    for _ in itertools.islice(steps, count):
        pass
    return (time.perf_counter() - start) / count
