"""How torch's process group is formed: by Ray Train, or by the workers alone, so that the driver need not import torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray._common.network_utils import build_address
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig

# What every worker does before it joins: a function that can be pickled.
Prepare = Callable[[], None]


def torch_config(prepare: Prepare, backend: str, timeout_s: int) -> BackendConfig:
    """Ray Train's own `TorchConfig`, whose workers `prepare` first."""
    from ray.train.torch import TorchConfig

    class Prepared(TorchConfig().backend_cls):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(prepare)
            super().on_start(worker_group, backend_config)

    @dataclass
    class PreparedConfig(TorchConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> type:
            return Prepared

    return PreparedConfig(backend=backend, timeout_s=timeout_s)


@dataclass
class GlooConfig(BackendConfig):  # type: ignore[misc]
    """A group over gloo. `TorchConfig` makes the same one, but its module imports torch, for over a second, in the driver,
    while nothing else can go on."""

    prepare: Prepare
    timeout_s: int

    @property
    def backend_cls(self) -> type:
        return _Gloo


class _Gloo(Backend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: GlooConfig) -> None:
        address, port = worker_group.execute_single(0, get_address_and_port)
        url, world = f"tcp://{build_address(address, port)}", len(worker_group)
        ray.get([
            worker_group.execute_single_async(rank, _join, backend_config, url, rank, world)
            for rank in range(world)
        ])  # fmt: skip


def _join(config: GlooConfig, url: str, rank: int, world: int) -> None:
    config.prepare()
    from torch import distributed

    timeout = timedelta(seconds=config.timeout_s)
    distributed.init_process_group("gloo", init_method=url, rank=rank, world_size=world, timeout=timeout)
