"""The repository's root, and paths of files that are no outs of a stage."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".kiln"
"""Checkpoints, locks, caches and unsent metrics. Git and DVC ignore this folder."""

QUARANTINE = STATE.relative_to(ROOT) / "quarantine.csv"
"""Images that `preprocess` refused, when they were too many. Relative to the repository.

It is not an out of the stage, because a stage that fails leaves no outs.
"""

SPLIT_RECORDS = STATE / "splits"
"""The split of each image after the last run of `preprocess`, a file per source."""
