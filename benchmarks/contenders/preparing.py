"""Kiln's stages on a folder of images, and the peak memory of each of their processes: `CHECKOUT RESULT STAGE...`.

A figure is the peak of a process's own memory: the kernel's high-water mark of what is resident (a sample would miss the
activations of a batch), less what of files and of shared memory, such as the object store, is mapped.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from benchmarks.contenders.common import TRAIN, importing, report

COMMANDS = {
    "preprocess": "-m pipelines.preprocess --out data/prepared",
    "train": TRAIN,
}


def main() -> None:
    checkout, result, stages = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    values: dict[str, float] = {}
    for stage in stages:
        shutil.rmtree(checkout / {"preprocess": "data/prepared", "train": "models"}[stage], ignore_errors=True)
        started = time.perf_counter()
        with subprocess.Popen([sys.executable, *COMMANDS[stage].split()], cwd=checkout, env=importing(checkout)) as process:
            peaks = Peaks(process.pid)
            if process.wait():
                sys.exit(f"{stage} ended with {process.returncode}")
        values[f"{stage} s"] = time.perf_counter() - started
        values |= {f"{stage} {kind} MiB": peak / 2**20 for kind, peak in peaks.stop().items()}
    report(result, values)


class Peaks:
    """Samples a command and everything that it starts, on a thread."""

    def __init__(self, pid: int) -> None:
        self.driver, self.found, self.done = psutil.Process(pid), dict[str, int](), threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()

    def _sample(self) -> None:
        while not self.done.wait(0.5):
            try:
                family = [self.driver, *self.driver.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in family:
                try:
                    kind, size = _kind(process, self.driver), _peak(process.pid)
                except (psutil.Error, OSError, KeyError):
                    continue
                self.found[kind] = max(self.found.get(kind, 0), size)

    def stop(self) -> dict[str, int]:
        self.done.set()
        self.thread.join()
        return {kind: self.found[kind] for kind in ("driver", "worker") if kind in self.found}


def _peak(pid: int) -> int:
    """Bytes; `KeyError` for a process that has ended."""
    rows = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    highest, files, shared = (int(rows[name].split()[0]) << 10 for name in ("VmHWM", "RssFile", "RssShmem"))
    return highest - files - shared


def _kind(process: psutil.Process, driver: psutil.Process) -> str:
    if process.pid == driver.pid:
        return "driver"
    # Ray's own servants do not touch images; its workers do, and so do decoders that they start.
    servants = ("raylet", "gcs_server", "dashboard", "runtime_env")
    command = " ".join(process.cmdline()[:4])
    return "servant" if any(name in command for name in servants) and not command.startswith("ray::") else "worker"


if __name__ == "__main__":
    main()
