"""Trainings on a real Ray in which something real goes wrong at a chosen step.

Faults are injected through the trainer's callback (`TrainingOptions.wrap_callback`): before a step
is computed, or when a checkpoint is saved.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.nn.modules.module import register_module_forward_hook

from components.data.format.shards import write_split
from components.orchestration.events import DriverEvent
from components.orchestration.job import TrainedModel, TrainingJob
from components.orchestration.trainer import Training, TrainingOptions
from components.params import Checkpoint, Recipe
from components.records.splits import Channels
from components.records.training import Network
from components.training.callback import ForwardingCallback, TrainerCallback
from components.training.events import Resumed, TrainingWarning
from tests.conftest import make_images
from tests.machine import scaled

ROWS = 190
BATCH = 24
EPOCHS = 3
STEPS_PER_EPOCH = 8  # the last one has 22 images
CLASSES = ["a", "b", "c"]
CHANNELS = Channels(mean=[80.0], std=[60.0])


@dataclass(frozen=True)
class Fault:
    """A fault on `rank` (None: on all ranks) before step `step` is computed.

    It happens once, or with `forever` in every worker group that gets there. The kind `slow`
    makes every step take `step` seconds until the storage holds a file `go`; `pause` makes every
    sixth step from `step` on take 1.5 s.
    """

    kind: str
    step: int
    rank: int | None = None
    forever: bool = False


def write_data(folder: Path) -> None:
    """Write the training and the validation split of the trainings here."""
    for split, images in (
        ("train", make_images(ROWS)),
        ("val", make_images(103, seed=1, prefix="val")),
    ):
        write_split(folder / split, split, images, CLASSES, 1, CHANNELS)


def make_job(data: Path, storage: Path, **values: Any) -> TrainingJob:
    """Return a small training with two workers; `values` replace fields of the job."""
    recipe = {
        "architecture": "cnn",
        "width": 8,
        "epochs": EPOCHS,
        "learning_rate": 0.1,
        "warmup_epochs": 0.5,
    }
    job = TrainingJob(
        network=Network(
            architecture="cnn", width=8, shape=(12, 12, 1), classes=CLASSES, channels=CHANNELS
        ),
        recipe=Recipe.model_validate(recipe | values.pop("recipe", {})),
        train_data=data / "train",
        val_data=data / "val",
        workers=2,
        cpus_per_worker=1,
        device="cpu",
        global_batch=BATCH,
        micro_batches=2,
        seed=5,
        precision="fp32",
        fingerprint="f" * 64,
        storage=str(storage),
        checkpoint=Checkpoint(every_seconds=None, every_steps=3, keep=2),
        watchdog_s=60,
        images="auto",
        locate=Path,
        scratch=partial(Path, storage),
    )
    return replace(job, **values)


@dataclass
class EventLog:
    """The events of a training, and actions on the first event of a type."""

    events: list[DriverEvent] = field(default_factory=list)
    on: dict[type, Callable[[Any], None]] = field(default_factory=dict)

    def __call__(self, event: DriverEvent) -> None:
        self.events.append(event)
        action = self.on.pop(type(event), None)
        if action:
            action(event)

    def of(self, kind: type) -> list[Any]:
        """Return the events of one type."""
        return [event for event in self.events if isinstance(event, kind)]

    def resumed_steps(self) -> list[int]:
        """Return the steps after which the training was resumed."""
        return [event.step for event in self.of(Resumed)]

    def warnings(self) -> str:
        """Return the texts of all warnings."""
        return "\n".join(event.text for event in self.of(TrainingWarning))


def train(
    job: TrainingJob, *faults: Fault, log: EventLog | None = None, **values: Any
) -> tuple[TrainedModel, EventLog]:
    """Train with faults in the workers; `values` are further options of the training."""
    log = log or EventLog()
    settings: dict[str, Any] = {"max_failures": 6, "start_timeout_s": scaled(120), **values}
    wrap = partial(FaultyCallback, faults, job) if faults else None
    options = TrainingOptions(wrap_callback=wrap, **settings)
    return Training(job, options).follow(log), log


def assert_same(model: TrainedModel, undisturbed: TrainedModel) -> None:
    """Assert that two trainings gave the same bytes."""
    assert model.weights == undisturbed.weights
    assert model.history == undisturbed.history


class FaultyCallback(ForwardingCallback):
    """A rank's callback in a process in which `faults` happen."""

    def __init__(
        self, faults: tuple[Fault, ...], job: TrainingJob, inner: TrainerCallback, rank: int
    ) -> None:
        super().__init__(inner)
        self.faults = [fault for fault in faults if fault.rank in (None, rank)]
        self.storage = Path(job.storage)
        self.checkpoints = Path(job.checkpoint_store().uri)
        self.rank = rank

    def on_step_begin(self, step: int) -> None:
        self.inner.on_step_begin(step)
        for fault in self.faults:
            if fault.kind != "kill while writing" and self._is_due(fault, step):
                self._cause(fault)

    def save_checkpoint(self, state: dict[str, Any], wait: bool) -> None:
        for fault in self.faults:
            if fault.kind == "kill while writing" and self._is_due(fault, state["step"]):
                # The blob is there and its description is half written.
                name = f"{state['step']:010d}"
                torch.save({"state": state}, self.checkpoints / f"{name}.pt")
                (self.checkpoints / f".{name}.json.{os.getpid()}").write_bytes(b'{"finger')
                os.kill(os.getpid(), signal.SIGKILL)
        self.inner.save_checkpoint(state, wait)

    def _is_due(self, fault: Fault, step: int) -> bool:
        if fault.kind == "pause":
            return step >= fault.step and step % 6 == 4
        if fault.kind == "slow":
            return not (self.storage / "go").exists()
        marker = self.storage / f"{fault.kind}-{fault.step}-happened-{self.rank}"
        if step != fault.step or (marker.exists() and not fault.forever):
            return False
        marker.touch()
        return True

    def _cause(self, fault: Fault) -> None:
        match fault.kind:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "freeze":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "hang":
                time.sleep(10_000)
            case "raise":
                raise RuntimeError(f"boom at 0x{id(fault):x}")
            case "leave":
                raise LeaveError
            case "pause":
                time.sleep(1.5)
            case "slow":
                time.sleep(fault.step)
            case "not a number":
                register_module_forward_hook(lambda module, inputs, output: output * torch.nan)
            case "memory":
                _limit_memory(int(psutil.Process().memory_info().rss) + (256 << 20))
                blocks = [bytearray(b"x" * (64 << 20)) for _ in range(64)]
                raise AssertionError(f"{len(blocks)} blocks fitted in")
            case "kill the controller":
                # Of our own raylet: another session on this machine has its own.
                siblings = psutil.Process().parent().children()
                names = {p: " ".join(p.cmdline()) for p in siblings}
                next(p for p, name in names.items() if "TrainController" in name).kill()
                time.sleep(10_000)
            case _:
                raise AssertionError(fault)


CGROUP = Path("/sys/fs/cgroup/memory")
if not CGROUP.is_dir():
    CGROUP = Path("/sys/fs/cgroup")


def _limit_memory(limit: int) -> None:
    """Move this process into a memory cgroup of its own, so that only it is killed."""
    group = CGROUP / f"kiln-test-{os.getpid()}"
    group.mkdir()
    for name in ("memory.limit_in_bytes", "memory.max"):
        if (group / name).exists():
            (group / name).write_text(str(limit))
    (group / "cgroup.procs").write_text(str(os.getpid()))


class LeaveError(BaseException):
    """Ends a rank without an error report, as if it had fewer batches than the others."""
