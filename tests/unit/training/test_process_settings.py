"""Effects of the process-wide settings, each in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_COUNT_PAGE_FAULTS = """
import resource, sys
import torch
from components.training.process_settings import prepare_process

if sys.argv[1] == "prepared":
    prepare_process(torch.device("cpu"))
torch.set_num_threads(1)
step = lambda: torch.ones(24 << 20)  # 96 MiB, more than glibc keeps by default
for _ in range(16):  # at first, aligned blocks do not fit into one another's places
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

_CHECK_DETERMINISM = """
import torch
from components.training.process_settings import prepare_process

prepare_process(torch.device("cpu"))
assert torch.are_deterministic_algorithms_enabled()
assert not torch.is_deterministic_algorithms_warn_only_enabled()
prepare_process(torch.device("cuda"))
assert torch.is_deterministic_algorithms_warn_only_enabled()
assert not torch.utils.deterministic.fill_uninitialized_memory
"""


def _run(script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc returns freed memory like this"
)
def test_memory_freed_by_a_step_is_reused_without_page_faults() -> None:
    assert int(_run(_COUNT_PAGE_FAULTS, "default")) > 10_000, "the setting would change nothing"
    assert int(_run(_COUNT_PAGE_FAULTS, "prepared")) < 100


def test_operations_without_deterministic_algorithm_raise_on_cpu_and_warn_on_gpu() -> None:
    _run(_CHECK_DETERMINISM)
