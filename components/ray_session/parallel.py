"""Parallel map over Ray tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from components.ray_session.session import session

if TYPE_CHECKING:
    from ray import ObjectRef

_Result = TypeVar("_Result")


def ray_map(
    function: Callable[..., _Result], items: list[int], *shared: Any, num_tasks: int
) -> list[tuple[list[int], _Result]]:
    """Call `function(part, *shared)` on each part of `items`, and return each part with its result.

    Args:
        function: runs in Ray tasks of one core each.
        items: item n goes into part n mod `num_tasks`.
        *shared: values that are shipped once per node.
        num_tasks: number of parts and tasks. Tasks beyond the number of cores wait their turn.
    """
    with session():
        import ray

        task = ray.remote(num_cpus=1, max_retries=2)(function)
        references = [ray.put(value) for value in shared]
        parts = [items[n::num_tasks] for n in range(num_tasks)]
        results = ray.get([task.remote(part, *references) for part in parts])
        return list(zip(parts, results, strict=True))


def ray_imap(
    function: Callable[..., _Result],
    inputs: Iterable[tuple[Any, ...]],
    *shared: Any,
    num_tasks: int | None,
) -> Iterator[_Result]:
    """Yield `function(*input, *shared)` for each input, in the order of the inputs.

    Memory does not grow with the number of inputs.

    Args:
        function: runs in Ray tasks of one core each.
        inputs: read as tasks finish.
        *shared: values that are shipped once per node.
        num_tasks: maximum number of tasks that run or whose results were not yielded yet.
            None: two per core of the cluster, so that no core is idle.
    """
    with session():
        import ray

        task = ray.remote(num_cpus=1, max_retries=2)(function)
        references = [ray.put(value) for value in shared]
        limit = num_tasks or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        pending: deque[ObjectRef] = deque()
        for values in inputs:
            if len(pending) == limit:
                yield ray.get(pending.popleft())
            pending.append(task.remote(*values, *references))
        while pending:
            yield ray.get(pending.popleft())
