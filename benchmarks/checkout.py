"""A copy of this checkout, so that measuring the stages touches neither its data nor its records."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from benchmarks import data
from components.paths import ROOT


def copy(folder: Path, params: dict[str, Any] | None = None) -> Path:
    """Code, `dvc.yaml` and raw images as they are in the working tree; a git repository of its own, everything committed.

    `params` takes the place of `params.yaml`.
    """
    if folder.exists():
        return folder
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, listed):
        source, target = ROOT / name, folder / name
        if source.is_file():  # a deleted file is listed still
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    if params is not None:
        data.write_params(folder / "params.yaml", params)
    for words in (("init", "-q"), ("add", "-A"), ("-c", "user.name=b", "-c", "user.email=b@b", "commit", "-qm", "copy")):
        subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)
    return folder


def without(folder: Path, *names: str) -> None:
    """Takes files and folders away, if they are there."""
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).unlink(missing_ok=True)


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
