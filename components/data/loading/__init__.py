"""The data path of training: image stores, sampling and on-line augmentation."""
