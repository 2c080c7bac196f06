"""Ray Train in a session of the stage's own: one machine that nobody else uses, without autoscaler or preemption.

Ray Train starts six actors for what only a cluster has or needs apart, and each of its processes twice (for a runtime
environment that holds nothing but its own settings). On few cores these imports are most of the way to the first step.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.runtime_context import RuntimeContext
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import state, worker_group
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how late the end of training is noticed
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
}


class LocalTrainer(DataParallelTrainer):  # type: ignore[misc]
    """A trainer with a fixed number of workers and no Ray datasets; its controller is on the thread that calls `fit`."""

    def _create_default_callbacks(self) -> list[Any]:
        # The cleaner of placement groups asks a dashboard, which an embedded session does not have.
        spared = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, spared)]

    def _initialize_and_run_controller(self, **kwargs: Any) -> Any:
        kwargs["scaling_policy"] = _AsAsked(self.scaling_config)
        with _without_actors():
            controller = _controller(kwargs)
            asyncio.run(controller.run())
        return controller.get_result()


class _AsAsked(FixedScalingPolicy):  # type: ignore[misc]
    """Asks no autoscaler."""

    def after_controller_start(self, train_run_context: TrainRunContext) -> None: ...
    def _maybe_send_resource_request(self) -> None: ...


def _controller(kwargs: dict[str, Any]) -> TrainController:
    """Takes its settings when it is made: variables that stay would be handed on, in an environment for every worker."""
    added = _SETTINGS.keys() - os.environ.keys()
    os.environ.update({name: _SETTINGS[name] for name in added})
    try:
        return TrainController(**kwargs)
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def _without_actors() -> Iterator[None]:
    """Workers are given handles to the controller, and to an actor where they meet in `ray.train.report`, which we do not
    call. There is no such controller here, nor the other: that would be a process that imports Ray Train beside the workers,
    and then takes its turns with them. What goes wrong is told by `fit`."""
    logger = logging.getLogger("ray.train")
    level, current_actor = logger.level, RuntimeContext.current_actor
    barrier, end_barrier = worker_group.SynchronizationActor, state._shutdown_sync_actor
    logger.setLevel(logging.CRITICAL + 1)
    RuntimeContext.current_actor = None
    worker_group.SynchronizationActor = _Nobody
    state._shutdown_sync_actor = lambda _: None
    try:
        yield
    finally:
        worker_group.SynchronizationActor, state._shutdown_sync_actor = barrier, end_barrier
        RuntimeContext.current_actor = current_actor
        logger.setLevel(level)


class _Nobody:
    """An actor class that makes no actor."""

    @classmethod
    def options(cls, **_: object) -> type[_Nobody]:
        return cls

    @classmethod
    def remote(cls, **_: object) -> str:
        return "nobody"  # workers get it
