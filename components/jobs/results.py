"""The result of a job, as lines of the job's log.

All other outs travel through the DVC remote. `dvc.lock` and the outs that DVC does not cache are
small. In the log they reach every client that can follow the job.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from components.errors import UserError
from components.foreign_text import clean_log

LINE_PREFIX = "kiln-result:"
_MAX_LINE_CHARACTERS = 4000


@dataclass(frozen=True)
class JobResult:
    """The files that a job returns through its log."""

    lock: str = ""
    """Content of `dvc.lock`. Empty if the job failed."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Content of other files, by path relative to the repository."""


def encode_lines(result: JobResult) -> Iterator[str]:
    """Yield the log lines that carry a result.

    Each line holds its number, the number of lines, the digest of the whole result and a part of
    the result.
    """
    files = {name: base64.b64encode(data).decode() for name, data in result.files.items()}
    content = json.dumps({"lock": result.lock, "files": files}).encode()
    packed = zlib.compress(content, 9)
    text = base64.b64encode(packed).decode()
    digest = hashlib.sha256(packed).hexdigest()
    starts = range(0, len(text), _MAX_LINE_CHARACTERS)
    for number, start in enumerate(starts, 1):
        part = text[start : start + _MAX_LINE_CHARACTERS]
        yield f"{LINE_PREFIX} {number}/{len(starts)} {digest} {part}"


def parse_log(log: str) -> JobResult:
    """Return the last result in a job's log.

    Raises:
        UserError: the log has no complete result.
    """
    lines = [line.split(" ") for line in log.splitlines() if line.startswith(LINE_PREFIX + " ")]
    digest = lines[-1][2] if lines else ""
    packed = base64.b64decode("".join(line[3] for line in lines if line[2] == digest))
    if not lines or hashlib.sha256(packed).hexdigest() != digest:
        raise UserError(
            "the job's log has no result in it, or not all of it; submit with --again to run it "
            "again"
        )
    content = json.loads(zlib.decompress(packed))
    files = {name: base64.b64decode(data) for name, data in content["files"].items()}
    return JobResult(content["lock"], files)


class LogPrinter:
    """Print the log of a job as it arrives, without the lines that carry results.

    Secrets and control sequences other than colours are replaced (`clean_log`): the log has
    the output of every library and of code that ran elsewhere.
    """

    def __init__(self) -> None:
        self.incomplete_line = ""

    def __call__(self, text: str) -> None:
        *lines, self.incomplete_line = (self.incomplete_line + text).split("\n")
        shown = [line for line in lines if not line.startswith(LINE_PREFIX)]
        sys.stdout.write(clean_log("".join(f"{line}\n" for line in shown)))
        sys.stdout.flush()
