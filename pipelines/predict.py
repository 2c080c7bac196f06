"""Label pictures with a registered version: a file, folder, archive, table. (for users)"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from components.console import ProgressBar, echo, launch
from components.data.preparation.survey import Imap, is_small, local_imap
from components.data.sources.base import ImageSource
from components.data.sources.files.kinds import describe_ignored
from components.data.sources.files.location import get_local_path
from components.data.sources.unlabelled import Columns, open_unlabelled
from components.errors import UserError
from components.params import PARAMS_FILE, Params, add_params_option, load_params
from components.ray_session.parallel import ray_imap
from components.registry import model_versions, verdicts
from components.serving.predictor import Predictor
from components.serving.tables import (
    Row,
    get_format,
    make_refused_row,
    make_row,
    open_table,
)
from components.tracking import store
from components.tracking.outages import explain_outage

# Up to this size, decoding photos takes less time than starting a local Ray.
_SMALL_MB = 200


@explain_outage("repeat the command when it answers")
def run(
    location: str,
    reference: str,
    out: Path,
    top_k: int = 1,
    threshold: float = 0.0,
    columns: Columns | None = None,
    params_file: Path = PARAMS_FILE,
) -> None:
    """Write a row for each image: its most probable classes, or the reason why it has none.

    Args:
        location: The images (`components.data.sources.unlabelled`).
        reference: The version, as `name@alias` or `name/version`. It must have been evaluated.
        out: File to write, `.csv`, `.jsonl` or `.parquet`.
        top_k: Number of most probable classes to write.
        threshold: Probability below which `label` stays empty.
        columns: Columns of a table or of Parquet files that are read.
        params_file: The parameters, for `preprocess.limits` and `evaluate.batch_size`.

    Raises:
        UserError: before any image is read, if an argument, the version or the images cannot be
            used.
    """
    _check_arguments(location, out, top_k, threshold)
    params = load_params(params_file)
    limits = params.preprocess.limits
    with tempfile.TemporaryDirectory() as scratch:
        source = open_unlabelled(location, limits, Path(scratch), columns)
        predictor = _load(reference, params)
        classes = predictor.network.classes
        if top_k > len(classes):
            raise UserError(f"--top-k {top_k}: {reference} has {len(classes)} classes; give fewer")
        echo(f"predict: {len(source.entries):,} images listed in {location}")
        if source.ignored:
            ignored = describe_ignored(source.ignored)
            echo(f"predict: ignored, because they are not images: {ignored}")
        imap = _choose_imap(source, params.preprocess.num_workers)
        tally = Tally(source.num_listed)
        with open_table(out, top_k) as table, ProgressBar("predict") as progress:
            for batch in predictor.predict_source(source, limits, imap):
                rows = [make_row(image, classes, top_k, threshold) for image in batch]
                table.write(rows)
                tally.add(rows)
                progress.update(tally.share, tally.describe_progress())
            rows = [make_refused_row(refusal, top_k) for refusal in source.refused]
            table.write(rows)
            tally.add(rows)
    echo(f"predict: {tally.describe()}; see {out}")


@dataclass
class Tally:
    """Numbers of rows by their kind, and the rate since it was made."""

    total: int
    labelled: int = 0
    abstained: int = 0
    failed: int = 0
    start: float = field(default_factory=time.monotonic)

    def add(self, rows: Sequence[Row]) -> None:
        """Count further rows."""
        for row in rows:
            if row["error"] is not None:
                self.failed += 1
            elif row["label"] is None:
                self.abstained += 1
            else:
                self.labelled += 1

    @property
    def done(self) -> int:
        return self.labelled + self.abstained + self.failed

    @property
    def share(self) -> float:
        return self.done / self.total

    def describe_progress(self) -> str:
        """Return how many images are done, and how many per second."""
        rate = self.done / max(1e-9, time.monotonic() - self.start)
        return f"{self.done:,}/{self.total:,}, {rate:,.1f} images/s"

    def describe(self) -> str:
        """Return the number of each kind of rows, with the rate."""
        return (
            f"{self.labelled:,} labelled, {self.abstained:,} below the threshold, "
            f"{self.failed:,} not usable ({self.describe_progress()})"
        )


def _check_arguments(location: str, out: Path, top_k: int, threshold: float) -> None:
    get_format(out)
    path = get_local_path(location)
    if path is not None and path.resolve() == out.resolve():
        raise UserError(f"--out {out} is SOURCE itself, which it would replace; give another file")
    if top_k < 1:
        raise UserError(f"--top-k is {top_k}; give a number from 1 on")
    if not 0 <= threshold <= 1:
        raise UserError(f"--threshold is {threshold:g}; give a probability from 0 to 1")


def _load(reference: str, params: Params) -> Predictor:
    """Return the predictor of a version whose files are those that were evaluated."""
    client = store.connect()
    version = model_versions.resolve(client, reference)
    # The digest of the weights is compared. The files for MLflow's users are not used here.
    _, loaded = verdicts.load_verified(client, version, compare_files=False)
    name = f"{version.name} version {version.version}"
    echo(f"predict: {name}, sha256 {loaded.sha256[:12]}, {len(loaded.network.classes)} classes")
    return Predictor.create(name, loaded.module, loaded.network, params.evaluate.batch_size)


def _choose_imap(source: ImageSource, num_workers: int | None) -> Imap:
    """Return the map that decodes chunks: in this process, or in Ray tasks for a large source."""
    if not source.shareable or is_small(source, _SMALL_MB):
        return local_imap
    return partial(ray_imap, num_tasks=num_workers)


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_params_option(parser)
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="an image, a folder, a tar or zip archive, a table of paths (.csv, .tsv, .xlsx, "
        ".json, .jsonl) or Parquet files; a path or a URL such as s3://bucket/folder",
    )
    parser.add_argument("--model", required=True, help="name@alias or name/version")
    parser.add_argument(
        "--out", type=Path, required=True, help="file to write: .csv, .jsonl or .parquet"
    )
    parser.add_argument(
        "--top-k", type=int, default=1, metavar="K", help="also write the K most probable classes"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        metavar="P",
        help="leave the label empty where its probability is below P (default: 0)",
    )
    defaults = Columns()
    parser.add_argument(
        "--path-column", default=defaults.path, help="column of a table (default: path)"
    )
    parser.add_argument(
        "--image-column", default=defaults.image, help="column of Parquet files (default: image)"
    )
    args = parser.parse_args(argv)
    columns = Columns(args.path_column, args.image_column)
    run(args.source, args.model, args.out, args.top_k, args.threshold, columns, args.params)


if __name__ == "__main__":
    launch(main)
