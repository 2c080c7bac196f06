"""Training on Ray Train: the trainer, its workers, their events and checkpoints."""
