"""Raw images -> data/prepared: checked, resized, split into train, val and test. (stage)"""

from __future__ import annotations

import argparse
from pathlib import Path

from components.artifacts import staged
from components.console import launch, say
from components.data import sources
from components.data.resize import resize
from components.data.shards import channel_statistics, write_split
from components.data.splits import hold_out
from components.params import load_params


def run(out: Path) -> None:
    """Writes `train`, `val` and `test` below `out`; train's manifest carries the channel statistics."""
    params = load_params()
    settings = params.preprocess
    raw = sources.load(settings.source)
    say(
        f"preprocess: read {len(raw.train):,} training and {len(raw.test):,} test images, {len(raw.classes)} classes, "
        f"from {settings.source.path}"
    )
    train, val = hold_out(raw.train, settings.val_fraction, params.seed)
    origin = {"raw": raw.sha256}
    splits = {"train": train, "val": val, "test": raw.test}
    with staged(out) as folder:
        for split, images in splits.items():
            images = resize(images, settings.image_size)
            channels = channel_statistics(images.pixels) if split == "train" else None
            manifest = write_split(folder / split, split, images, raw.classes, settings.shard_mb, channels, origin)
            shape = "x".join(str(n) for n in manifest.shape)
            say(f"preprocess: {split}: {manifest.rows:,} images of {shape} in {len(manifest.shards)} shards")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the prepared splits")
    run(parser.parse_args(argv).out)


if __name__ == "__main__":
    launch(main)
