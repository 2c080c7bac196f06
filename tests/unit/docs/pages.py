"""The Markdown pages of the repository, and the code blocks in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "benchmarks" / "NOTES.md",
        ROOT / "tests" / "integration" / "README.md",
    ]
)
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)$")


@dataclass(frozen=True)
class Block:
    """A fenced code block, with the HTML comment on the line before it."""

    page: Path
    line: int
    language: str
    comment: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def find_blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced code blocks of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        number += 1
        if fence is None:
            continue
        start = number
        while lines[number].strip() != "```":
            number += 1
        indent = len(fence["indent"])
        text = "\n".join(line[indent:] for line in lines[start:number])
        before = lines[start - 2].strip() if start > 1 else ""
        comment = before.removeprefix("<!-- ").removesuffix(" -->") if "<!-- " in before else ""
        yield Block(page, start, fence["language"], comment, text)
        number += 1


def read_prose(page: Path) -> str:
    """Return a page's text without its code blocks."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^ *```\w*\n.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


ALL_BLOCKS = [block for page in PAGES for block in find_blocks(page)]
