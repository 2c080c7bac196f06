"""What is trained on and what is held out."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import train_test_split

from components.data.images import Images
from components.errors import UserError


def hold_out(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    """Splits `images` into (training, validation), stratified by class, the order of each kept.

    Raises:
        UserError: a class has fewer than two images, or `fraction` leaves a class without a place on either side.
    """
    classes, counts = np.unique(images.labels, return_counts=True)
    held = round(fraction * len(images))
    if counts.min() < 2 or held < len(classes) or len(images) - held < len(classes):
        raise UserError(
            f"preprocess.val_fraction is {fraction:g}: {held} of {len(images)} images cannot represent "
            f"{len(classes)} classes (the smallest has {counts.min()}, 2 are needed); choose another share"
        )
    train, val = train_test_split(np.arange(len(images)), test_size=held, stratify=images.labels, random_state=seed)
    return images.take(np.sort(train)), images.take(np.sort(val))
