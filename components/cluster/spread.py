"""A plain function over parts of a list, in parallel Ray tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from components.cluster.session import Request, check_local, device_for, session


def spread(function: Callable[..., Any], items: list[int], workers: int, *shared: Any) -> list[tuple[list[int], Any]]:
    """Calls `function(part, *shared)` in `workers` tasks of one core each, item n in part n mod `workers`.

    `shared` values are shipped once per node. Returns each part with its result.

    Raises:
        UserError: the workers do not fit the cluster.
    """
    request = Request(workers, cpus=1)
    check_local(request)
    with session():
        import ray

        device_for(request, "cpu")
        task = ray.remote(num_cpus=1, max_retries=2)(function)
        placed = [ray.put(value) for value in shared]
        parts = [items[n::workers] for n in range(workers)]
        return list(zip(parts, ray.get([task.remote(part, *placed) for part in parts]), strict=True))
