"""Ray Train in a session of the stage's own: one machine that nobody else uses, without autoscaler or preemption.

Ray Train starts five more actors for what only a cluster has, and each of its processes twice (for a runtime environment that
holds nothing but its own settings). On few cores these imports are most of the way to the first step.
"""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy

_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how late the end of training is noticed
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


class LocalTrainer(TorchTrainer):  # type: ignore[misc]
    """A `TorchTrainer` with a fixed number of workers and no Ray datasets."""

    def _create_default_callbacks(self) -> list[Any]:
        # The cleaner of placement groups asks a dashboard, which an embedded session does not have.
        spared = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, spared)]

    def _initialize_and_run_controller(self, **kwargs: Any) -> Any:
        kwargs["scaling_policy"] = _AsAsked(self.scaling_config)
        controller = ray.remote(num_cpus=0)(LocalTrainController).remote(**kwargs)
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())


class _AsAsked(FixedScalingPolicy):  # type: ignore[misc]
    """Asks no autoscaler."""

    def after_controller_start(self, train_run_context: TrainRunContext) -> None: ...
    def _maybe_send_resource_request(self) -> None: ...


class LocalTrainController(TrainController):  # type: ignore[misc]
    """Takes its settings when it is made: variables that stay would be handed on, in an environment for every worker."""

    def __init__(self, **kwargs: Any) -> None:
        added = _SETTINGS.keys() - os.environ.keys()
        os.environ.update({name: _SETTINGS[name] for name in added})
        try:
            super().__init__(**kwargs)
        finally:
            for name in added:
                del os.environ[name]
