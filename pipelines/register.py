"""Trained weights -> a version in the MLflow registry -> models/M/receipt.json. Found if it is there. (stage)"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from components.console import launch, say
from components.errors import UserError
from components.files import sha256_file
from components.models import build, weights
from components.params import load_params
from components.records.registry import Receipt
from components.records.training import Epoch, TrainResult
from components.registry import model_versions
from components.tracking import runs, store


def run(model: str, trained: Path, out: Path) -> None:
    """Makes the weights below `trained` a version, unless they are one already, and writes the receipt to `out`."""
    name = load_params().register_.name
    result = TrainResult.read(trained / "result.json")
    path = trained / "weights.safetensors"
    network, state = weights.read(path)
    if (found := sha256_file(path)) != result.sha256:
        raise UserError(f"{path}: expected sha256 {result.sha256}, found {found}; `dvc checkout` restores it")
    client = store.connect()
    version, verb = model_versions.find(client, name, result.sha256), "is already"
    if version is None:
        verb = "becomes"
        module = build(network)
        module.load_state_dict(state)
        tags = {
            runs.FINGERPRINT: result.fingerprint,
            "kiln.architecture": network.architecture,
            **runs.data_tags(result.data),
        }
        experiment = store.experiment(client, name)
        run_id = runs.find_run(client, experiment, result.fingerprint) or runs.import_run(
            client,
            experiment,
            model,
            {"recipe": result.recipe, "seed": result.seed},
            tags,
            _history(trained / "history.csv"),
        )
        version = model_versions.create(client, name, model, module, network, result.sha256, run_id, tags)
    model_id = model_versions.model_id(version)
    Receipt(model=model, name=name, version=int(version.version), model_id=model_id, sha256=result.sha256).write(out)
    say(f"register@{model}: {result.sha256[:12]} {verb} {name} version {version.version} in {store.shown()}")


def _history(path: Path) -> list[Epoch]:
    rows = pd.read_csv(path, float_precision="round_trip").to_dict("records")
    return [Epoch.model_validate(row) for row in rows]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a name in params train.models")
    parser.add_argument("--trained", type=Path, required=True, help="folder with its weights, history and result")
    parser.add_argument("--out", type=Path, required=True, help="the receipt")
    args = parser.parse_args(argv)
    run(args.model, args.trained, args.out)


if __name__ == "__main__":
    launch(main)
