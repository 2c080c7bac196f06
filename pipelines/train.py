"""Augmented data -> models/M: one model of params train.models, trained on Ray. (stage)"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from components import provenance
from components.console import echo, launch
from components.errors import UserError
from components.files import RETENTION_DAYS, exclusive_lock, stale_paths, write_bytes
from components.params import PARAMS_FILE, Params, add_params_option, load_params
from components.paths import STATE
from components.ray_session.addresses import get_ray_address
from components.ray_session.resources import (
    WorkerRequest,
    check_local_capacity,
    check_precision,
    choose_device,
    choose_workers,
)
from components.ray_session.session import is_cluster, starting_session
from components.records.training import Epoch, TrainResult
from components.registry.starting_weights import open_registered
from components.training.plan import TrainingPlan, make_plan

if TYPE_CHECKING:
    from components.orchestration.job import TrainedModel, TrainingJob


def run(model: str, train: Path, val: Path, out: Path, params_file: Path = PARAMS_FILE) -> None:
    """Train `model` and write `weights.safetensors`, `history.csv` and `result.json` into `out`.

    `result.json` is written last. A training of the same fingerprint that was interrupted is
    continued, in the same MLflow run.

    Raises:
        UserError: before any work, for parameters, data, workers or a tracking server that do
            not fit, or while another process trains into `out`.
        KeyboardInterrupt: interrupted; the state is in a checkpoint.
    """
    params = load_params(params_file)
    with exclusive_lock(_lock_path(out), str(out)):
        plan = _plan(params, model, train, val)
        request = WorkerRequest(params.train.num_workers.min, params.train.cpus_per_worker)
        check_local_capacity(request, params.train.device, params.train.precision)
        job, trained = _train(plan, params, request)
        _write_outs(out, plan, job, trained)
        job.checkpoint_store().clear()
        job.initial_store().clear()
    for path in stale_paths((STATE / "runs").glob("*")):
        shutil.rmtree(path, ignore_errors=True)
        echo(
            f"train@{model}: removed the checkpoints of {path.name[:12]}: not continued for "
            f"{RETENTION_DAYS} days"
        )


def find_learning_rate(
    model: str, train: Path, val: Path, out: Path, params_file: Path = PARAMS_FILE
) -> None:
    """Run a learning-rate range test for `model`: print a rate, and plot the losses into `out`.

    Raises:
        UserError: parameters or data are wrong, or the loss is infinite from the start.
    """
    params = load_params(params_file)
    plan = _plan(params, model, train, val)
    from components.orchestration.range_test import plot_range_test, run_range_test

    test = run_range_test(plan, params)
    plot_range_test(test, model, out)
    echo(
        f"{model}: learning_rate: {test.suggestion:.2g} is where the loss falls fastest (now "
        f"{plan.recipe.learning_rate:g}); {out} shows the losses of {len(test.rates)} steps"
    )


def _plan(params: Params, model: str, train: Path, val: Path) -> TrainingPlan:
    """Return the plan of a training, whose starting weights may be a registered model's."""
    recipe = params.train.models.get(model)
    with open_registered(recipe.init if recipe else None) as registered:
        return make_plan(params, model, train, val, registered)


def _lock_path(out: Path) -> Path:
    return STATE / "locks" / f"train-{_digest(str(out.resolve()))}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write_outs(out: Path, plan: TrainingPlan, job: TrainingJob, trained: TrainedModel) -> None:
    write_bytes(out / "weights.safetensors", trained.weights)
    write_bytes(out / "history.csv", _to_csv(trained.history))
    result = TrainResult(
        model=plan.model,
        parameters=trained.parameters,
        sha256=hashlib.sha256(trained.weights).hexdigest(),
        fingerprint=plan.fingerprint,
        data=plan.digests,
        micro_batches=job.micro_batches,
        global_batch_size=job.global_batch,
        device=job.device,
        precision=trained.precision,
        recipe=plan.settings["recipe"],
        seed=job.seed,
        best=trained.best,
    )
    result.write(out / "result.json")


def _to_csv(history: list[Epoch]) -> bytes:
    import pandas as pd  # takes half a second, which would delay the first step

    frame = pd.DataFrame([row.model_dump() for row in history])
    return frame.to_csv(index=False).encode()


