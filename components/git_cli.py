"""The git command line: the only module that runs `git`."""

from __future__ import annotations

import subprocess
from pathlib import Path

_TIMEOUT_S = 120


class GitError(Exception):
    """A git command failed, or git is not installed. The message names the reason."""


def git(folder: Path, *words: str) -> str:
    """Run `git WORDS...` in `folder` and return its standard output.

    Raises:
        GitError: the command failed or took longer than two minutes.
    """
    command = ["git", *words]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except FileNotFoundError:
        raise GitError("git is not installed") from None
    except subprocess.CalledProcessError as error:
        raise GitError(f"`{' '.join(command)}` failed: {error.stderr.strip()}") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise GitError(f"`{' '.join(command)}` failed: {error}") from None
    return done.stdout
