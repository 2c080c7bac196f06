"""From raw images to batches: sources, splits, the on-disk format, augmentation."""
