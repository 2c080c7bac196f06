"""Commands and environments of the processes that are measured."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

# Stages of a checkout, relative to its root.
PREPROCESS = [sys.executable, "-m", "pipelines.preprocess", "--out", "data/prepared"]
TRAIN = [
    sys.executable,
    "-m",
    "pipelines.train",
    "--model",
    "cnn",
    "--train",
    "data/prepared/train",
    "--val",
    "data/prepared/val",
    "--out",
    "models/cnn",
]


def contender_command(name: str, *arguments: str | Path) -> list[str]:
    """Return the command that runs a contender in one process."""
    return [sys.executable, "-m", _module(name), *map(str, arguments)]


def torchrun_command(name: str, *arguments: str | Path, processes: int = 2) -> list[str]:
    """Return the command that runs a contender in `processes` ranks of this machine."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    ranks = ["--nproc-per-node", str(processes)]
    return [*torchrun, *ranks, "--module", _module(name), *map(str, arguments)]


def shell_command(*commands: Sequence[str]) -> list[str]:
    """Return a command that runs several in sequence and stops at the first failure."""
    return ["sh", "-ec", " && ".join(map(shlex.join, commands))]


def import_environment(*folders: Path) -> dict[str, str]:
    """Return the environment of a child process that imports from `folders` first."""
    path = [*map(str, folders), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)}


def _module(name: str) -> str:
    return f"benchmarks.contenders.{name}"
