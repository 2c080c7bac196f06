"""Checks before a run: parameters, raw files, room for workers, the store, receipts it does not know. (for a person)"""

from __future__ import annotations

import argparse
from pathlib import Path

from components.console import launch, say
from components.data.sources.tree import not_for_dvc
from components.dvc_cli import ignored_paths
from components.errors import UserError
from components.params import load_params
from components.ray_session.session import Request, check_local
from components.records.registry import Receipt
from components.registry import model_versions
from components.tracking import store


def run(models: Path) -> None:
    """Refuses at once what a stage would refuse later, and removes receipts that this registry knows nothing of.

    DVC sees that a receipt is there; only the registry can tell whether it still holds true: the store may have been
    emptied, or `MLFLOW_TRACKING_URI` may point elsewhere now. Without the receipt `dvc repro` registers again.
    """
    params = load_params()
    _check_raw(params.preprocess.source.path)
    check_local(Request(params.train.workers[0], params.train.cpus_per_worker))
    client = store.connect()
    for path in sorted(models.glob("*/receipt.json")):
        receipt = Receipt.read(path)
        known = {row["version"]: row for row in model_versions.overview(client, receipt.name)}
        if known.get(str(receipt.version), {}).get("model_id") != receipt.model_id:
            path.unlink()
            say(f"preflight: {path} names version {receipt.version}, unknown to {store.shown()}: to be registered again")


def _check_raw(location: str) -> None:
    """DVC hashes the raw folder itself, before any stage can look at it."""
    found = {f"{location.rstrip('/')}/{refusal.path}": refusal for refusal in not_for_dvc(location)}
    if not found:
        return
    ignored = ignored_paths(found)
    left = [f"  {path} ({refusal.detail})" for path, refusal in found.items() if path not in ignored]
    if left:
        raise UserError(
            "DVC cannot hash what is no file, and would wait for ever or fail; remove it, or name it in .dvcignore:\n"
            + "\n".join(left[:20] + ["  ..."] * (len(left) > 20))
        )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder with a folder per model")
    run(parser.parse_args(argv).models)


if __name__ == "__main__":
    launch(main)
