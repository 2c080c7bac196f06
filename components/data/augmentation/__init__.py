"""Off-line augmentation: the augmented training split and its preview."""
