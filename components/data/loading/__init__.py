"""The batch path of training: image stores, sampling, on-line augmentation."""
