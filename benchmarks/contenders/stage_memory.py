"""Peak memory of the processes of Kiln's stages: `CHECKOUT RESULT STAGE...`.

It is the peak of a process's private memory: the kernel's high-water mark of resident memory,
less mapped files and shared memory such as the object store. Samples of the resident memory
would miss the activations of a batch.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from benchmarks.contenders.common import write_result
from benchmarks.processes import PREPROCESS, TRAIN, import_environment

COMMANDS = {"preprocess": PREPROCESS, "train": TRAIN}
OUTS = {"preprocess": "data/prepared", "train": "models"}
_SAMPLE_INTERVAL_S = 0.5
# Ray's daemons never hold images and are not reported. Workers and their decoders are.
_DAEMONS = ("raylet", "gcs_server", "dashboard", "runtime_env")


def main() -> None:
    checkout = Path(sys.argv[1])
    result = Path(sys.argv[2])
    values: dict[str, float] = {}
    for stage in sys.argv[3:]:
        shutil.rmtree(checkout / OUTS[stage], ignore_errors=True)
        start = time.perf_counter()
        with subprocess.Popen(
            COMMANDS[stage], cwd=checkout, env=import_environment(checkout)
        ) as process:
            monitor = MemoryMonitor(process.pid)
            if process.wait():
                sys.exit(f"{stage} ended with {process.returncode}")
        values[f"{stage} s"] = time.perf_counter() - start
        for kind, peak in monitor.stop().items():
            values[f"{stage} {kind} MiB"] = peak / 2**20
    write_result(result, values)


class MemoryMonitor:
    """Records the memory peaks of a process and of its descendants, in a thread of its own."""

    def __init__(self, pid: int) -> None:
        self.driver = psutil.Process(pid)
        self.peaks: dict[str, int] = {}
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()

    def _sample(self) -> None:
        while not self.done.wait(_SAMPLE_INTERVAL_S):
            try:
                processes = [self.driver, *self.driver.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in processes:
                try:
                    kind = _process_kind(process, self.driver)
                    peak = read_peak_memory(process.pid)
                except (psutil.Error, OSError, KeyError):
                    continue  # the process has ended
                self.peaks[kind] = max(self.peaks.get(kind, 0), peak)

    def stop(self) -> dict[str, int]:
        """Return the largest peak in bytes of each kind of process: `driver`, `worker`."""
        self.done.set()
        self.thread.join()
        return {kind: self.peaks[kind] for kind in ("driver", "worker") if kind in self.peaks}


def read_peak_memory(pid: int) -> int:
    """Return the peak private memory of a process in bytes.

    Raises:
        OSError, KeyError: the process has ended.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    rows = dict(line.split(":", 1) for line in lines)
    high_water, files, shared = (
        int(rows[name].split()[0]) << 10 for name in ("VmHWM", "RssFile", "RssShmem")
    )
    return high_water - files - shared


def _process_kind(process: psutil.Process, driver: psutil.Process) -> str:
    if process.pid == driver.pid:
        return "driver"
    command = " ".join(process.cmdline()[:4])
    is_daemon = any(name in command for name in _DAEMONS) and not command.startswith("ray::")
    return "daemon" if is_daemon else "worker"


if __name__ == "__main__":
    main()
