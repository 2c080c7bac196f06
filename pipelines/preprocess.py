"""Prepare the raw images: check, convert, split into train, val and test, report. (stage)"""

from __future__ import annotations

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path

from components.console import ProgressBar, echo, launch
from components.data.preparation.class_checks import check_source
from components.data.preparation.description import describe_preparation
from components.data.preparation.quarantine import (
    TooManyRefusedError,
    describe_reasons,
    write_quarantine,
)
from components.data.preparation.report import write_report
from components.data.preparation.resizing import summarize_resizing
from components.data.preparation.selection import Selection, select_images
from components.data.preparation.split_record import locate_record, update_record
from components.data.preparation.survey import Imap, Survey, is_small, local_imap, survey
from components.data.preparation.writing import write_splits
from components.data.sources.base import ImageSource
from components.data.sources.files.kinds import describe_ignored
from components.data.sources.opening import open_source
from components.data.sources.presence import check_present
from components.errors import UserError
from components.files import atomic_directory
from components.params import PARAMS_FILE, Params, add_params_option, load_params
from components.paths import QUARANTINE, ROOT, SPLIT_RECORDS
from components.ray_session.parallel import ray_imap


def run(out: Path, params_file: Path = PARAMS_FILE) -> None:
    """Write the folders `train`, `val` and `test`, `quarantine.csv` and `report.html` into `out`.

    Raises:
        UserError: the source cannot be used; if too many images are refused, all of them are
            listed in `.kiln/quarantine.csv`.
    """
    params = load_params(params_file)
    settings = params.preprocess
    check_present(settings.source)
    with atomic_directory(out) as folder, tempfile.TemporaryDirectory(dir=folder) as scratch:
        source = open_source(settings.source, settings.limits, Path(scratch))
        echo(f"preprocess: {len(source.entries):,} images listed in {settings.source.path}")
        _print_remarks(source)
        check_source(source, settings)
        imap = _choose_imap(source, settings.num_workers)
        with ProgressBar("preprocess") as progress:
            result = survey(source, settings, Path(scratch) / "pixels", imap, progress.update_count)
        selection = _select(result, params)
        preparation = describe_preparation(settings)
        manifests = write_splits(folder, result, selection, settings.shard_mb, preparation)
        write_quarantine(folder / "quarantine.csv", selection.quarantine)
        resizing = summarize_resizing(result, selection, settings)
        write_report(folder / "report.html", result, selection, settings, resizing)
    for warning in selection.warnings + resizing.warnings:
        echo(f"preprocess: warning: {warning}")
    for split, manifest in manifests.items():
        shape = "x".join(str(n) for n in manifest.shape)
        echo(
            f"preprocess: {split}: {manifest.rows:,} images of {shape} "
            f"in {len(manifest.shards)} shards"
        )
    _print_moves(locate_record(SPLIT_RECORDS, settings.source.path, out), result, selection)
    _print_quarantine(result, selection, out)


def _print_moves(record: Path, result: Survey, selection: Selection) -> None:
    """Print how many images changed their split since the last run, if there was one."""
    moves = update_record(record, result, selection)
    if moves.known:
        echo(
            f"preprocess: {moves.moved:,} of {moves.known:,} images known from the last run "
            "changed their split"
        )


def _print_quarantine(result: Survey, selection: Selection, out: Path) -> None:
    """Print how many images are not used, by reason."""
    total = result.source.num_listed
    reasons = describe_reasons(selection.quarantine, total)
    echo(
        f"preprocess: {len(selection.quarantine):,} of {total:,} not used"
        f"{f': {reasons}' if reasons else ''}; see {out / 'report.html'}"
    )


def _print_remarks(source: ImageSource) -> None:
    """Print one line per note about the source, and one about the files that are ignored."""
    for note in source.notes:
        echo(f"preprocess: note: {note}")
    if source.ignored:
        ignored = describe_ignored(source.ignored)
        echo(f"preprocess: ignored, because they are not images: {ignored}; see report.html")


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
