"""Augmented data -> models/M: one model of params train.models, data-parallel on Ray, tracked in MLflow. (stage)"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pandas as pd

from components import provenance
from components.artifacts import Epoch, Manifest, Network, TrainResult, write_bytes
from components.cluster.session import Request, check_local, device_for, session
from components.console import Meter, duration, launch, say
from components.data.shards import read_manifest
from components.errors import UserError
from components.params import Params, load_params
from components.tracking import store
from components.tracking.runs import FINGERPRINT, TrainingRun, data_tags, training_run
from components.training.precision import recall, remember

STATE = provenance.ROOT / ".kiln"


def run(model: str, train: Path, val: Path, out: Path) -> None:
    """Trains `model` and writes `weights.safetensors`, `history.csv` and, last, `result.json` into `out`.

    Raises:
        UserError: before any work, for parameters, data, workers or a tracking server that do not fit.
    """
    params = load_params()
    settings = params.train
    if model not in settings.models:
        raise UserError(f"--model {model}: not in train.models of params.yaml, which has {', '.join(settings.models)}")
    request = Request(settings.num_workers, settings.cpus_per_worker)
    check_local(request)
    data = {"training": (train, read_manifest(train)), "validation": (val, read_manifest(val))}
    network = describe(params, model, *(manifest for _, manifest in data.values()))
    client = store.connect()
    facts: dict[str, Any] = {
        "recipe": settings.models[model].model_dump(mode="json"),
        "train": settings.model_dump(mode="json", exclude={"models", "max_failures"}),
        "seed": params.seed,
    }
    digests = data["training"][1].origin | {name: manifest.sha256 for name, (_, manifest) in data.items()}
    fingerprint = provenance.fingerprint("pipelines.train", facts | digests)
    tags = {FINGERPRINT: fingerprint, **data_tags(digests), **provenance.git_state(), **provenance.environment()}
    inputs = {name: (str(path), digests[name]) for name, (path, _) in data.items()}
    with session() as where:
        device = device_for(request, settings.device)
        say(
            f"train@{model}: {network.architecture} on {where}, {settings.num_workers} workers ({device}), "
            f"global batch {settings.batch_size(model)}, fingerprint {fingerprint[:12]}"
        )
        with training_run(client, params.register_.name, model, facts, tags, inputs) as tracked:
            returned = _fit(params, model, network, train, val, device, fingerprint, tracked)
    if tracked.spooled:
        say(f"train@{model}: warning: {store.shown()} stopped answering; {tracked.spooled} keeps what it lacks")
    result = TrainResult(
        model=model,
        parameters=returned["parameters"],
        sha256=hashlib.sha256(returned["weights"]).hexdigest(),
        fingerprint=fingerprint,
        data=digests,
        world_size=settings.num_workers,
        global_batch_size=settings.batch_size(model),
        device=device,
        precision=returned["precision"],
        recipe=facts["recipe"],
        seed=params.seed,
        best=returned["best"],
    )
    write_bytes(out / "weights.safetensors", returned["weights"])
    history = pd.DataFrame([row.model_dump() for row in returned["history"]])
    write_bytes(out / "history.csv", history.to_csv(index=False).encode())
    result.write(out / "result.json")


def describe(params: Params, model: str, train: Manifest, val: Manifest) -> Network:
    """The network that fits the data. Raises `UserError` if training and validation data do not fit each other."""
    if (train.shape, train.classes) != (val.shape, val.classes) or train.channels is None:
        raise UserError(
            f"training data {train.shape} with {len(train.classes)} classes and validation data {val.shape} with "
            f"{len(val.classes)} do not belong together; `dvc repro preprocess augment` makes both anew"
        )
    recipe = params.train.models[model]
    return Network(
        architecture=recipe.architecture, width=recipe.width, shape=train.shape, classes=train.classes, channels=train.channels
    )


def _fit(
    params: Params, model: str, network: Network, train: Path, val: Path, device: str, fingerprint: str, tracked: TrainingRun
) -> dict[str, Any]:
    from components.training.trainer import fit  # imports Ray Train, after everything cheap has been checked
    from components.training.worker import Job

    settings = params.train
    precision: str = settings.precision
    memory, situation = STATE / "precision.json", _situation(params, model, network, device)
    if precision == "auto":
        precision = recall(memory, situation)
    job = Job(
        network=network,
        recipe=settings.models[model],
        train_data=train.resolve(),
        val_data=val.resolve(),
        workers=settings.num_workers,
        cpus_per_worker=settings.cpus_per_worker,
        device=device,
        global_batch=settings.batch_size(model),
        seed=params.seed,
        precision=precision,
    )
    with Follower(model, settings.models[model].epochs, tracked) as follower:
        returned = fit(
            job, fingerprint=fingerprint, storage=STATE / "ray", max_failures=settings.max_failures, on_event=follower
        )
    for row in returned["history"]:
        tracked.epoch(row)  # whatever a lost event left out
    tracked.metrics({f"best_{key}": value for key, value in returned["best"].model_dump().items()})
    if settings.precision == "auto":
        remember(memory, situation, returned["precision"])
    return returned


def _situation(params: Params, model: str, network: Network, device: str) -> str:
    """Digest of what the probe's choice may depend on: the network, its batches, the machine, torch."""
    settings = params.train
    facts = [
        network.model_dump(mode="json"),
        [settings.batch_size(model), settings.num_workers, settings.cpus_per_worker, device],
        os.environ.get("RAY_ADDRESS") or provenance.cpu_model(),
        provenance.environment()["version.torch"],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class Follower(Meter):
    """Shows the loop's events and hands them to MLflow."""

    def __init__(self, model: str, epochs: int, tracked: TrainingRun) -> None:
        super().__init__(f"train@{model}")
        self.epochs, self.tracked, self.begun = epochs, tracked, time.monotonic()

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event.pop("kind")
        if kind == "probe":
            say(
                f"{self.label}: precision {event['precision']} (bf16 measured {event['speedup']:.2f}x as fast as fp32, "
                f"gradients agree to {event['cosine']:.4f})"
            )
            self.tracked.metrics({"probe_speedup": event["speedup"], "probe_cosine": event["cosine"]})
        elif kind == "step":
            self.update(
                event["done"],
                f"epoch {event['epoch']}/{self.epochs}, loss {event['loss']:.3f}, "
                f"{event['images_per_s']:,.0f} images/s, {duration(event['seconds_left'])} left",
            )
        elif kind == "epoch":
            rate = event.pop("images_per_s")
            row = Epoch(**event)
            say(
                f"{self.label}: epoch {row.epoch}/{self.epochs}: loss {row.train_loss:.3f}, train top-1 {row.train_top1:.2%}, "
                f"val top-1 {row.val_top1:.2%}, {rate:,.0f} images/s"
            )
            self.tracked.epoch(row, {"images_per_s": rate})


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
