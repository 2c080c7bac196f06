"""Trainings on a real Ray in which something real goes wrong at a chosen step."""

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

from components.data.format.shards import write_split
from components.orchestration import job as entry
from components.orchestration import worker
from components.orchestration.job import Job
from components.orchestration.trainer import fit
from components.params import Checkpoint, Recipe
from components.records.splits import Channels
from components.records.training import Network
from components.storage import LocalStore
from components.training.loop import Stepper
from tests.conftest import make_images

ROWS, BATCH, EPOCHS = 190, 24, 3
STEPS = 8  # an epoch, of which the last has 22 images
CLASSES = ["a", "b", "c"]
CHANNELS = Channels(mean=[80.0], std=[60.0])


@dataclass(frozen=True)
class Fault:
    """What happens on `rank` before step `step` is made: once, or in every group that comes there. `slow` makes every step take
    `step` seconds until there is a file `go` in the storage."""

    kind: str
    step: int
    rank: int | None = None
    forever: bool = False


def write_data(folder: Path) -> None:
    for split, images in (("train", make_images(ROWS)), ("val", make_images(103, seed=1, prefix="val"))):
        write_split(folder / split, split, images, CLASSES, 1, CHANNELS)


def make_job(data: Path, storage: Path, **values: Any) -> Job:
    recipe = {"architecture": "cnn", "width": 8, "epochs": EPOCHS, "learning_rate": 0.1, "warmup_epochs": 0.5}
    return replace(
        Job(
            network=Network(architecture="cnn", width=8, shape=(12, 12, 1), classes=CLASSES, channels=CHANNELS),
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
        ),
        **values,
    )


@dataclass
class Told:
    """Events as they came, and something to do when one of a kind comes first."""

    events: list[dict[str, Any]] = field(default_factory=list)
    on: dict[str, Callable[[dict[str, Any]], None]] = field(default_factory=dict)

    def __call__(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        act = self.on.pop(event["kind"], None)
        if act:
            act(event)

    def steps_resumed(self) -> list[int]:
        return [event["step"] for event in self.events if event["kind"] == "resumed"]

    def warnings(self) -> str:
        return "\n".join(event["text"] for event in self.events if event["kind"] == "warning")


def train(job: Job, *faults: Fault, told: Told | None = None, **values: Any) -> tuple[dict[str, Any], Told]:
    """Runs `fit` with faults waiting in every worker."""
    told = told or Told()
    original = entry.run
    if faults:
        entry.run = lambda config: faulty(config, faults)  # type: ignore[assignment]
    try:
        settings: dict[str, Any] = {"max_failures": 6, "start_timeout_s": 120.0, **values}
        return fit(job, on_event=told, **settings), told
    finally:
        entry.run = original


def same(returned: dict[str, Any], whole: dict[str, Any]) -> None:
    """What two trainings returned is the same to the bit."""
    assert returned["weights"] == whole["weights"]
    assert returned["history"] == whole["history"]


def faulty(config: dict[str, Any], faults: tuple[Fault, ...]) -> dict[str, Any]:
    """`worker.run` in a process in which `faults` are going to happen."""
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    real_step, real_put = Stepper._step, LocalStore.put

    def due(fault: Fault, step: int) -> bool:
        if fault.rank not in (None, rank):
            return False
        if fault.kind == "pause":
            return step >= fault.step and step % 6 == 4
        if fault.kind == "slow":
            return not (Path(config["job"].storage) / "go").exists()
        marker = Path(config["job"].storage) / f"{fault.kind}-{fault.step}-happened-{rank}"
        if step != fault.step or (marker.exists() and not fault.forever):
            return False
        marker.touch()
        return True

    def step(self: Stepper, *parts: Any) -> Any:
        for fault in faults:
            if fault.kind != "kill while writing" and due(fault, self.state.step):
                happen(fault, self)
        return real_step(self, *parts)

    def put(self: LocalStore, name: str, data: bytes) -> None:
        for fault in faults:
            if fault.kind == "kill while writing" and name.endswith(".json") and due(fault, int(name.removesuffix(".json"))):
                (self.path / f".{name}.{os.getpid()}").write_bytes(data[:10])
                os.kill(os.getpid(), signal.SIGKILL)
        real_put(self, name, data)

    Stepper._step, LocalStore.put = step, put  # type: ignore[method-assign]
    try:
        return worker.run(config)
    finally:
        Stepper._step, LocalStore.put = real_step, real_put  # type: ignore[method-assign]


def happen(fault: Fault, stepper: Stepper) -> None:
    if fault.kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.kind == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault.kind == "hang":
        time.sleep(10_000)
    elif fault.kind == "raise":
        raise RuntimeError(f"boom at 0x{id(fault):x}")
    elif fault.kind == "leave":
        raise LeaveError
    elif fault.kind == "pause":
        time.sleep(1.5)
    elif fault.kind == "slow":
        time.sleep(fault.step)
    elif fault.kind == "not a number":
        next(stepper.state.model.parameters()).data.fill_(float("nan"))
    elif fault.kind == "memory":
        confine(int(psutil.Process().memory_info().rss) + (256 << 20))
        hog = [bytearray(b"x" * (64 << 20)) for _ in range(64)]
        raise AssertionError(f"{len(hog)} blocks fitted in")
    elif fault.kind == "kill the controller":
        ours = psutil.Process().parent().children()  # of our raylet; another session on this machine has its own
        next(p for p in ours if "TrainController" in " ".join(p.cmdline())).kill()
        time.sleep(10_000)
    else:
        raise AssertionError(fault)


CGROUP = Path("/sys/fs/cgroup/memory") if Path("/sys/fs/cgroup/memory").is_dir() else Path("/sys/fs/cgroup")


def confine(limit: int) -> None:
    """Puts this process into a memory cgroup of its own, so that the kernel's killer comes for it alone."""
    group = CGROUP / f"kiln-test-{os.getpid()}"
    group.mkdir()
    for name in ("memory.limit_in_bytes", "memory.max"):
        if (group / name).exists():
            (group / name).write_text(str(limit))
    (group / "cgroup.procs").write_text(str(os.getpid()))


class LeaveError(BaseException):
    """A rank that goes without a word, as one with fewer batches than the others would."""
