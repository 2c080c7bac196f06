"""Augmented data -> models/M: one model of params train.models, data-parallel on Ray, tracked in MLflow. (stage)"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import provenance
from components.console import launch, say
from components.errors import UserError
from components.files import RETENTION_DAYS, exclusive_lock, stale_paths, write_bytes
from components.params import Train, load_params
from components.paths import STATE
from components.ray_session import nodes, shared_storage
from components.ray_session.session import Request, check_local, device_for, starting
from components.records.training import TrainResult
from components.training.plan import Plan, plan

if TYPE_CHECKING:
    from components.orchestration.job import Job


def run(model: str, train: Path, val: Path, out: Path) -> None:
    """Trains `model` and writes `weights.safetensors`, `history.csv` and, last, `result.json` into `out`.

    A training of the same fingerprint that was interrupted is continued, in the same MLflow run.

    Raises:
        UserError: before any work, for parameters, data, workers or a tracking server that do not fit, or while another
            process trains into `out`.
        KeyboardInterrupt: interrupted; a checkpoint keeps what was done.
    """
    params = load_params()
    with exclusive_lock(STATE / "locks" / f"train-{hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]}", str(out)):
        wanted = plan(params, model, train, val)
        request = Request(params.train.workers[0], params.train.cpus_per_worker)
        check_local(request)
        returned = _train(wanted, params.train, request, params.register_.name, params.seed)
        result = TrainResult(
            model=model,
            parameters=returned["parameters"],
            sha256=hashlib.sha256(returned["weights"]).hexdigest(),
            fingerprint=wanted.fingerprint,
            data=wanted.digests,
            micro_batches=params.train.micro_batches(model),
            global_batch_size=params.train.batch_size(model),
            device=returned["device"],
            precision=returned["precision"],
            recipe=wanted.facts["recipe"],
            seed=params.seed,
            best=returned["best"],
        )
        write_bytes(out / "weights.safetensors", returned["weights"])
        import pandas as pd  # half a second that would come before the first step

        history = pd.DataFrame([row.model_dump() for row in returned["history"]])
        write_bytes(out / "history.csv", history.to_csv(index=False).encode())
        result.write(out / "result.json")
        returned["checkpoints"].clear()
        for path in stale_paths((STATE / "runs").glob("*")):
            shutil.rmtree(path, ignore_errors=True)
            say(f"train@{model}: removed the checkpoints of {path.name[:12]}: nobody went on with it for {RETENTION_DAYS} days")


def _train(wanted: Plan, settings: Train, request: Request, experiment: str, seed: int) -> dict[str, Any]:
    """What rank 0 returned, with the `device` and where the `checkpoints` are, which may go once the outs are safe."""
    label = f"train@{wanted.model}"
    # Ray and its workers need as long as what is imported here.
    with starting(settings.workers[1], request.threads) as connect:
        from components.orchestration.follower import Follower
        from components.tracking import store
        from components.tracking.runs import FINGERPRINT, data_tags, training_run

        client = store.connect()
        tags = data_tags(wanted.digests) | provenance.git_state() | provenance.environment() | {FINGERPRINT: wanted.fingerprint}
        tags["kiln.num_workers"] = " to ".join(str(n) for n in sorted(set(settings.workers)))
        from components.orchestration import checkpoints
        from components.orchestration.trainer import fit
        from components.ray_session.network_interface import use_cluster_interface

        where = connect()
        job, remember = _job(wanted, settings, request, seed)
        say(
            f"{label}: {wanted.network.architecture} on {where}, {tags['kiln.num_workers']} workers ({job.device}), "
            f"global batch {job.global_batch}, fingerprint {wanted.fingerprint[:12]}"
        )
        # The checkpoints' place remembers the MLflow run that they belong to, one for each store.
        place, here = job.open_store(), f"mlflow-{hashlib.sha256(store.uri().encode()).hexdigest()[:16]}"
        resume = checkpoints.note(place, here)
        with training_run(client, experiment, wanted.model, wanted.facts, tags, wanted.inputs, resume) as tracked:
            checkpoints.note(place, here, tracked.run_id)
            follower = Follower(label, wanted.recipe.epochs, tracked, remember)
            with follower:
                returned = fit(
                    job,
                    max_failures=settings.max_failures,
                    start_timeout_s=settings.start_timeout_s,
                    on_event=follower,
                    prepare=use_cluster_interface,
                )
            follower.end(returned["history"], returned["best"])
    if tracked.spooled:
        say(f"{label}: warning: {store.shown()} stopped answering; {tracked.spooled} keeps what it lacks")
    return returned | {"device": job.device, "checkpoints": place}


def _job(wanted: Plan, settings: Train, request: Request, seed: int) -> tuple[Job, Callable[[str], None]]:
    """The training as the connected cluster can do it, and what remembers the probe's choice of precision.

    Raises:
        UserError: it cannot.
    """
    from components.orchestration.job import make_job
    from components.training import precision_cache

    device = device_for(request, settings.device)
    if settings.precision == "fp16" and device == "cpu":
        raise UserError("train.precision is fp16, which needs a GPU; on a CPU use auto, fp32 or bf16")
    machine = os.environ.get("RAY_ADDRESS") or provenance.cpu_model()
    situation = precision_cache.situation(wanted.network.model_dump(mode="json"), wanted.facts["train"], device, machine)
    memory = STATE / "precision.json"
    job = make_job(
        wanted,
        settings,
        seed,
        device=device,
        precision=precision_cache.recall(memory, situation) if settings.precision == "auto" else settings.precision,
        storage=shared_storage.ready(),
        locate=nodes.provide(list(wanted.data.values()), settings.cpus_per_worker).at,
        scratch=nodes.scratch if os.environ.get("RAY_ADDRESS") else partial(Path, STATE),
        placement=request.placement,
        accelerator=request.accelerator,
    )
    return job, lambda chosen: precision_cache.remember(memory, situation, chosen)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a name in params train.models")
    parser.add_argument("--train", type=Path, required=True, help="the augmented training split")
    parser.add_argument("--val", type=Path, required=True, help="the validation split")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, history and result")
    args = parser.parse_args(argv)
    run(args.model, args.train, args.val, args.out)


if __name__ == "__main__":
    launch(main)
