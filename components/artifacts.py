"""Typed hand-offs between stages, and how they reach the disk: whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import UserError


class Record(BaseModel):
    """A JSON file that one stage writes and others read. The same content gives the same bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def write(self, path: Path) -> None:
        write_bytes(path, (self.model_dump_json(indent=2) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises `UserError` when the file is missing or not what the stage before writes."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise UserError(f"{path} is missing; `dvc repro` makes it, `dvc pull` fetches it") from None
        except ValidationError as error:
            raise UserError(f"{path} is not a {cls.__name__} of this version of Kiln: {error}; run `dvc repro`") from None


class Shard(Record):
    file: str
    rows: int
    sha256: str


class Channels(Record):
    """Mean and standard deviation per channel of the training split, in units of 0..255."""

    mean: list[float]
    std: list[float]


class Manifest(Record):
    """What one split on disk holds. Images are `uint8 (N, H, W, C)`. `origin` has the digests of what it was made from."""

    format: int = 1
    split: str
    origin: dict[str, str]
    shape: tuple[int, int, int]
    rows: int
    classes: list[str]
    class_counts: list[int]
    channels: Channels | None = None
    shards: list[Shard]

    @property
    def sha256(self) -> str:
        """Digest of the split's content, shards included."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class Network(Record):
    """Everything needed to build a model's module before its weights are loaded."""

    architecture: str
    width: int | None
    shape: tuple[int, int, int]
    classes: list[str]
    channels: Channels
    mirror: bool = False
    stem: Literal["cifar", "imagenet"] = "cifar"


class Epoch(Record):
    """One row of `history.csv`. Losses are means per image in nats, `top1` shares of 1; exact over all ranks."""

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    train_top1: float
    val_loss: float
    val_top1: float


class TrainResult(Record):
    """`models/M/result.json`: what the weights beside it are (`sha256` is that file's), and what they came from: `data` has
    the digests of the raw images, the prepared and the augmented (`training`) training split, and `validation`."""

    model: str
    parameters: int
    sha256: str
    fingerprint: str
    data: dict[str, str]
    micro_batches: int
    global_batch_size: int
    device: str
    precision: str
    recipe: dict[str, Any]
    seed: int
    best: Epoch


class Receipt(Record):
    """`models/M/receipt.json`: proof of one version in the registry. `model_id` tells two registries apart."""

    model: str
    name: str
    version: int
    model_id: str
    sha256: str


class GateResult(Record):
    gate: str
    threshold: float
    value: float
    passed: bool


class ModelVerdict(Record):
    """A version's metrics and gates on one test split. Digests: `sha256` of the weights, `files_sha256` of everything in
    the version, `predictions_sha256` of the Parquet file of per-example predictions."""

    name: str
    version: int
    sha256: str
    files_sha256: str
    test_sha256: str
    predictions_sha256: str
    passed: bool
    metrics: dict[str, float]
    gates: list[GateResult]


class Verdict(Record):
    """`reports/verdict.json`: model -> whether its version met the gates on which test split."""

    models: dict[str, ModelVerdict]


class Comparison(Record):
    """Two models on the same examples (`components.evaluation.compare`). `gained` and `lost` count the examples that only
    the candidate, or only the champion, gets right; `low` and `high` bound the difference in top-1. `rejudged`: the champion's
    own verdict is of another test split; for the comparison it was judged on the candidate's."""

    images: int
    candidate_top1: float
    champion_top1: float
    gained: int
    lost: int
    low: float
    high: float
    p_value: float
    max_regression: float
    passed: bool
    rejudged: bool = False


class Move(Record):
    """One move of an alias, as it stands in the history. `after` is the number of the move that its author knew as the
    last; `undoes` that of the move which a rollback takes back. Versions are None where the alias did not stand."""

    alias: str
    source: int | None
    target: int | None
    after: int
    undoes: int | None
    who: str
    when: str
    reason: str
    override: str | None
    verdict_sha256: str | None
    git_commit: str
    comparison: Comparison | None
    nonce: str


# What `preprocess` refused when it was too much: no out of the stage, for a stage that fails leaves none.
REFUSED = Path(".kiln") / "quarantine.csv"

# What was given up is kept this long, so that a holiday does not cost it.
FORGET_DAYS = 30


def forgotten(paths: Iterable[Path], now: float | None = None) -> list[Path]:
    """Those files and folders that nobody has written to, or into, for `FORGET_DAYS`."""
    limit = (time.time() if now is None else now) - FORGET_DAYS * 86_400
    found = []
    for path in paths:
        with suppress(FileNotFoundError):  # another process takes it away at this moment
            if max(part.stat().st_mtime for part in (path, *(path.iterdir() if path.is_dir() else ()))) < limit:
                found.append(path)
    return sorted(found)


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Writes beside and renames, so that a reader finds the old file or the new one; `durable`: after a power cut, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        beside.replace(path)
        if durable:
            parent = os.open(path.parent, os.O_RDONLY)  # the rename itself
            try:
                os.fsync(parent)
            finally:
                os.close(parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def only_one(lock: Path, what: str, *, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds `lock` for the length of the block; the kernel gives it back when the process dies, however that happens.

    Raises:
        UserError: another living process holds it; names it. With `wait`, which is called now and then, it waits instead.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        while wait and not _try_lock(file):
            wait()
            time.sleep(0.1)
        if not wait and not _try_lock(file):
            file.seek(0)
            raise UserError(
                f"{what} is already being made by process {file.read().strip() or '(starting)'} "
                "(perhaps left over from a `dvc` that was killed); wait for it, or end it and run this again"
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A fresh folder that takes the place of `out` if the block ends well, and leaves nothing if it does not.

    What a killed process left of an earlier attempt is removed first.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.partial")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
        shutil.rmtree(out, ignore_errors=True)
        fresh.replace(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
