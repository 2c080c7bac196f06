"""Plain functions over many inputs, in parallel Ray tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from components.ray_session.session import session


def spread(function: Callable[..., Any], items: list[int], parts: int, *shared: Any) -> list[tuple[list[int], Any]]:
    """Calls `function(part, *shared)` in `parts` tasks of one core each, item n in part n mod `parts`.

    Tasks beyond the cores there are wait their turn. `shared` values are shipped once per node. Returns each part with
    its result.
    """
    with session(parts):
        import ray

        task = ray.remote(num_cpus=1, max_retries=2)(function)
        placed = [ray.put(value) for value in shared]
        dealt = [items[n::parts] for n in range(parts)]
        return list(zip(dealt, ray.get([task.remote(part, *placed) for part in dealt]), strict=True))


def stream(function: Callable[..., Any], inputs: Iterable[tuple[Any, ...]], workers: int | None, *shared: Any) -> Iterator[Any]:
    """Yields `function(*input, *shared)` in the order of the inputs, from tasks of one core each.

    At most `workers` tasks (default: two per core of the cluster, so that none is idle) are under way or wait to be taken
    at any moment, however many inputs there are: memory does not grow with them.
    """
    with session(workers):
        import ray

        task = ray.remote(num_cpus=1, max_retries=2)(function)
        placed = [ray.put(value) for value in shared]
        most = workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        under_way: deque[Any] = deque()
        for values in inputs:
            if len(under_way) == most:
                yield ray.get(under_way.popleft())
            under_way.append(task.remote(*values, *placed))
        while under_way:
            yield ray.get(under_way.popleft())
