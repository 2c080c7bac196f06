"""The augmented training split, and its preview."""
