"""The torch process group of a worker group, formed by Ray Train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig

PrepareWorker = Callable[[], None]
"""Called on every worker before it joins the process group. It must be picklable."""


def torch_config(prepare: PrepareWorker, backend: str, timeout_s: int) -> TorchConfig:
    """Return Ray Train's configuration of a process group, extended by `prepare`.

    Args:
        prepare: called on every worker before the group is formed.
        backend: `gloo` or `nccl`.
        timeout_s: after so many seconds a collective call raises an error.
    """

    class PreparedBackend(TorchConfig().backend_cls):  # type: ignore[misc]
        """Process-group backend that prepares the workers and skips the group's shutdown.

        Ray Train ends the workers' processes anyway. The shutdown would wait 30 s for a rank
        that hangs. Meanwhile the other ranks, whose group is gone, would train on alone.
        """

        def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
            worker_group.execute(prepare)
            super().on_start(worker_group, backend_config)

        def on_shutdown(self, worker_group: Any, backend_config: TorchConfig) -> None: ...

    @dataclass
    class PreparedConfig(TorchConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> type:
            return PreparedBackend

    return PreparedConfig(backend=backend, timeout_s=timeout_s)
