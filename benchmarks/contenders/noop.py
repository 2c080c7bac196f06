"""Seconds of a `dvc repro` that has nothing to do: `REPOSITORY MEGABYTES REPEATS RESULT`.

The outs of the stages are generated, MEGABYTES of them as images, and recorded with `dvc commit`:
a no-op only compares their digests.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.contenders.common import write_result

_SHARD_BYTES = 8 << 20


def main() -> None:
    repository = Path(sys.argv[1])
    megabytes = int(sys.argv[2])
    repeats = int(sys.argv[3])
    result = Path(sys.argv[4])
    if not (repository / "dvc.lock").exists():
        write_outs(repository, megabytes << 20)
        _dvc(repository, "commit", "-f")
    stages = count_unchanged_stages(_dvc(repository, "repro"))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        output = _dvc(repository, "repro")
        seconds.append(time.perf_counter() - start)
        count_unchanged_stages(output)
    write_result(result, {"seconds": statistics.median(seconds), "stages": float(stages)})


def write_outs(repository: Path, size: int) -> None:
    """Write content for every out of the repository's stages.

    Args:
        size: bytes of `data/prepared` and of `data/augmented` together.
    """
    if (repository / "pipelines" / "params.py").exists():
        # The other stages depend on keys of this out.
        command = [sys.executable, "-m", "pipelines.params", "--out", "data/params.yaml"]
        subprocess.run(command, cwd=repository, check=True)
    for out in _list_outs(repository):
        if out.exists():
            continue
        if out.suffix:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text("{}\n")
        elif out.name == "prepared":
            _write_split(out / "train", size // 2)
            _write_split(out / "val", 0)
            _write_split(out / "test", 0)
        elif out.name == "augmented":
            _write_split(out / "train", size // 2)
        else:
            out.mkdir(parents=True)
            (out / "file").write_text("{}\n")


def _list_outs(repository: Path) -> list[Path]:
    from dvc.repo import Repo

    with Repo(str(repository)) as repo:
        return [Path(out.fs_path) for stage in repo.index.stages for out in stage.outs]


def _write_split(folder: Path, size: int) -> None:
    """Write a folder like that of a split: a manifest and shards, `size` random bytes in total."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}\n")
    if size:
        for number in range(max(1, size // _SHARD_BYTES)):
            shard = folder / f"{number:05d}.parquet"
            shard.write_bytes(os.urandom(min(size, _SHARD_BYTES)))


def count_unchanged_stages(output: str) -> int:
    """Return the number of stages in the output of `dvc repro`. Exit if one of them has run."""
    if "Running stage" in output or "up to date" not in output:
        sys.exit(f"not a no-op: {output.strip()[-300:]}")
    return output.count("didn't change, skipping")


def _dvc(repository: Path, *arguments: str) -> str:
    """Run DVC as a user does: `components.dvc_cli` would add a cache of its own to each call."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=repository, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"dvc {' '.join(arguments)}: {done.stderr.strip()[-300:]}")
    return done.stdout + done.stderr


if __name__ == "__main__":
    main()
