"""What malloc is asked for, seen from outside: the kernel counts the pages that it has to hand out."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import torch
from components.training.process_settings import keep_freed

if sys.argv[1] == "keep":
    keep_freed()
torch.set_num_threads(1)
step = lambda: torch.ones(24 << 20)  # 96 MiB, more than glibc ever keeps by itself
for _ in range(16):  # blocks of aligned memory do not fit each other's places at first
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word: str) -> int:
    done = subprocess.run([sys.executable, "-c", _FAULTS, word], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back like this")
def test_what_a_step_frees_is_there_for_the_next_without_a_page_fault() -> None:
    assert faults("leave") > 10_000, "otherwise there is nothing to save"
    assert faults("keep") < 100
