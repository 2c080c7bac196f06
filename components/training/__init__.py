"""The training loop and its numerics. Torch only: never Ray, MLflow or DVC."""
