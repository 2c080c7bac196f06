"""Kiln beside what people would use instead, and beside what the machine can do: `python -m benchmarks --help`."""
