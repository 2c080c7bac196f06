"""Trained weights -> a version in the MLflow registry and models/M/receipt.json. (stage)"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from torch import Tensor

from components.console import echo, launch
from components.errors import UserError
from components.files import sha256_file
from components.models import weights
from components.models.architectures import restore
from components.params import PARAMS_FILE, add_params_option, load_params
from components.records.receipt import Receipt
from components.records.training import Epoch, Network, TrainResult
from components.registry import model_versions
from components.tracking import runs, store
from components.tracking.outages import explain_outage


@explain_outage("repeat the command when it answers")
def run(model: str, trained: Path, out: Path, params_file: Path = PARAMS_FILE) -> None:
    """Register trained weights as a version, unless they are one already, and write its receipt.

    Args:
        model: Name of the model in `train.models`.
        trained: Folder with its weights, history and result.
        out: The receipt.
        params_file: The parameters.

    Raises:
        UserError: The weights do not match the result, or the store does not take them.
    """
    name = load_params(params_file).register_.name
    result = TrainResult.read(trained / "result.json")
    network, state = _read_weights(trained / "weights.safetensors", result.sha256)
    client = store.connect()
    version = model_versions.find_by_digest(client, name, result.sha256)
    verb = "is already"
    if version is None:
        verb = "becomes"
        tags = {
            runs.FINGERPRINT_TAG: result.fingerprint,
            "kiln.architecture": network.architecture,
            **runs.data_tags(result.data),
        }
        if init := result.recipe.get("init"):
            tags[runs.INIT_TAG] = init
        experiment_id = store.ensure_experiment(client, name)
        run_id = runs.find_run(client, experiment_id, result.fingerprint)
        if run_id is None:
            params = {"recipe": result.recipe, "seed": result.seed}
            history = _read_history(trained / "history.csv")
            run_id = runs.import_run(client, experiment_id, model, params, tags, history)
        version = model_versions.create(
            client, name, model, restore(network, state), network, result.sha256, run_id, tags
        )
    Receipt(
        model=model,
        name=name,
        version=int(version.version),
        model_id=model_versions.get_model_id(version),
        sha256=result.sha256,
    ).write(out)
    echo(
        f"register@{model}: {result.sha256[:12]} {verb} {name} version {version.version} in "
        f"{store.get_redacted_uri()}"
    )


def _read_weights(path: Path, sha256: str) -> tuple[Network, dict[str, Tensor]]:
    network, state = weights.read(path)
    if (found := sha256_file(path)) != sha256:
        raise UserError(
            f"{path}: expected sha256 {sha256}, found {found}; `dvc checkout` restores it"
        )
    return network, state


def _read_history(path: Path) -> list[Epoch]:
    with path.open(encoding="utf-8", newline="") as file:
        return [Epoch.model_validate(row) for row in csv.DictReader(file)]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_params_option(parser)
    parser.add_argument("--model", required=True, help="a name in params train.models")
    parser.add_argument(
        "--trained", type=Path, required=True, help="folder with its weights, history and result"
    )
    parser.add_argument("--out", type=Path, required=True, help="the receipt")
    args = parser.parse_args(argv)
    run(args.model, args.trained, args.out, args.params)


if __name__ == "__main__":
    launch(main)
