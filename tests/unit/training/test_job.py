"""What a driver starts workers with."""

from __future__ import annotations

import subprocess
import sys

_DRIVER = """
import sys
import pipelines.train
from components.cluster import interface
from components.training import checkpoint, choice, job, trainer
sys.exit("torch" in sys.modules)
"""


def test_the_driver_comes_as_far_as_the_workers_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", _DRIVER], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or "torch is imported, for over a second in which the workers could have begun"
