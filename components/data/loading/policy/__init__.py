"""On-line augmentation by a policy: operations of the section `augment`, on batches."""
