"""Computations. `pipelines/` puts them in order; nothing here reads `dvc.yaml`."""
