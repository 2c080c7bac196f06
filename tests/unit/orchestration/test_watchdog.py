from __future__ import annotations

import subprocess
import sys
from pathlib import Path

STUCK = """
import sys, time
from pathlib import Path
from components.orchestration.watchdog import Watchdog
dog = Watchdog(0.5, Path(sys.argv[1]))
def a_step_that_never_ends():
    time.sleep(60)
dog.alive()
if sys.argv[2] == "stuck":
    a_step_that_never_ends()
for _ in range(4):
    time.sleep(0.3)
    dog.armed = 0  # as if a second had passed
    dog.alive()
dog.rest()
time.sleep(0.7)
"""


def test_a_rank_that_makes_no_progress_dies_and_leaves_its_stacks(tmp_path: Path) -> None:
    stacks = tmp_path / "stacks.txt"
    done = subprocess.run([sys.executable, "-c", STUCK, str(stacks), "stuck"], timeout=50, check=False)
    assert done.returncode == 1
    assert "a_step_that_never_ends" in stacks.read_text()


def test_progress_keeps_it_alive(tmp_path: Path) -> None:
    stacks = tmp_path / "stacks.txt"
    assert subprocess.run([sys.executable, "-c", STUCK, str(stacks), "lively"], timeout=50, check=False).returncode == 0
    assert stacks.read_text() == ""
