"""Shows what stands: each model's metrics and gates, its version, who is champion. (for a person)"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.text import Text

from components.console import launch, say, table
from components.params import load_params
from components.records.evaluation import Verdict
from components.registry import model_versions
from components.tracking import store


def run(reports: Path) -> None:
    """Prints the closing table from the reports and from the registry as it is now."""
    params = load_params()
    verdict = Verdict.read(reports / "verdict.json")
    metrics = json.loads((reports / "metrics.json").read_text())
    client = store.connect()
    name = params.register_.name
    known = {row["version"]: row for row in model_versions.overview(client, name)}
    rows = []
    for model, m in metrics.items():
        judged = verdict.models[model]
        now = known.get(str(judged.version), {"status": "not in the registry", "aliases": ""})
        rows.append(
            [
                model,
                f"{m['top1']:.2%}",
                f"{m['macro_f1']:.4f}",
                f"{m['min_class_recall']:.2%}",
                f"{m['ece']:.4f}",
                str(judged.version),
                Text(now["status"], "green" if now["status"] == "passed" else "red"),
                now["aliases"] or "-",
            ]
        )
    table(
        f"{name} on the test split",
        ["model", "top-1", "macro F1", "worst class", "ECE", "version", "gates", "alias"],
        rows,
    )
    best = max((v for v in verdict.models if verdict.models[v].passed), key=lambda v: metrics[v]["top1"], default=None)
    say(f"pictures: {reports / 'figures'}, data/augmented/preview.png; curves and confusion: dvc plots show; MLflow: make ui")
    if best and params.promote.alias not in known.get(str(verdict.models[best].version), {}).get("aliases", "").split(", "):
        say(f'next: python -m pipelines.promote --version {verdict.models[best].version} --reason "..."')


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="folder with what evaluate wrote")
    run(parser.parse_args(argv).reports)


if __name__ == "__main__":
    launch(main)
