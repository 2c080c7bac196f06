"""The description of one training that the driver sends to its workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from components.params import Checkpoint, Recipe, Reduction
from components.records.training import Epoch, Network
from components.storage import BlobStore, open_store

INITIAL = "initial.safetensors"


@dataclass(frozen=True)
class TrainingJob:
    """One training on a cluster.

    Paths are absolute, because Ray Train changes the working directory of its workers.

    Args:
        workers: their number, or the minimum and maximum of an elastic training.
        micro_batches: the number of parts of a global batch.
        storage: path or URL below which checkpoints are kept.
        watchdog_s: seconds without a step after which a worker ends itself.
        images: `train.images` of params.yaml.
        locate: returns the path of a split on the node where it is called.
        scratch: returns a folder for temporary copies on the node where it is called.
        reduction: `train.reduction` of params.yaml.
        has_initial: whether the training begins with weights in `initial_store`.
        placement: placement strategy, as in Ray's `ScalingConfig`.
        accelerator: kind of GPU, as in Ray's `ScalingConfig`.
    """

    network: Network
    recipe: Recipe
    train_data: Path
    val_data: Path
    workers: int | tuple[int, int]
    cpus_per_worker: float
    device: str
    global_batch: int
    micro_batches: int
    seed: int
    precision: str
    fingerprint: str
    storage: str
    checkpoint: Checkpoint
    watchdog_s: float
    images: str
    locate: Callable[[Path], Path]
    scratch: Callable[[], Path]
    reduction: Reduction = "ordered"
    has_initial: bool = False
    placement: str = "PACK"
    accelerator: str | None = None

    def checkpoint_store(self) -> BlobStore:
        """Open the store of this training's checkpoints."""
        return open_store(self.storage, "runs", self.fingerprint)

    def initial_store(self) -> BlobStore:
        """Open the store of this training's starting weights, which its workers read."""
        return open_store(self.storage, "runs", f"{self.fingerprint}-initial")

    def read_initial(self) -> bytes | None:
        """Return the starting weights as a safetensors file, None for random ones."""
        return self.initial_store().get(INITIAL) if self.has_initial else None

    def stacks_path(self, rank: int) -> Path:
        """Return the file for the stacks of a rank that made no progress, on this node."""
        return self.scratch() / "stacks" / f"{self.fingerprint[:12]}-rank{rank}.txt"

    def stacks_paths(self) -> list[Path]:
        """Return the files with stacks that ranks left on this node."""
        pattern = self.stacks_path(0).name.replace("rank0", "rank*")
        return [path for path in self.stacks_path(0).parent.glob(pattern) if path.stat().st_size]


@dataclass(frozen=True)
class TrainedModel:
    """The result of a training: `weights` are the bytes of a safetensors file."""

    weights: bytes
    history: list[Epoch]
    best: Epoch
    precision: str
    parameters: int


@dataclass(frozen=True)
class StoppedByRequest:
    """The training was stopped; its state after global step `step` is in a checkpoint."""

    step: int


@dataclass(frozen=True)
class Refused:
    """The training cannot succeed; another attempt would end with the same message."""

    message: str


WorkerResult = TrainedModel | StoppedByRequest | Refused
