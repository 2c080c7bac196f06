"""An earlier commit of this repository, checked out with the data that DVC has for it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from components.dvc_cli import LOCK, dvc
from components.errors import UserError
from components.git_cli import GitError, git
from components.paths import ROOT

_TIMEOUT_S = 1800


def checkout(commit: str, folder: Path) -> bool:
    """Clone this repository's `commit` into `folder`, with the same DVC cache and remotes.

    Returns False when the repository does not have the commit.
    """
    try:
        git(ROOT, "cat-file", "-e", f"{commit}^{{commit}}")
        git(ROOT, "clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(folder))
        git(folder, "checkout", "--quiet", "--detach", commit)
    except GitError:
        return False
    local = ROOT / ".dvc" / "config.local"
    if local.exists():
        (folder / ".dvc" / "config.local").write_bytes(local.read_bytes())
    with suppress(UserError):
        # DVC prints the folder that its settings name, on any of their levels.
        cache = dvc(ROOT, "cache", "dir").strip()
        dvc(folder, "cache", "dir", "--local", str(ROOT / cache))
    return True


def lock_candidates(commit: str) -> list[str]:
    """Return the contents of `dvc.lock` that may describe a training at `commit`, nearest first.

    DVC records a training in `dvc.lock` after it ran, so the file at the training's own commit does
    not contain it yet. The candidates are the file at the commit, at the later commits that changed
    it, and in the working tree.
    """
    revisions = [commit]
    with suppress(GitError):
        later = git(ROOT, "log", "--reverse", "--format=%H", f"{commit}..HEAD", "--", LOCK)
        revisions += later.split()
    texts = []
    for revision in revisions:
        with suppress(GitError):
            texts.append(git(ROOT, "show", f"{revision}:{LOCK}"))
    current = ROOT / LOCK
    if current.exists():
        texts.append(current.read_text(encoding="utf-8"))
    return [text for text in texts if text]


def fetch_outs(folder: Path, lock: str) -> None:
    """Write another `dvc.lock` into a checkout and fetch its outs from the cache or the remote.

    Outs that are in neither of them are missing afterwards.
    """
    (folder / LOCK).write_text(lock, encoding="utf-8")
    _try_dvc(folder, "checkout", "--allow-missing", "--force", "--quiet")
    _try_dvc(folder, "pull", "--allow-missing", "--force", "--quiet")


def _try_dvc(folder: Path, *words: str) -> None:
    with suppress(UserError):
        dvc(folder, *words, timeout_s=_TIMEOUT_S)
