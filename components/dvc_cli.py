"""The DVC command line: the only module that runs `dvc`, in this repository and in copies of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from components.errors import UserError
from components.paths import ROOT

LOCK = "dvc.lock"


def dvc(folder: Path, *words: str, timeout_s: float | None = None) -> str:
    """Run `dvc WORDS...` in a copy of the repository and return its standard output.

    Raises:
        UserError: the command failed, and the message ends with DVC's last lines; or it took longer
            than `timeout_s`.
    """
    with tempfile.TemporaryDirectory() as site_cache:
        # DVC caches the listing of a remote and would not notice that a bucket was emptied.
        env = {**os.environ, "DVC_SITE_CACHE_DIR": site_cache}
        try:
            done = subprocess.run(
                _command(words),
                cwd=folder,
                env=env,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired as error:
            raise UserError(f"`dvc {' '.join(words)}` failed: {error}") from None
    if done.returncode:
        lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
        lines = [line for line in lines if line.strip() and "Having any troubles" not in line]
        raise UserError(f"`dvc {' '.join(words)}` failed: " + "; ".join(lines[-4:]))
    return done.stdout


def dvc_interactive(folder: Path, *words: str) -> int:
    """Run `dvc WORDS...` with this process's own output and return its exit code."""
    return subprocess.run(_command(words), cwd=folder, check=False).returncode


def _command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "dvc", *words]


def ignored_paths(paths: Iterable[str]) -> set[str]:
    """Return those of `paths` that a `.dvcignore` of this repository excludes."""
    done = subprocess.run(
        _command(["check-ignore", *paths]), cwd=ROOT, capture_output=True, text=True, check=False
    )
    return set(done.stdout.splitlines())


def check_stages(stages: Sequence[str]) -> None:
    """Check stage names: `train@cnn`, or `train` for all models.

    Raises:
        UserError: `dvc.yaml` has no such stage.
    """
    known = dvc(ROOT, "stage", "list", "--all", "--name-only").split()
    groups = {name.split("@")[0] for name in known}
    unknown = [stage for stage in stages if stage not in known and stage not in groups]
    if unknown:
        raise UserError(f"no such stage: {', '.join(unknown)}; there are {', '.join(known)}")


def check_remote(folder: Path, marker_key: str | None, create_marker: bool = False) -> None:
    """Check that there is a DVC remote that the submitter and the cluster share.

    A remote that is a folder is shared when a marker file, named after `marker_key`, is seen on
    both sides: the submitter creates it (`create_marker`), the job looks for it.

    Raises:
        UserError: there is no remote, or the folder belongs to another machine.
    """
    urls = re.findall(r"^remote\..+?\.url=(.+)$", dvc(folder, "config", "--list"), re.M)
    if not urls:
        raise UserError(
            "no DVC remote: data and results have no way to travel; `dvc remote add --default "
            "NAME URL` and commit .dvc/config (credentials stay out of git: in .dvc/config.local "
            "here, in the environment on the nodes)"
        )
    for url in urls:
        if marker_key and Path(url).is_absolute():
            marker = Path(url) / f".kiln-{marker_key[:16]}"
            if create_marker:
                marker.parent.mkdir(parents=True, exist_ok=True)
                marker.touch()
            elif not marker.exists():
                raise UserError(
                    f"the DVC remote {url} is a folder that this node does not share with the "
                    "submitter"
                )


def outs_containing(paths: list[str], nodes: set[str]) -> list[str]:
    """Return the outs of `dvc.lock` that contain `paths`, which `nodes` lack.

    These are always whole outs. When DVC pushes a part of a folder, it also pushes the listing of
    all its files, and from then on treats the others as pushed.

    Raises:
        UserError: a path belongs to no out.
    """
    lock = ROOT / LOCK
    stages = {}
    if lock.exists():
        stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
    outs = {out["path"] for stage in stages.values() for out in stage.get("outs", [])}
    containing = {
        path: [out for out in outs if path == out or path.startswith(out + "/")] for path in paths
    }
    if unknown := [path for path in paths if not containing[path]]:
        raise UserError(
            f"{', '.join(unknown)}: not on {', '.join(sorted(nodes))}, and no out that dvc.lock "
            "knows; `dvc repro` makes it one, or put it into a folder that all nodes share"
        )
    return sorted(out for path in paths for out in containing[path])
