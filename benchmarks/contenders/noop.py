"""Seconds of a `dvc repro` that has nothing to do: `REPOSITORY MEGABYTES REPEATS RESULT`.

What stages would have written is made up, MEGABYTES of it as images, and recorded with `dvc commit`: a no-op only compares.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.contenders.common import report

_SHARD = 8 << 20


def main() -> None:
    repository, megabytes, repeats, result = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    if not (repository / "dvc.lock").exists():
        pretend(repository, megabytes << 20)
        _dvc(repository, "commit", "-f")
    stages = check(_dvc(repository, "repro"))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        shown = _dvc(repository, "repro")
        seconds.append(time.perf_counter() - start)
        check(shown)
    report(result, {"seconds": statistics.median(seconds), "stages": float(stages)})


def pretend(repository: Path, size: int) -> None:
    """Writes something for every out: a file where it has an ending, else a folder of shards."""
    from dvc.repo import Repo

    with Repo(str(repository)) as repo:
        outs = [Path(out.fs_path) for stage in repo.index.stages for out in stage.outs]
    for out in outs:
        if out.suffix:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text("{}\n")
        elif out.name in ("prepared", "augmented"):
            for split in ("train", "val") if out.name == "prepared" else ("train",):
                (out / split).mkdir(parents=True, exist_ok=True)
                (out / split / "manifest.json").write_text("{}\n")
            (out / "test").mkdir(exist_ok=True)
            (out / "test" / "manifest.json").write_text("{}\n")
            for number in range(max(1, size // 2 // _SHARD)):
                (out / "train" / f"{number:05d}.parquet").write_bytes(os.urandom(min(size // 2, _SHARD)))
        else:
            out.mkdir(parents=True, exist_ok=True)
            (out / "file").write_text("{}\n")


def check(shown: str) -> int:
    """How many stages were looked at, all of which must be up to date."""
    if "Running stage" in shown or "up to date" not in shown:
        sys.exit(f"not a no-op: {shown.strip()[-300:]}")
    return shown.count("didn't change, skipping")


def _dvc(repository: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *words], cwd=repository, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"dvc {' '.join(words)}: {done.stderr.strip()[-300:]}")
    return done.stdout + done.stderr


if __name__ == "__main__":
    main()
