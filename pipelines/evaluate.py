"""Receipts + test split -> metrics, gates, verdict, plots; sets each validation_status. (stage)"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.console import ProgressBar, echo, launch
from components.data.format.images import Images
from components.data.format.shards import read_split
from components.errors import UserError
from components.evaluation.predict import (
    list_batch_starts,
    predict_batches,
    predict_split,
    require_compatible,
)
from components.evaluation.reports import Evaluation, make_evaluation, write_reports
from components.files import atomic_directory
from components.params import PARAMS_FILE, Evaluate, Params, add_params_option, load_params
from components.ray_session.parallel import ray_map
from components.records.receipt import Receipt
from components.records.splits import Manifest
from components.registry import model_versions, promotion, verdicts
from components.tracking import store
from components.tracking.outages import explain_outage

if TYPE_CHECKING:
    from components.registry.packaging import LoadedModel
    from components.tracking.store import MlflowClient


@explain_outage("repeat the command when it answers")
def run(models: Path, test: Path, out: Path, params_file: Path = PARAMS_FILE) -> None:
    """Evaluate the version that each receipt names, once, and write the reports.

    Failed gates are a result and not an error. The verdict contains them, and `promote` refuses
    the version.

    Args:
        models: folder with one folder per model, each with its receipt.
        test: the test split.
        out: folder for the reports.
        params_file: the parameters.
    """
    params = load_params(params_file)
    receipts = [Receipt.read(models / model / "receipt.json") for model in params.train.models]
    images, manifest = read_split(test)
    client = store.connect()
    evaluations = {}
    for receipt in receipts:
        evaluations[receipt.model] = _evaluate(client, receipt, images, manifest, params.evaluate)
        echo(f"evaluate: {evaluations[receipt.model].summarize()}")
    with atomic_directory(out) as folder:
        write_reports(folder, evaluations, images)
        # The registry is written before the outs are complete. If this is interrupted, DVC runs
        # the stage again, and writing the same verdicts again changes nothing.
        for evaluation in evaluations.values():
            metrics = evaluation.metrics.scalars | {"ms_per_image": evaluation.ms_per_image}
            verdicts.record_verdict(
                client, evaluation.receipt, evaluation.verdict, evaluation.predictions, metrics
            )
    for evaluation in evaluations.values():
        _compare_with_champion(client, evaluation, params, test)


def _evaluate(
    client: MlflowClient, receipt: Receipt, images: Images, manifest: Manifest, settings: Evaluate
) -> Evaluation:
    loaded = model_versions.load(client, receipt)
    if not loaded.reproduced:
        echo(
            f"evaluate: the files of {receipt.model} for MLflow's users were made by another torch "
            "or MLflow, so that they cannot be compared with its weights here"
        )
    require_compatible(f"{receipt.name} version {receipt.version}", loaded.network, manifest)
    if settings.num_workers == 1:
        logits, seconds = _predict_here(receipt.model, loaded, images.pixels, settings.batch_size)
    else:
        logits, seconds = _predict_on_ray(receipt, images.pixels, settings)
    return make_evaluation(
        receipt, loaded.files_sha256, images, manifest, logits, seconds, settings
    )


def _predict_here(
    model: str, loaded: LoadedModel, pixels: np.ndarray, batch_size: int
) -> tuple[np.ndarray, float]:
    with ProgressBar(f"evaluate: {model}") as progress:
        return predict_split(loaded.module, pixels, batch_size, progress.update_count)


def _predict_on_ray(
    receipt: Receipt, pixels: np.ndarray, settings: Evaluate
) -> tuple[np.ndarray, float]:
    """Return the logits, `float32 (N, K)`, and the seconds spent in the module, over all tasks."""
    starts = list_batch_starts(len(pixels), settings.batch_size)
    results = ray_map(
        _predict_part,
        starts,
        receipt,
        pixels,
        settings.batch_size,
        num_tasks=settings.num_workers,
    )
    batches = {
        start: logits
        for part, (part_logits, _) in results
        for start, logits in zip(part, part_logits, strict=True)
    }
    seconds = sum(part_seconds for _, (_, part_seconds) in results)
    return np.concatenate([batches[start] for start in starts]), seconds


def _predict_part(
    starts: list[int], receipt: Receipt, pixels: np.ndarray, batch_size: int
) -> tuple[list[np.ndarray], float]:
    """Predict some batches in a Ray task, which loads the version from the registry itself."""
    loaded = model_versions.load(store.connect(), receipt, compare_files=False)
    return predict_batches(loaded.module, pixels, batch_size, starts)


def _compare_with_champion(
    client: MlflowClient, evaluation: Evaluation, params: Params, test: Path
) -> None:
    """Report a comparison with the version that `promote.alias` names, for information.

    The comparison is in no out of the stage, because a stage must not depend on the state of an
    alias. `promote` makes it again.
    """
    receipt = evaluation.receipt
    alias = params.promote.alias
    champion = model_versions.get_aliases(client, receipt.name).get(alias)
    if champion is None or champion == receipt.version:
        return
    evidence = (evaluation.verdict, evaluation.predictions)
    try:
        comparison = promotion.compare_with_version(
            client, receipt.name, champion, evidence, params, test
        )
    except UserError as error:
        echo(
            f"evaluate: {receipt.model} cannot be compared with {alias} "
            f"(version {champion}): {error}"
        )
        return
    metrics = {"difference_low": comparison.low, "difference_high": comparison.high}
    verdicts.record_comparison(client, receipt.name, receipt.version, metrics)
    echo(
        f"evaluate: {receipt.model} against {alias} (version {champion}): "
        f"{100 * comparison.low:+.2f} to {100 * comparison.high:+.2f} points of top-1 (95 %): "
        f"{'may be promoted' if comparison.passed else 'may be worse'}"
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_params_option(parser)
    parser.add_argument(
        "--models",
        type=Path,
        required=True,
        help="folder with a folder per model, each with its receipt",
    )
    parser.add_argument("--test", type=Path, required=True, help="the test split")
    parser.add_argument("--out", type=Path, required=True, help="folder for the reports")
    args = parser.parse_args(argv)
    run(args.models, args.test, args.out, args.params)


if __name__ == "__main__":
    launch(main)
