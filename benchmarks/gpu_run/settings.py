"""Process-wide settings of torch, set for the turn of one implementation and restored after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from components.training.process_settings import prepare_process


@contextmanager
def kiln_settings(device: torch.device) -> Iterator[None]:
    """Use the settings of Kiln's training: torch's defaults, changed by `prepare_process`."""
    with _restored(), _cudnn(benchmark=False):
        prepare_process(device)
        yield


@contextmanager
def free_settings(device: torch.device) -> Iterator[None]:  # noqa: ARG001
    """Let cuDNN measure its algorithms and choose any of them, as a loop written by hand does."""
    with _restored(), _cudnn(benchmark=True):
        torch.set_deterministic_debug_mode("default")
        yield


def _cudnn(*, benchmark: bool) -> AbstractContextManager[None]:
    """Return torch's context manager for the settings of cuDNN; the others are the defaults."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=benchmark, deterministic=False)


@contextmanager
def _restored() -> Iterator[None]:
    """Restore the deterministic mode at the end."""
    mode = torch.get_deterministic_debug_mode()
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
