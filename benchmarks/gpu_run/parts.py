"""Parts of the GPU run: their time limits, their processes and their arguments."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
import torch

from components.paths import ROOT

LIMITS_S = {
    "machine": 25,
    "right": 95,
    "steps": 180,
    "fashion": 85,
    "ray_train": 95,
    "profiling": 55,
}
"""Longest time of each part in seconds, in the order in which they run."""
TOTAL_S = 535
"""Longest time of all parts together."""
SMOKE_LIMIT_S = 900
"""Longest time of each part of a smoke run in seconds, and of all together."""


@dataclass(frozen=True)
class Part:
    """A process of Python with the command-line arguments `words`. It is killed after `limit_s`."""

    name: str
    words: tuple[str, ...]
    limit_s: float


@dataclass(frozen=True)
class Ended:
    """The end of a part. `exit_code` is None if the part was killed."""

    exit_code: int | None
    seconds: float


def make_part(name: str, out: Path, smoke: bool) -> Part:
    """Make the part whose module is `benchmarks.gpu_run.<name>`."""
    words = ["-m", f"benchmarks.gpu_run.{name}", str(out)]
    return Part(name, (*words, *(["--smoke"] if smoke else [])), get_limit_s(name, smoke))


def get_limit_s(name: str, smoke: bool) -> float:
    """Return the longest time of a part. A smoke run may be on any machine, beside other work."""
    return SMOKE_LIMIT_S if smoke else LIMITS_S[name]


def run_part(part: Part, limit_s: float, log: IO[bytes]) -> Ended:
    """Run one part, with its output in `log`, and kill it with its children after `limit_s`."""
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *part.words],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        exit_code: int | None = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        exit_code = None
    finally:
        _kill_group(process)
    return Ended(exit_code, time.monotonic() - start)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, its descendants and all others of its process group, and wait for it."""
    try:
        descendants = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        descendants = []
    for descendant in descendants:
        with contextlib.suppress(psutil.Error):
            descendant.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def parse_part_arguments() -> tuple[Path, bool]:
    """Return the arguments of a part: the folder for results, and whether it is a smoke run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    return args.out, args.smoke


def choose_device() -> torch.device:
    """Return the first GPU, or the CPU where there is none."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
