"""Show each model's metrics, gates, version and aliases. (for users)"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.text import Text

from components.console import echo, launch, print_table
from components.params import load_params
from components.records.evaluation import Verdict
from components.registry import model_versions
from components.tracking import store


def run(reports: Path) -> None:
    """Print the closing table from the reports and the present state of the registry."""
    params = load_params()
    verdict = Verdict.read(reports / "verdict.json")
    metrics = json.loads((reports / "metrics.json").read_text())
    client = store.connect()
    name = params.register_.name
    versions = {summary.version: summary for summary in model_versions.summarize(client, name)}
    rows = []
    for model, values in metrics.items():
        number = verdict.models[model].version
        summary = versions.get(number)
        status = summary.status if summary else "not in the registry"
        aliases = summary.aliases if summary else []
        rows.append(
            [
                model,
                f"{values['top1']:.2%}",
                f"{values['macro_f1']:.4f}",
                f"{values['min_class_recall']:.2%}",
                f"{values['ece']:.4f}",
                str(number),
                Text(status, "green" if status == "passed" else "red"),
                ", ".join(aliases) or "-",
            ]
        )
    columns = ["model", "top-1", "macro F1", "worst class", "ECE", "version", "gates", "alias"]
    print_table(f"{name} on the test split", columns, rows)
    echo(
        f"pictures: {reports / 'figures'}, data/augmented/preview.png; curves and confusion: dvc "
        "plots show; MLflow: make ui"
    )
    passed = [model for model in verdict.models if verdict.models[model].passed]
    if not passed:
        return
    best = verdict.models[max(passed, key=lambda model: metrics[model]["top1"])].version
    if best not in versions or params.promote.alias not in versions[best].aliases:
        echo(f'next: python -m pipelines.promote --version {best} --reason "..."')


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--reports", type=Path, default=Path("reports"), help="folder with what evaluate wrote"
    )
    run(parser.parse_args(argv).reports)


if __name__ == "__main__":
    launch(main)
