"""Raw images -> data/prepared: checked, made uniform, split into train, val and test; a report. (stage)"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from components.console import Meter, launch, say
from components.data import sources
from components.data.preparation.decide import TooManyRefusedError, decide
from components.data.preparation.prepare import write_splits
from components.data.preparation.report import write_quarantine, write_report
from components.data.preparation.survey import here, is_small, survey
from components.errors import UserError
from components.files import atomic_directory
from components.params import load_params
from components.paths import QUARANTINE, ROOT
from components.ray_session.parallel import stream


def run(out: Path) -> None:
    """Writes `train`, `val`, `test`, `quarantine.csv` and `report.html` below `out`; train's manifest carries the channel
    statistics."""
    params = load_params()
    settings = params.preprocess
    with atomic_directory(out) as folder, tempfile.TemporaryDirectory(dir=folder) as scratch:
        source = sources.load(settings.source, settings.limits, Path(scratch))
        say(f"preprocess: {len(source.entries):,} images listed in {settings.source.path}")
        alone = not source.shareable or is_small(source)
        with Meter("preprocess") as meter:
            found = survey(
                source,
                settings,
                Path(scratch) / "pixels",
                here if alone else lambda function, inputs, *shared: stream(function, inputs, settings.num_workers, *shared),
                meter.count,
            )
        try:
            decision = decide(found, settings, params.seed)
        except TooManyRefusedError as error:
            path = ROOT / QUARANTINE
            path.parent.mkdir(exist_ok=True)
            write_quarantine(path, sorted(error.quarantine))
            raise UserError(f"{error}\nAll of them are in {os.path.relpath(path)}") from None
        manifests = write_splits(folder, found, decision, settings.shard_mb)
        write_quarantine(folder / "quarantine.csv", decision.quarantine)
        write_report(folder / "report.html", found, decision, settings)
    for warning in decision.warnings:
        say(f"preprocess: warning: {warning}")
    for split, manifest in manifests.items():
        shape = "x".join(str(n) for n in manifest.shape)
        say(f"preprocess: {split}: {manifest.rows:,} images of {shape} in {len(manifest.shards)} shards")
    say(
        f"preprocess: {len(decision.quarantine):,} not used, {decision.dropped:,} of them duplicates; see {out / 'report.html'}"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the prepared splits")
    run(parser.parse_args(argv).out)


if __name__ == "__main__":
    launch(main)
