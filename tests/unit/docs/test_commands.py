"""Every command of README and docs runs in a test, or states the reason why it does not.

A shell block with the comment `<!-- tested: FILE::TEST -->` is run by that test. A block with
`<!-- not run: REASON -->` needs something that is not here. The others are run below.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.docs.pages import ALL_BLOCKS, PAGES, ROOT, Block, read_prose

SHELL = [block for block in ALL_BLOCKS if block.language in ("bash", "console", "sh")]
RUN_HERE = [block for block in SHELL if not block.comment]
TESTED = [block for block in ALL_BLOCKS if block.comment.startswith("tested: ")]
COMMANDS = {path.stem: path for path in (ROOT / "pipelines").glob("[!_]*.py")}


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell_block_is_run_or_gives_a_reason(block: Block) -> None:
    assert re.match(r"$|tested: \S+::\w+$|not run: \w", block.comment)


@pytest.mark.parametrize("block", TESTED, ids=str)
def test_the_test_that_runs_a_block_exists(block: Block) -> None:
    file, _, name = block.comment.removeprefix("tested: ").partition("::")
    assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("block", RUN_HERE, ids=str)
def test_block_runs(block: Block) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_in_fenced_blocks(page: Path) -> None:
    programs = "make|dvc|python|export|mlflow|ray|git|pytest|kubectl|sudo"
    assert not re.findall(rf"^ {{4,}}(?:{programs}) .*", read_prose(page), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_commands_and_options_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"(?:`|^ *)make ([a-z]+)", text, re.MULTILINE)) <= targets
    for name, arguments in re.findall(r"python -m pipelines\.([a-z]+)([^`\n#]*)", text):
        source = COMMANDS[name].read_text(encoding="utf-8")
        known = set(re.findall(r'"(--[a-z-]+)"', source)) | {"--help"}
        assert set(re.findall(r"--[a-z-]+", arguments)) <= known, name
