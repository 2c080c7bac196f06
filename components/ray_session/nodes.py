"""Calls on every node of the connected cluster, and each node's scratch folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from components.errors import UserError

if TYPE_CHECKING:
    from ray import ObjectRef

_CALL_TIMEOUT_S = 120.0

_Result = TypeVar("_Result")


def node_scratch() -> Path:
    """Return a folder on this node's own disk for files that can be made or fetched again.

    It is `KILN_SCRATCH`, or by default `kiln-UID` in the folder for temporary files.

    Raises:
        UserError: the folder belongs to another user.
    """
    named = os.environ.get("KILN_SCRATCH")
    path = Path(named) if named else Path(tempfile.gettempdir()) / f"kiln-{os.getuid()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise UserError(
            f"{path} belongs to another user; set KILN_SCRATCH to a folder of your own on each node"
        )
    return path


def run_on_every_node(
    function: Callable[..., _Result],
    *arguments: Any,
    min_cpus: float = 0,
    timeout_s: float = _CALL_TIMEOUT_S,
) -> dict[str, _Result]:
    """Call `function(*arguments)` once on every living node that has `min_cpus` cores.

    Returns:
        The result of each node, by the node's name.

    Raises:
        UserError: a node did not answer within `timeout_s`, or was lost.
        ray.exceptions.RayTaskError: `function` raised.
    """
    return _run_on_nodes(living_nodes(min_cpus), timeout_s, function, *arguments)


def run_on_one_node(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Call `function(*arguments)` on one living node and return its result.

    Raises:
        UserError: the node did not answer within two minutes, or was lost.
        ray.exceptions.RayTaskError: `function` raised.
    """
    [result] = _run_on_nodes(living_nodes()[:1], _CALL_TIMEOUT_S, function, *arguments).values()
    return result


def living_nodes(min_cpus: float = 0) -> list[dict[str, Any]]:
    """Return the entries of `ray.nodes()` for living nodes with `min_cpus` cores."""
    import ray

    return [
        node
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) >= min_cpus
    ]


def _run_on_nodes(
    nodes: list[dict[str, Any]],
    timeout_s: float,
    function: Callable[..., _Result],
    *arguments: Any,
) -> dict[str, _Result]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=1)(_call)
    names: dict[ObjectRef, str] = {}
    for node in nodes:
        on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        pending = task.options(scheduling_strategy=on_node).remote(function, *arguments)
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        names[pending] = f"{name} {node['NodeID'][:8]}" if name in names.values() else name
    done, late = ray.wait(list(names), num_returns=len(names), timeout=timeout_s)
    if late:
        raise UserError(
            f"no answer within {timeout_s:g} s from {', '.join(sorted(names[ref] for ref in late))}"
        )
    try:
        return {names[ref]: ray.get(ref) for ref in done}
    except ray.exceptions.RayTaskError:
        raise  # the function's own error, not the node's
    except ray.exceptions.RayError as error:
        raise UserError(
            f"a node was lost, or could not start a process, while it was asked: {error}"
        ) from None


def _call(function: Callable[..., _Result], *arguments: Any) -> _Result:
    return function(*arguments)