def _train(
    plan: TrainingPlan, params: Params, request: WorkerRequest
) -> tuple[TrainingJob, TrainedModel]:
    """Train on Ray and record the training as an MLflow run."""
    label = f"train@{plan.model}"
    settings = params.train
    with starting_session() as connect:
        # A local Ray takes seconds to start. Everything else is imported meanwhile.
        from components.tracking import runs, store
        from components.tracking.training_run import open_training_run

        client = store.connect()

        from components.models import architectures
        from components.orchestration.checkpoints import read_marker, write_marker
        from components.orchestration.follower import Follower
        from components.orchestration.trainer import Training, TrainingOptions
        from components.ray_session.network_interface import use_cluster_interface

        architectures.check(plan.network, plan.recipe.train_sides)
        where = connect()
        job, remember_precision = _make_job(plan, params, request)
        options = TrainingOptions(
            max_failures=settings.max_failures,
            start_timeout_s=settings.start_timeout_s,
            prepare=use_cluster_interface,
        )
        # Ray Train takes seconds to start, too. The MLflow run is opened meanwhile.
        training = Training(job, options)
        bounds = (job.workers,) if isinstance(job.workers, int) else job.workers
        worker_counts = " to ".join(map(str, bounds))
        echo(
            f"{label}: {plan.network.architecture} on {where}, workers: {worker_counts} "
            f"({job.device}), global batch {job.global_batch}, fingerprint {plan.fingerprint[:12]}"
        )
        tags = runs.data_tags(plan.digests) | provenance.git_state() | provenance.environment()
        tags |= {runs.FINGERPRINT_TAG: plan.fingerprint, "kiln.num_workers": worker_counts}
        # The MLflow run of this training is stored beside its checkpoints, one for each store.
        checkpoints = job.checkpoint_store()
        marker = f"mlflow-{_digest(store.get_uri())}"
        with open_training_run(
            client,
            params.register_.name,
            plan.model,
            plan.settings,
            tags,
            plan.inputs,
            read_marker(checkpoints, marker),
        ) as run:
            write_marker(checkpoints, marker, run.run_id)
            with Follower(label, plan.recipe.epochs, run, remember_precision) as follower:
                trained = training.follow(follower)
            follower.finish(trained.history, trained.best)
    if run.spooled:
        echo(
            f"{label}: warning: {store.get_redacted_uri()} stopped answering; "
            f"{run.spooled} keeps what it lacks"
        )
    return job, trained


def _make_job(
    plan: TrainingPlan, params: Params, request: WorkerRequest
) -> tuple[TrainingJob, Callable[[str], None]]:
    """Return the job for the connected cluster, and a function that stores a probed precision.

    Raises:
        UserError: the cluster cannot run it.
    """
    from components.orchestration.job import INITIAL, TrainingJob
    from components.ray_session.nodes import node_scratch
    from components.ray_session.shared_storage import resolve_checked
    from components.ray_session.split_distribution import distribute_splits
    from components.training import precision_cache

    settings = params.train
    device = choose_device(request, settings.device)
    check_precision(settings.precision, device)
    # On one machine the first probe's choice stands: a stopwatch must not decide whether the
    # same commit gives the same model.
    machine = get_ray_address() or provenance.cpu_model()
    network = plan.network.model_dump(mode="json", exclude={"preparation"})
    if plan.recipe.train_sides:
        network["train_sides"] = plan.recipe.train_sides
    cache = STATE / "precision.json"
    cache_key = precision_cache.key(network, plan.settings["train"], device, machine)
    precision: str = settings.precision
    if precision == "auto":
        precision = precision_cache.load(cache, cache_key)
    micro_batches = settings.num_micro_batches(plan.model)
    fewest, most = settings.worker_bounds(plan.model)
    if settings.num_workers.max is None and not is_cluster():
        fewest = most = choose_workers(request, device, micro_batches)
    job = TrainingJob(
        network=plan.network,
        recipe=plan.recipe,
        train_data=plan.train_data.resolve(),
        val_data=plan.val_data.resolve(),
        workers=fewest if fewest == most else (fewest, most),
        cpus_per_worker=settings.cpus_per_worker,
        device=device,
        global_batch=settings.global_batch_size_of(plan.model),
        micro_batches=micro_batches,
        seed=params.seed,
        precision=precision,
        fingerprint=plan.fingerprint,
        storage=resolve_checked(),
        checkpoint=settings.checkpoint,
        watchdog_s=settings.watchdog_s,
        images=settings.images,
        reduction=settings.reduction,
        has_initial=plan.initial is not None,
        locate=distribute_splits([plan.train_data, plan.val_data], settings.cpus_per_worker).locate,
        scratch=node_scratch if is_cluster() else partial(Path, STATE),
        placement=request.placement,
        accelerator=request.accelerator,
    )
    if plan.initial is not None:
        job.initial_store().put(INITIAL, plan.initial)
    return job, partial(precision_cache.store, cache, cache_key)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_params_option(parser)
    parser.add_argument("--model", help="a name in params train.models (default: the only one)")
    parser.add_argument(
        "--train",
        type=Path,
        default=Path("data/augmented/train"),
        help="the augmented training split (default: data/augmented/train)",
    )
    parser.add_argument(
        "--val",
        type=Path,
        default=Path("data/prepared/val"),
        help="the validation split (default: data/prepared/val)",
    )
    parser.add_argument(
        "--out", type=Path, help="folder for weights and result (default: models/MODEL)"
    )
    parser.add_argument(
        "--find-learning-rate",
        action="store_true",
        help="instead of training, try rising learning rates; print one and plot the losses into "
        "the file --out (default: .kiln/learning-rate-MODEL.png)",
    )
    args = parser.parse_args(argv)
    model = args.model or _only_model(args.params)
    if args.find_learning_rate:
        out = args.out or STATE / f"learning-rate-{model}.png"
        find_learning_rate(model, args.train, args.val, out, args.params)
    else:
        run(model, args.train, args.val, args.out or Path("models", model), args.params)


def _only_model(params_file: Path) -> str:
    models = load_params(params_file).train.models
    if len(models) > 1:
        raise UserError(f"--model is missing; train.models has {', '.join(models)}")
    return next(iter(models))


if __name__ == "__main__":
    launch(main)
