"""A small training for the tests of the loop, in this process or on several ranks (gloo)."""

from __future__ import annotations

import io
import multiprocessing
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from components.data.format.images import Images
from components.data.loading.image_stores import InMemoryImages
from components.models import weights
from components.params import Recipe, Reduction
from components.records.splits import Channels
from components.records.training import Network
from components.training import loop
from components.training.callback import NullCallback, TrainerCallback
from components.training.config import LoopConfig
from components.training.events import TrainingEvent
from components.training.validation import VALIDATION_BATCH
from tests.conftest import make_images

CPU = torch.device("cpu")
NETWORK = Network(
    architecture="cnn",
    width=8,
    shape=(12, 12, 1),
    classes=["a", "b", "c"],
    channels=Channels(mean=[80.0], std=[60.0]),
)
GLOBAL_BATCH = 24
STEPS_PER_EPOCH = 8
# The last of the eight global batches has 22 images.
TRAIN = make_images(190)
# Three batches of validation, of which the last is short.
VAL = make_images(2 * VALIDATION_BATCH + 103, seed=1, prefix="val")


def make_recipe(**values: Any) -> Recipe:
    defaults = {
        "architecture": "cnn",
        "width": 8,
        "epochs": 3,
        "learning_rate": 0.1,
        "warmup_epochs": 0.5,
        "augment": {"flip": 0.5, "crop_padding": 1},
    }
    return Recipe.model_validate(defaults | values)


def make_store(images: Images) -> InMemoryImages:
    return InMemoryImages(images, CPU)


def make_config(
    micro_batches: int = 1,
    callback: TrainerCallback | None = None,
    seed: int = 5,
    train_images: Images = TRAIN,
    reduction: Reduction = "ordered",
    initial: bytes | None = None,
    **recipe: Any,
) -> LoopConfig:
    return LoopConfig(
        network=NETWORK,
        train=make_store(train_images),
        val=make_store(VAL),
        recipe=make_recipe(**recipe),
        global_batch=GLOBAL_BATCH,
        micro_batches=micro_batches,
        seed=seed,
        device=CPU,
        reduction=reduction,
        initial=initial,
        callback=callback or NullCallback(),
    )


def train(
    precision: str = "fp32", resume: dict[str, Any] | None = None, **values: Any
) -> loop.TrainingOutcome:
    return loop.train(make_config(**values), precision=precision, resume=resume)


Result = tuple[str, list[dict[str, Any]]]


def result_of(outcome: loop.TrainingOutcome) -> Result:
    """Return the digest of the weights, and the history: both must be bit-identical."""
    history = [epoch.model_dump() for epoch in outcome.history]
    return weights.sha256(NETWORK, outcome.weights), history


class Recorder(NullCallback):
    """Keeps events and checkpoints, and requests a stop after some steps."""

    def __init__(self, every: int = 1, stop_after: int | None = None) -> None:
        self.events: list[TrainingEvent] = []
        self.checkpoints: dict[int, dict[str, Any]] = {}
        self.steps_begun: list[int] = []
        self.every = every
        self.stop_after = stop_after

    def on_event(self, event: TrainingEvent) -> None:
        self.events.append(event)

    def on_step_begin(self, step: int) -> None:
        self.steps_begun.append(step)

    def save_checkpoint(self, state: dict[str, Any], wait: bool) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        self.checkpoints[state["step"]] = torch.load(buffer, weights_only=True)

    def checkpoint_due(self, step: int) -> bool:
        return step % self.every == 0

    def stop_requested(self) -> bool:
        return len(self.steps_begun) == self.stop_after


def run_on_ranks(world: int, function: Callable[..., Any], **values: Any) -> list[Any]:
    """Run `function(**values)` on `world` ranks and return the results by rank.

    Several ranks are new processes; a single rank is this process, with one thread as well.
    """
    if world == 1:
        return [function(**values)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.set_forkserver_preload([__name__])  # torch is imported once for all ranks
    with multiprocessing.get_context("forkserver").Manager() as manager:
        results = manager.dict()
        arguments = (world, port, results, function, values)
        mp.start_processes(_run_rank, arguments, nprocs=world, start_method="forkserver")
        return [results[rank] for rank in range(world)]


def _run_rank(
    rank: int,
    world: int,
    port: int,
    results: Any,
    function: Callable[..., Any],
    values: dict[str, Any],
) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    results[rank] = function(**values)
    if dist.is_initialized():
        dist.destroy_process_group()


def assert_same_on_ranks_and_after_resume(steps: tuple[int, ...], **values: Any) -> None:
    """Assert that neither a resume after any of `steps` nor three ranks change the result."""
    recorder = Recorder()
    expected = result_of(train(**values, callback=recorder))
    for step in steps:
        assert result_of(train(**values, resume=recorder.checkpoints[step])) == expected, step
    single = run_on_ranks(1, train_on_rank, **values)
    assert run_on_ranks(3, train_on_rank, **values) == single * 3


def train_on_rank(**values: Any) -> Result:
    """Train with the given values on this rank, for `run_on_ranks`."""
    return result_of(train(**values))
