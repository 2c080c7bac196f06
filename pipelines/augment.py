"""Prepared training split -> data/augmented: the images and their copies, a preview, class counts. (stage)"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from components.console import Meter, launch, say
from components.data.augmentation.offline import OnDisk, make_copies
from components.data.augmentation.preview import Samples, preview
from components.data.format.shards import Writer, read_labels, read_manifest, read_pieces
from components.files import atomic_directory
from components.params import load_params


def run(train: Path, out: Path) -> None:
    """Writes `train`, `preview.png` and `class_counts.csv` below `out`; the statistics stay those of the originals."""
    params = load_params()
    settings, manifest = params.augment, read_manifest(train)
    with atomic_directory(out) as folder, Meter("augment") as meter:
        writer = Writer(folder / "train", "train", manifest.shape, manifest.classes, params.preprocess.shard_mb)
        samples = Samples(len(manifest.classes))
        for images in read_pieces(train, manifest):
            writer.add(images)
            samples.add(images)
        labels = read_labels(train, manifest)
        for images in make_copies(OnDisk(train, manifest), labels, settings, params.seed, meter.count):
            writer.add(images)
        written = writer.finish(manifest.channels, manifest.origin | {"prepared": manifest.sha256})
        preview(samples.images(), manifest.classes, settings, params.seed, folder / "preview.png")
        counts = pd.DataFrame({"class": manifest.classes, "original": manifest.class_counts, "augmented": written.class_counts})
        counts.to_csv(folder / "class_counts.csv", index=False)
    spread = np.array(written.class_counts)
    say(
        f"augment: {manifest.rows:,} images became {written.rows:,}, {spread.min():,} to {spread.max():,} per class; "
        f"see {out / 'preview.png'}"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, required=True, help="the prepared training split")
    parser.add_argument("--out", type=Path, required=True, help="folder for the augmented split")
    args = parser.parse_args(argv)
    run(args.train, args.out)


if __name__ == "__main__":
    launch(main)
