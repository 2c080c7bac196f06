"""DVC in this repository and in copies of it, by its command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from components.cluster.package import LOCK
from components.errors import UserError
from components.provenance import ROOT


def dvc(folder: Path, *words: str) -> str:
    """A DVC command in a copy of the repository. Raises `UserError` with what DVC says if it fails."""
    command = [sys.executable, "-m", "dvc", *words]
    with tempfile.TemporaryDirectory() as memory:
        # DVC remembers what a remote had and would not look again; a bucket may have been emptied since.
        env = {**os.environ, "DVC_SITE_CACHE_DIR": memory}
        done = subprocess.run(
            command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip() and "Having any troubles" not in line]
        raise UserError(f"`dvc {' '.join(words)}` failed: " + "; ".join(lines[-4:]))
    return done.stdout


def check_stages(stages: Sequence[str]) -> None:
    """Raises `UserError` for a name that dvc.yaml does not have: `train@cnn`, or `train` for all of them."""
    known = dvc(ROOT, "stage", "list", "--all", "--name-only").split()
    wrong = [stage for stage in stages if stage not in known and stage not in {name.split("@")[0] for name in known}]
    if wrong:
        raise UserError(f"no such stage: {', '.join(wrong)}; there are {', '.join(known)}")


def check_remote(folder: Path, mark: str | None, leave: bool = False) -> None:
    """Makes sure that there is a DVC remote and, if it is a folder, that it is the one that the submitter sees: `leave` puts
    a file named after `mark` there, without it the file must be there.

    Raises:
        UserError: there is none, or it is another machine's folder.
    """
    urls = re.findall(r"^remote\..+?\.url=(.+)$", dvc(folder, "config", "--list"), re.M)
    if not urls:
        raise UserError(
            "no DVC remote: data and results have no way to travel; `dvc remote add --default NAME URL` and commit .dvc/config "
            "(credentials stay out of git: in .dvc/config.local here, in the environment on the nodes)"
        )
    for url in urls:
        if mark and Path(url).is_absolute():
            marker = Path(url) / f".kiln-{mark[:16]}"
            if leave:
                marker.parent.mkdir(parents=True, exist_ok=True)
                marker.touch()
            elif not marker.exists():
                raise UserError(f"the DVC remote {url} is a folder that this node does not share with the submitter")


def outs_with(paths: list[str], lacking: set[str]) -> list[str]:
    """The outs of `dvc.lock` with these paths in them. Whole ones: of a part DVC would push the listing of all files too, and
    take the others for pushed ever after."""
    lock = ROOT / LOCK
    stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"].values() if lock.exists() else []
    known = {out["path"] for stage in stages for out in stage.get("outs", [])}
    found = {path: [out for out in known if path == out or path.startswith(out + "/")] for path in paths}
    if unknown := [path for path, outs in found.items() if not outs]:
        raise UserError(
            f"{', '.join(unknown)}: not on {', '.join(sorted(lacking))}, and no out that dvc.lock knows; "
            "`dvc repro` makes it one, or put it into a folder that all nodes share"
        )
    return sorted(out for outs in found.values() for out in outs)
