"""Kiln's loop as it is used: `components.orchestration.trainer.fit` on Ray Train, with events, heartbeats and checkpoints."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contenders.common import arguments, report
from benchmarks.contenders.kiln_loop import values
from components.orchestration.job import Job
from components.orchestration.trainer import fit
from components.params import Checkpoint
from components.ray_session.session import session


def main() -> None:
    work, result = arguments()
    events: list[dict[str, Any]] = []
    job = Job(
        network=work.network(),
        recipe=work.recipe,
        train_data=Path(work.data) / "train",
        val_data=Path(work.data) / "val",
        workers=work.processes,
        cpus_per_worker=1,
        device="cpu",
        global_batch=work.global_batch,
        micro_batches=work.processes,
        seed=work.seed,
        precision="auto",
        fingerprint=f"{work.seed:064x}",
        storage=str(result.parent / "storage"),
        checkpoint=Checkpoint(),
        watchdog_s=300,
        images="auto",
        locate=Path,
        scratch=partial(Path, result.parent),
    )
    with session():
        returned = fit(job, max_failures=0, start_timeout_s=300, on_event=events.append)
    from safetensors.torch import load

    epochs = [event for event in events if event["kind"] == "epoch"]
    report(result, values(work, load(returned["weights"]), epochs), [f"precision {returned['precision']}"])


if __name__ == "__main__":
    main()
