"""Copies of this checkout, so that measured stages touch neither its data nor its records."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks import data
from components.git_cli import git
from components.paths import ROOT


def copy(folder: Path, params: dict[str, Any] | None = None) -> Path:
    """Copy the working tree into `folder`, a new git repository with everything committed.

    The copy has the files that git tracks or would track: code, `dvc.yaml`, raw images. `params`
    replaces `params.yaml`. An existing folder is returned as it is.
    """
    if folder.exists():
        return folder
    names = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, names):
        source = ROOT / name
        target = folder / name
        if source.is_file():  # git still lists a deleted file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    if params is not None:
        data.write_params(folder / "params.yaml", params)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=b", "-c", "user.email=b@b", "commit", "-qm", "copy")
    return folder


def remove(folder: Path, *names: str) -> None:
    """Remove files and folders of a copy, where they exist."""
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).unlink(missing_ok=True)


def reset(folder: Path) -> None:
    """Remove the outs of a copy's stages and all state that they keep between runs."""
    remove(folder, "models", "mlflow.db", "mlartifacts", ".kiln", "data/prepared")


def write_splits(folder: Path, smoke: bool) -> None:
    """Write the prepared splits where the copy's train stage reads them."""
    data.truncate_splits(
        data.prepare_splits(),
        folder / "data" / "prepared",
        data.SMOKE_TRAIN_ROWS if smoke else None,
        data.SMOKE_EVAL_ROWS if smoke else None,
    )
