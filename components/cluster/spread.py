"""A plain function over parts of a list, in parallel Ray tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from components.cluster.session import session


def spread(function: Callable[..., Any], items: list[int], parts: int, *shared: Any) -> list[tuple[list[int], Any]]:
    """Calls `function(part, *shared)` in `parts` tasks of one core each, item n in part n mod `parts`.

    Tasks beyond the cores there are wait their turn. `shared` values are shipped once per node. Returns each part with
    its result.
    """
    with session():
        import ray

        task = ray.remote(num_cpus=1, max_retries=2)(function)
        placed = [ray.put(value) for value in shared]
        dealt = [items[n::parts] for n in range(parts)]
        return list(zip(dealt, ray.get([task.remote(part, *placed) for part in dealt]), strict=True))
