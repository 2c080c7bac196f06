"""Bring the results of a finished job into the working tree."""

from __future__ import annotations

from components.console import echo
from components.dvc_cli import LOCK, dvc
from components.errors import UserError
from components.files import write_bytes
from components.jobs.dvc_lock import find_uncached_outs, merge_locks, split_stages
from components.jobs.metadata import JobMetadata
from components.jobs.results import JobResult, parse_log
from components.paths import QUARANTINE, ROOT
from components.ray_session.code_package import job_key, pack


def check_same_files(metadata: JobMetadata, job: str) -> None:
    """Check that the working tree has the files that the job ran.

    Raises:
        UserError: the files differ, so the job's results do not belong to them.
    """
    if not metadata.key:
        return
    if metadata.key != job_key(pack(allow_dirty=True), metadata.stages):
        raise UserError(
            f"the working tree is no longer what {job} ran (commit {metadata.commit[:12] or '?'}); "
            "its results wait in the DVC remote: bring the tree back (`git stash`, `git checkout`, "
            f"or beside: `git worktree add`) and --attach {job}"
        )


def collect_quarantine(log: str) -> None:
    """Write the list of images that a failed `preprocess` refused, if the job's log has one."""
    try:
        files = parse_log(log).files
    except UserError:  # the job failed for another reason and returned nothing
        return
    if set(files) == {str(QUARANTINE)}:
        write_bytes(ROOT / QUARANTINE, files[str(QUARANTINE)])
        echo(f"submit: what was refused is in {QUARANTINE} here too")


def collect(log: str) -> None:
    """Write the result in a job's log, and fetch the other outs from the DVC remote.

    Raises:
        UserError: the log has no result, or the remote lacks outs. `dvc.lock` is then unchanged.
    """
    result = parse_log(log)
    _check_names(result)
    lock_file = ROOT / LOCK
    previous = lock_file.read_text(encoding="utf-8") if lock_file.exists() else None
    stages = list(split_stages(result.lock))
    write_bytes(lock_file, merge_locks(previous or "", result.lock).encode())
    try:
        echo(f"submit: fetching the outs of {len(stages)} stages from the DVC remote")
        dvc(ROOT, "pull", "--force", *stages)
    except UserError as error:
        if previous is None:
            lock_file.unlink()
        else:
            write_bytes(lock_file, previous.encode())
        raise UserError(f"{error}; if the remote has lost them, submit with --again") from None
    for name, data in result.files.items():
        write_bytes(ROOT / name, data)
    status = dvc(ROOT, "status", *stages).strip()
    if "up to date" in status:
        echo("submit: everything is here; `dvc repro` has nothing to do")
    else:
        echo(f"submit: fetched, but DVC finds differences to this working tree:\n{status}")


def _check_names(result: JobResult) -> None:
    """Refuse files that are not uncached outs: a job must not overwrite other files."""
    uncached = find_uncached_outs(ROOT, result.lock)
    declared = {name for names in uncached.values() for name in names}
    if undeclared := set(result.files) - declared:
        raise UserError(
            f"the job brings files that dvc.yaml does not name: {', '.join(sorted(undeclared))}"
        )
