"""Prepared training split -> data/augmented: images with copies, preview, class counts. (stage)"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from components.console import ProgressBar, echo, launch
from components.data.augmentation.preview import FirstImages, plot_preview
from components.data.format.shards import (
    SplitWriter,
    read_labels,
    read_manifest,
    read_row_groups,
)
from components.files import atomic_directory
from components.params import PARAMS_FILE, add_params_option, load_params


def run(train: Path, out: Path, params_file: Path = PARAMS_FILE) -> None:
    """Write the augmented split, `preview.png` and `class_counts.csv`.

    The channel statistics of the augmented split are those of the original images.

    Args:
        train: the prepared training split.
        out: folder for the outs.
        params_file: the parameters.
    """
    params = load_params(params_file)
    settings = params.augment
    manifest = read_manifest(train)
    with atomic_directory(out) as folder, ProgressBar("augment") as progress:
        writer = SplitWriter(
            folder / "train", "train", manifest.shape, manifest.classes, params.preprocess.shard_mb
        )
        first_images = FirstImages(len(manifest.classes))
        for images in read_row_groups(train, manifest):
            writer.add(images)
            first_images.add(images)
        if settings.makes_copies:
            # Imported here because torch and torchvision cost seconds.
            from components.data.augmentation.offline import ShardSource, make_copies

            source = ShardSource(train, manifest)
            labels = read_labels(train, manifest)
            for images in make_copies(source, labels, settings, params.seed, progress.update_count):
                writer.add(images)
        origin = manifest.origin | {"prepared": manifest.sha256}
        written = writer.finish(manifest.channels, origin, manifest.preparation)
        plot_preview(
            first_images.images(),
            manifest.classes,
            settings,
            params.seed,
            folder / "preview.png",
        )
        counts = pd.DataFrame(
            {
                "class": manifest.classes,
                "original": manifest.class_counts,
                "augmented": written.class_counts,
            }
        )
        counts.to_csv(folder / "class_counts.csv", index=False)
    echo(
        f"augment: {manifest.rows:,} images became {written.rows:,}, "
        f"{min(written.class_counts):,} to {max(written.class_counts):,} per class; "
        f"see {out / 'preview.png'}"
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_params_option(parser)
    parser.add_argument("--train", type=Path, required=True, help="the prepared training split")
    parser.add_argument("--out", type=Path, required=True, help="folder for the augmented split")
    args = parser.parse_args(argv)
    run(args.train, args.out, args.params)


if __name__ == "__main__":
    launch(main)
