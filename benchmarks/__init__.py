"""Measurements of Kiln, of its alternatives and of the machine: `python -m benchmarks --help`."""
