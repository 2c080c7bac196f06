"""Measured programs, one module and one process each: `python -m benchmarks.contenders.NAME ...`.

A module's docstring names its positional arguments. `RESULT` is the JSON file that the harness
reads. The contenders that train a `Workload` all take `WORKLOAD RESULT SEED`.
"""
