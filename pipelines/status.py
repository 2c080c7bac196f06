"""Show each model's metrics, gates, version and aliases. (for users)"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.text import Text

from components.console import echo, launch, print_table
from components.dvc_cli import LOCK
from components.params import load_params
from components.records.evaluation import ModelVerdict
from components.registry import consistency
from components.registry.consistency import Files, Mismatch, ModelState
from components.tracking import store
from components.tracking.outages import explain_outage

_METRICS = {"top1": ".2%", "macro_f1": ".4f", "min_class_recall": ".2%", "ece": ".4f"}
_COLUMNS = ["model", "top-1", "macro F1", "worst class", "ECE", "version", "gates", "alias"]


@explain_outage("repeat the command when it answers")
def run(files: Files) -> None:
    """Print the closing table from the files and the present state of the registry.

    A model has metrics in it only if its files and its version belong together. For the others the
    files that do not are printed below, with the commands that mend them.

    Raises:
        UserError: The parameters are wrong, or the registry cannot be read.
    """
    params = load_params()
    name = params.register_.name
    states = consistency.check_models(store.connect(), params, files)
    print_table(f"{name} on the test split", _COLUMNS, [_make_row(state) for state in states])
    leftover = consistency.find_unknown_models(params, files)
    _print_mismatches(states, leftover)
    echo(
        f"pictures: {files.reports / 'figures'}, data/augmented/preview.png; curves and confusion: "
        "dvc plots show; MLflow: make ui"
    )
    passed = [state for state in states if state.verdict and state.verdict.passed]
    if not passed:
        return
    best = max(passed, key=_get_top1)
    if params.promote.alias not in best.aliases:
        echo(f'next: python -m pipelines.promote --version {best.version} --reason "..."')


def _make_row(state: ModelState) -> list[str | Text]:
    metrics = state.verdict.metrics if state.verdict else {}
    return [
        state.model,
        *(f"{metrics[key]:{form}}" if key in metrics else "-" for key, form in _METRICS.items()),
        "-" if state.version is None else str(state.version),
        _describe_gates(state.verdict),
        ", ".join(state.aliases) or "-",
    ]


def _describe_gates(verdict: ModelVerdict | None) -> Text:
    if verdict is None:
        return Text("unknown", "yellow")
    return Text("passed", "green") if verdict.passed else Text("failed", "red")


def _get_top1(state: ModelState) -> float:
    return state.verdict.metrics["top1"] if state.verdict else 0.0


def _print_mismatches(states: list[ModelState], leftover: Mismatch | None) -> None:
    """Print each mismatch once, with the models that it concerns, and the commands."""
    models: dict[str, list[str]] = {}
    for state in states:
        for mismatch in state.mismatches:
            models.setdefault(mismatch.text, []).append(state.model)
    for text, names in models.items():
        echo(f"status: {', '.join(names)}: {text}")
    if leftover:
        echo(f"status: {leftover.text}")
    if commands := consistency.list_mending_commands(states, leftover):
        echo(f"to mend it: {' && '.join(commands)}")


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--reports", type=Path, default=Path("reports"), help="folder with what evaluate wrote"
    )
    parser.add_argument(
        "--models", type=Path, default=Path("models"), help="folder with a folder per model"
    )
    parser.add_argument(
        "--test", type=Path, default=Path("data/prepared/test"), help="folder of the test split"
    )
    args = parser.parse_args(argv)
    run(Files(args.models, args.reports, args.test, Path(LOCK)))


if __name__ == "__main__":
    launch(main)
