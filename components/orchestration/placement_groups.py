"""Placement groups: those of this job are removed after a failure; usage in error messages."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray import PlacementGroupID
from ray.util.placement_group import (
    PlacementGroup,
    placement_group_table,
    remove_placement_group,
)

_REMOVE_TIMEOUT_S = 60.0
_POLL_INTERVAL_S = 0.1
_REMOVED = "REMOVED"


def remove_own() -> None:
    """Remove all placement groups of this driver's job, and wait until their workers are gone.

    Ray keeps the placement group of a controller that was killed until the job ends, with its
    workers' CPUs. Ray Train's own cleaner needs a dashboard, which a local Ray does not have.

    Raises:
        RuntimeError: they are not removed within a minute.
    """
    deadline = time.monotonic() + _REMOVE_TIMEOUT_S
    while own := [name for name, group in _groups().items() if _is_own(name)]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"placement groups are not removed: {', '.join(own)}")
        for name in own:
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))
        time.sleep(_POLL_INTERVAL_S)


def describe_usage() -> str:
    """Return what the cluster has, and which placement groups hold it, for an error message."""
    total = ray.cluster_resources()
    free = ray.available_resources()
    text = (
        f"the cluster has {total.get('CPU', 0):g} CPU and {total.get('GPU', 0):g} GPU, of which "
        f"{free.get('CPU', 0):g} and {free.get('GPU', 0):g} are free"
    )
    holders = [
        f"{_describe_bundles(group)} by a training of {_owner(name)}"
        for name, group in _groups().items()
        if group["state"] == "CREATED"
    ]
    return text + (f"; held: {', '.join(holders)}" if holders else "")


def _groups() -> dict[str, dict[str, Any]]:
    return {
        name: group for name, group in placement_group_table().items() if group["state"] != _REMOVED
    }


def _is_own(name: str) -> bool:
    # The identifier of a placement group ends with that of the job that created it.
    job: str = ray.get_runtime_context().get_job_id()
    return name.endswith(job)


def _owner(name: str) -> str:
    return "this job" if _is_own(name) else f"job {name[-8:]}"


def _describe_bundles(group: dict[str, Any]) -> str:
    bundles = group["bundles"].values()
    cpus = sum(bundle.get("CPU", 0) for bundle in bundles)
    gpus = sum(bundle.get("GPU", 0) for bundle in bundles)
    return f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
