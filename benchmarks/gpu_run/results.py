"""Results of the GPU run: a line of JSON for each, written at once."""

from __future__ import annotations

import gc
import json
import math
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

RESULTS = "results.jsonl"
_MAX_ERROR = 600
_MAX_PRINTED = 400


class Results:
    """Appends the results of `part` to `OUT/results.jsonl`, and prints them."""

    def __init__(self, out: Path, part: str) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / RESULTS
        self.part = part
        self._start = time.monotonic()

    def add(self, name: str, **values: Any) -> None:
        """Write one result. Values that JSON does not know are written as text."""
        seconds = round(time.monotonic() - self._start, 1)
        record = {"part": self.part, "name": name, **values, "at_s": seconds}
        line = json.dumps(_to_json(record))
        with self.path.open("a+b") as file:
            if not _ends_a_line(file):
                file.write(b"\n")
            file.write(f"{line}\n".encode())
        print(line if len(line) <= _MAX_PRINTED else f"{line[:_MAX_PRINTED]} ...", flush=True)

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Record an exception of the block under `name`, and go on after the block.

        The message names the last lines of code in its traceback. An exit or an interruption is
        not caught.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001 (one failure must not cost the others)
            self.add(name, error=_describe(error))
            traceback.print_exc()
            # The frames keep tensors of the device alive.
            traceback.clear_frames(error.__traceback__)
            del error
            free_memory()


def free_memory() -> None:
    """Return memory of the device that no tensor occupies, after a collection of garbage."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _ends_a_line(file: BinaryIO) -> bool:
    """Return False if a process was killed while it wrote the last line of `file`."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read() == b"\n"


def read_results(out: Path, part: str) -> list[dict[str, Any]]:
    """Read the results of one part, or none if there is no file. Torn lines are left out."""
    path = out / RESULTS
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["part"] == part:
            records.append(record)
    return records


def _describe(error: Exception) -> str:
    """Return the type and message of an error, and the last three places of its traceback."""
    text = " ".join("".join(traceback.format_exception_only(error)).split())
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    places = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-3:])
    return f"{text[:_MAX_ERROR]} ({places})"


def _to_json(value: Any) -> Any:
    """Return a value of JSON: no number that is not finite, tensors of one element as numbers."""
    match value:
        case dict():
            return {str(key): _to_json(item) for key, item in value.items()}
        case list() | tuple():
            return [_to_json(item) for item in value]
        case torch.Tensor():
            return _to_json(value.detach().tolist())
        case float():
            return value if math.isfinite(value) else str(value)
        case bool() | int() | str() | None:
            return value
        case _:
            return str(value)
