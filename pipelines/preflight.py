"""Check parameters, raw files, weights, machine and stores; remove stale receipts. (for users)"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from components import provenance
from components.console import echo, launch
from components.data.sources.files.tree import find_unhashable_files
from components.data.sources.presence import check_present
from components.dvc_cli import dvc, ignored_paths
from components.errors import UserError
from components.models.names import check_architecture
from components.params import Source, load_params
from components.ray_session.resources import WorkerRequest, check_local_capacity
from components.ray_session.session import check_cluster
from components.records.receipt import Receipt
from components.registry import model_versions
from components.registry.starting_weights import is_outdated, pin_all
from components.tracking import store

RESOLVED = Path("data/params.yaml")
_MAX_LISTED = 20


def run(models: Path, resolved: Path = RESOLVED) -> None:
    """Find errors that a stage would report only later; renew what DVC wrongly trusts.

    DVC sees that a receipt exists. Only the registry knows whether it is still valid: the store may
    have been emptied, or `MLFLOW_TRACKING_URI` may name another one now. Without the receipt,
    `dvc repro` registers the model again. DVC does not see either that the weights behind an `init`
    are others now: the stage `params`, which records their digests, is run here then.

    Each check is the one that a stage makes itself.

    Raises:
        UserError: parameters are wrong; or one message for all of the other checks that failed.
    """
    params = load_params()
    settings = params.train
    request = WorkerRequest(settings.num_workers.min, settings.cpus_per_worker)
    connect = cache(store.connect)  # one client for all that asks the store
    pins = partial(pin_all, params, models, connect)
    _run_checks(
        _check_version_control,
        partial(_check_raw_files, params.preprocess.source),
        partial(check_local_capacity, request, settings.device, settings.precision),
        *(
            partial(check_architecture, recipe.architecture)
            for recipe in params.train.models.values()
        ),
        check_cluster,
        connect,
        partial(_renew_outdated_parameters, pins, resolved),
    )
    _remove_stale_receipts(connect(), models)


def _run_checks(*checks: Callable[[], object]) -> None:
    problems = []
    for check in checks:
        try:
            check()
        except UserError as error:
            problems.append(str(error))
    if len(problems) > 1:
        lines = [f"  {n}. {problem}" for n, problem in enumerate(problems, 1)]
        raise UserError("\n".join([f"{len(problems)} problems", *lines]))
    if problems:
        raise UserError(problems[0])


def _remove_stale_receipts(client: store.MlflowClient, models: Path) -> None:
    for path in sorted(models.glob("*/receipt.json")):
        receipt = Receipt.read(path)
        versions = {v.version: v for v in model_versions.summarize(client, receipt.name)}
        version = versions.get(receipt.version)
        if version is None or version.model_id != receipt.model_id:
            path.unlink()
            echo(
                f"preflight: {path} names version {receipt.version}, unknown to "
                f"{store.get_redacted_uri()}: to be registered again"
            )


def _renew_outdated_parameters(pins: Callable[[], dict[str, str]], resolved: Path) -> None:
    if is_outdated(resolved, pins()):
        echo(f"preflight: the weights behind an init changed: {resolved} is made again")
        # Without `--force`, DVC would restore what it has for this params.yaml.
        dvc(Path.cwd(), "repro", "--force", "--single-item", "params")


def _check_version_control() -> None:
    if warning := provenance.check_version_control():
        echo(f"preflight: warning: {warning}")


def _check_raw_files(source: Source) -> None:
    """Refuse a missing source, and files that DVC cannot hash.

    DVC hashes the raw folder before any stage starts.
    """
    check_present(source)
    location = source.path
    refusals = {
        f"{location.rstrip('/')}/{refusal.path}": refusal
        for refusal in find_unhashable_files(location)
    }
    if not refusals:
        return
    ignored = ignored_paths(refusals)
    lines = [
        f"  {path} ({refusal.detail})" for path, refusal in refusals.items() if path not in ignored
    ]
    if lines:
        more = ["  ..."] if len(lines) > _MAX_LISTED else []
        raise UserError(
            "Not regular files: DVC hangs or fails on them. "
            "Delete them or list them in .dvcignore:\n" + "\n".join(lines[:_MAX_LISTED] + more)
        )


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models", type=Path, default=Path("models"), help="folder with a folder per model"
    )
    run(parser.parse_args(argv).models)


if __name__ == "__main__":
    launch(main)
