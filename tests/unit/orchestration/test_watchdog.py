"""The watchdog, in processes that it may end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys, time
from pathlib import Path
from components.orchestration.watchdog import Watchdog
watchdog = Watchdog(0.5, Path(sys.argv[1]))
def a_step_that_never_ends():
    time.sleep(60)
watchdog.reset()
if sys.argv[2] == "stuck":
    a_step_that_never_ends()
for _ in range(4):
    time.sleep(0.3)
    watchdog.armed_at = 0  # as if a second had passed
    watchdog.reset()
watchdog.disarm()
time.sleep(0.7)
"""


def run(stacks: Path, behaviour: str) -> int:
    command = [sys.executable, "-c", SCRIPT, str(stacks), behaviour]
    return subprocess.run(command, timeout=50, check=False).returncode


def test_a_process_without_progress_ends_and_leaves_its_stacks(tmp_path: Path) -> None:
    stacks = tmp_path / "stacks.txt"
    assert run(stacks, "stuck") == 1
    assert "a_step_that_never_ends" in stacks.read_text()


def test_a_process_that_makes_progress_is_left_alone(tmp_path: Path) -> None:
    stacks = tmp_path / "stacks.txt"
    assert run(stacks, "lively") == 0
    assert stacks.read_text() == ""
