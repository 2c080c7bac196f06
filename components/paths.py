"""Where the repository is, and where Kiln keeps what no stage declares as an out."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".kiln"
"""Checkpoints, locks, caches and unsent metrics. Git and DVC ignore it."""

QUARANTINE = Path(".kiln") / "quarantine.csv"
"""The images that `preprocess` refused when they were too many. Relative to the repository.

It is not an out: a stage that fails leaves none.
"""
