"""Shows what stands: each model's metrics and gates, its version, who is champion. (for a person)"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from components.artifacts import Receipt, Verdict
from components.console import launch, say, table
from components.params import load_params
from components.tracking import registry, store


def run(reports: Path) -> None:
    """Prints the closing table from the reports and from the registry as it is now."""
    params = load_params()
    verdict = Verdict.read(reports / "verdict.json")
    metrics = json.loads((reports / "metrics.json").read_text())
    client = store.connect()
    name = params.register_.name
    known = {row["version"]: row for row in registry.overview(client, name)}
    rows = []
    for model, m in metrics.items():
        judged = verdict.models[model]
        now = known.get(str(judged.version), {"status": "[red]not in the registry[/]", "aliases": ""})
        rows.append(
            [
                model,
                f"{m['top1']:.2%}",
                f"{m['macro_f1']:.4f}",
                f"{m['min_class_recall']:.2%}",
                f"{m['ece']:.4f}",
                str(judged.version),
                {"passed": "[green]passed[/]", "failed": "[red]failed[/]"}.get(now["status"], now["status"]),
                now["aliases"] or "-",
            ]
        )
    table(
        f"{name} on the test split",
        ["model", "top-1", "macro F1", "worst class", "ECE", "version", "validation", "alias"],
        rows,
    )
    best = max((v for v in verdict.models if verdict.models[v].passed), key=lambda v: metrics[v]["top1"], default=None)
    say(f"pictures: {reports / 'figures'}, data/augmented/preview.png; curves and confusion: dvc plots show; MLflow: make ui")
    if best:
        say(f'next: python -m pipelines.promote --version {verdict.models[best].version} --reason "..."')


def forget(models: Path) -> None:
    """Removes receipts that this registry knows nothing of, so that `dvc repro` registers again.

    DVC sees that a receipt is there; only the registry knows whether it still holds true: the store may have been emptied,
    or `MLFLOW_TRACKING_URI` may point elsewhere now.
    """
    client = store.connect()
    for path in sorted(models.glob("*/receipt.json")):
        receipt = Receipt.read(path)
        known = {row["version"]: row for row in registry.overview(client, receipt.name)}
        if known.get(str(receipt.version), {}).get("model_id") != receipt.model_id:
            path.unlink()
            say(f"status: {path} names version {receipt.version}, unknown to {store.uri()}; it will be registered there")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--forget-foreign", action="store_true", help="remove receipts of another or an emptied registry")
    args = parser.parse_args(argv)
    if args.forget_foreign:
        forget(args.models)
    else:
        run(args.reports)


if __name__ == "__main__":
    launch(main)
