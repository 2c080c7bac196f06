"""Checks and measurements of Kiln on one GPU, in one run of a few minutes: `gpu_run.__main__`."""
