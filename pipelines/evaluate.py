"""Receipts + test split -> metrics, gates, verdict, plots, and validation_status on each version. (stage)"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from components.console import Meter, launch, say
from components.data.format.images import Images
from components.data.format.shards import read_split
from components.errors import UserError
from components.evaluation import reports
from components.evaluation.predict import batch_starts, predict, predict_all, require_fit
from components.evaluation.reports import Evaluation
from components.files import atomic_directory
from components.params import Evaluate, Params, load_params
from components.ray_session.parallel import spread
from components.records.registry import Receipt
from components.records.splits import Manifest
from components.registry import model_versions, promotion
from components.tracking import store


def run(models: Path, test: Path, out: Path) -> None:
    """Evaluates the version that each receipt below `models` names, once, and writes the reports to `out`.

    Failed gates are a result, not an error: the verdict says so, and `promote` refuses the version.
    """
    params = load_params()
    receipts = [Receipt.read(models / model / "receipt.json") for model in params.train.models]
    images, manifest = read_split(test)
    client = store.connect()
    evaluations = {}
    for receipt in receipts:
        evaluations[receipt.model] = _evaluate(receipt, images, manifest, params.evaluate)
        say(f"evaluate: {evaluations[receipt.model].summary()}")
    with atomic_directory(out) as folder:
        reports.write(folder, evaluations, images)
        # The registry before the outs: if this is interrupted, DVC runs the stage again, and repeating it changes nothing.
        for done in evaluations.values():
            figures = done.metrics.scalars | {"ms_per_image": done.ms_per_image}
            model_versions.record_verdict(client, done.receipt, done.verdict, done.predictions, figures)
    for done in evaluations.values():
        _compare_with_champion(client, done, params, test)


def _evaluate(receipt: Receipt, images: Images, manifest: Manifest, settings: Evaluate) -> Evaluation:
    loaded = model_versions.load(receipt)
    require_fit(f"{receipt.name} version {receipt.version}", loaded.network, manifest)
    if settings.num_workers == 1:
        with Meter(f"evaluate: {receipt.model}") as meter:
            logits, seconds = predict_all(loaded.module, images.pixels, settings.batch_size, meter.count)
    else:
        starts = batch_starts(len(images), settings.batch_size)
        parts = spread(_predict_part, starts, settings.num_workers, receipt, images.pixels, settings.batch_size)
        batches = {start: logits for part, (many, _) in parts for start, logits in zip(part, many, strict=True)}
        logits, seconds = np.concatenate([batches[start] for start in starts]), sum(spent for _, (_, spent) in parts)
    return reports.assess(receipt, loaded.files_sha256, images, manifest, logits, seconds, settings)


def _compare_with_champion(client: Any, done: Evaluation, params: Params, test: Path) -> None:
    """For information, and so in no out: who stands there now is not for a stage to depend on. `promote` asks again."""
    name, alias, number = done.receipt.name, params.promote.alias, done.receipt.version
    holder = model_versions.aliases(client, name).get(alias)
    if holder is None or holder == number:
        return
    try:
        found = promotion.against(client, name, holder, (done.verdict, done.predictions), params, test)
    except UserError as error:
        say(f"evaluate: {done.receipt.model} cannot be compared with {alias} (version {holder}): {error}")
        return
    model_versions.record_comparison(client, name, number, {"difference_low": found.low, "difference_high": found.high})
    say(
        f"evaluate: {done.receipt.model} against {alias} (version {holder}): {100 * found.low:+.2f} to {100 * found.high:+.2f} "
        f"points of top-1 (95 %): {'may be promoted' if found.passed else 'may be worse'}"
    )


def _predict_part(starts: list[int], receipt: Receipt, pixels: np.ndarray, batch_size: int) -> Any:
    """What a Ray task runs: it takes the version from the registry itself."""
    store.connect()
    return predict(model_versions.load(receipt).module, pixels, batch_size, starts)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder with a folder per model, each with its receipt")
    parser.add_argument("--test", type=Path, required=True, help="the test split")
    parser.add_argument("--out", type=Path, required=True, help="folder for the reports")
    args = parser.parse_args(argv)
    run(args.models, args.test, args.out)


if __name__ == "__main__":
    launch(main)
