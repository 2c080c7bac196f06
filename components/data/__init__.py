"""Image data: sources, preparation, the on-disk format, augmentation and loading."""
