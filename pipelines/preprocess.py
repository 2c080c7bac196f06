"""Prepare the raw images: check, convert, split into train, val and test, report. (stage)"""

from __future__ import annotations

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path

from components.console import ProgressBar, echo, launch
from components.data.preparation.quarantine import TooManyRefusedError, write_quarantine
from components.data.preparation.report import write_report
from components.data.preparation.selection import Selection, select_images
from components.data.preparation.survey import Imap, Survey, is_small, local_imap, survey
from components.data.preparation.writing import write_splits
from components.data.sources import open_source
from components.data.sources.base import ImageSource
from components.errors import UserError
from components.files import atomic_directory
from components.params import PARAMS_FILE, Params, add_params_option, load_params
from components.paths import QUARANTINE, ROOT
from components.ray_session.parallel import ray_imap


def run(out: Path, params_file: Path = PARAMS_FILE) -> None:
    """Write the folders `train`, `val` and `test`, `quarantine.csv` and `report.html` into `out`.

    Raises:
        UserError: the source cannot be used; if too many images are refused, all of them are
            listed in `.kiln/quarantine.csv`.
    """
    params = load_params(params_file)
    settings = params.preprocess
    with atomic_directory(out) as folder, tempfile.TemporaryDirectory(dir=folder) as scratch:
        source = open_source(settings.source, settings.limits, Path(scratch))
        echo(f"preprocess: {len(source.entries):,} images listed in {settings.source.path}")
        imap = _choose_imap(source, settings.num_workers)
        with ProgressBar("preprocess") as progress:
            result = survey(source, settings, Path(scratch) / "pixels", imap, progress.update_count)
        selection = _select(result, params)
        manifests = write_splits(folder, result, selection, settings.shard_mb)
        write_quarantine(folder / "quarantine.csv", selection.quarantine)
        write_report(folder / "report.html", result, selection, settings)
    for warning in selection.warnings:
        echo(f"preprocess: warning: {warning}")
    for split, manifest in manifests.items():
        shape = "x".join(str(n) for n in manifest.shape)
        echo(
            f"preprocess: {split}: {manifest.rows:,} images of {shape} "
            f"in {len(manifest.shards)} shards"
        )
    echo(
        f"preprocess: {len(selection.quarantine):,} not used, {selection.num_dropped:,} of them "
        f"duplicates; see {out / 'report.html'}"
    )


def _choose_imap(source: ImageSource, num_workers: int | None) -> Imap:
    """Return the map that examines chunks: in this process, or in Ray tasks for a large source."""
    if not source.shareable or is_small(source):
        return local_imap
    return partial(ray_imap, num_tasks=num_workers)


def _select(result: Survey, params: Params) -> Selection:
    """Select images; if too many are refused, keep the list of them outside the stage's out."""
    try:
        return select_images(result, params.preprocess, params.seed)
    except TooManyRefusedError as error:
        path = ROOT / QUARANTINE
        path.parent.mkdir(exist_ok=True)
        write_quarantine(path, sorted(error.quarantine))
        raise UserError(f"{error}\nAll of them are in {os.path.relpath(path)}") from None


def main(argv: list[str] | None = None) -> None:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_params_option(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for the prepared splits")
    args = parser.parse_args(argv)
    run(args.out, args.params)


if __name__ == "__main__":
    launch(main)
