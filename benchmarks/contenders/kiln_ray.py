"""Kiln's loop on Ray Train, as `pipelines.train` runs it: `WORKLOAD RESULT SEED`.

Events, heartbeats and checkpoints are included; MLflow is not.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from safetensors.torch import load

from benchmarks.contenders.common import parse_arguments, write_result
from benchmarks.contenders.kiln_loop import compute_metrics
from components.orchestration.events import DriverEvent
from components.orchestration.job import TrainingJob
from components.orchestration.trainer import Training, TrainingOptions
from components.params import Checkpoint
from components.ray_session.session import session
from components.training.events import EpochFinished


def main() -> None:
    workload, result = parse_arguments()
    job = TrainingJob(
        network=workload.network,
        recipe=workload.recipe,
        train_data=Path(workload.data) / "train",
        val_data=Path(workload.data) / "val",
        workers=workload.processes,
        cpus_per_worker=1,
        device="cpu",
        global_batch=workload.global_batch,
        micro_batches=workload.processes,
        seed=workload.seed,
        precision="auto",
        fingerprint=f"{workload.seed:064x}",
        storage=str(result.parent / "storage"),
        checkpoint=Checkpoint(),
        watchdog_s=300,
        images="auto",
        locate=Path,
        scratch=partial(Path, result.parent),
    )
    rates: list[float] = []

    def on_event(event: DriverEvent) -> None:
        if isinstance(event, EpochFinished):
            rates.append(event.images_per_s)

    with session():
        options = TrainingOptions(max_failures=0, start_timeout_s=300)
        trained = Training(job, options).follow(on_event)
    values = compute_metrics(workload, load(trained.weights), rates)
    write_result(result, values, [f"precision {trained.precision}"])


if __name__ == "__main__":
    main()
