"""Process-wide settings of a training: deterministic algorithms and memory that stays allocated."""

from __future__ import annotations

import ctypes
import os

import torch

# Parameters of `mallopt` as in malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MAX_THRESHOLD = 2**31 - 1


def prepare_process(device: torch.device) -> None:
    """Set up this process for training on `device`. The settings hold for the whole process.

    On a CPU an operation without a deterministic algorithm raises an error; elsewhere it warns.
    """
    # Makes cuBLAS deterministic; read when it is first used
    # (https://docs.nvidia.com/cuda/cublas/#results-reproducibility).
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # `torch.use_deterministic_algorithms` does the same and also imports torch.compile's settings,
    # which takes more than a second.
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "warn")
    # Deterministic mode also fills every new tensor with NaN, to expose code that reads a value
    # before it is written. That costs 6 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Make the C library keep freed blocks, so that the next step can reuse them.

    By default glibc returns large blocks to the kernel (mallopt(3)). The kernel then supplies new
    zeroed pages as they are touched, which costs 5 % of a ResNet-18's step. With these thresholds
    the process stays at its peak instead, up to 16 % above it, because aligned blocks do not fit
    into one another's places exactly. The next step would reach that peak anyway. Other C
    libraries have no `mallopt` and are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAX_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _MAX_THRESHOLD)
