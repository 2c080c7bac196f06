"""A finished job's results, brought into the working tree."""

from __future__ import annotations

from components.console import say
from components.dvc_cli import LOCK, dvc
from components.errors import UserError
from components.files import write_bytes
from components.jobs import results
from components.paths import QUARANTINE, ROOT
from components.ray_session.code_package import job_key, pack


def check_same(metadata: dict[str, str], job: str) -> None:
    """Raises `UserError` if the job ran other files than are here, so that its results do not belong to them."""
    key = metadata.get("kiln.key")
    if key and key != job_key(pack(allow_dirty=True), metadata.get("kiln.stages", "").split()):
        raise UserError(
            f"the working tree is no longer what {job} ran (commit {metadata.get('kiln.commit', '?')[:12]}); its results wait "
            "in the DVC remote: bring the tree back (`git stash`, `git checkout`, or beside: `git worktree add`) and "
            f"--attach {job}"
        )


def collect_refused(log: str) -> None:
    """Writes the list of images that a job's `preprocess` refused, if that is what it ended with."""
    try:
        _, files = results.parse(log)
    except UserError:  # it left nothing
        return
    if set(files) == {str(QUARANTINE)}:
        write_bytes(ROOT / QUARANTINE, files[str(QUARANTINE)])
        say(f"submit: what was refused is in {QUARANTINE} here too")


def collect(log: str) -> None:
    """Writes `dvc.lock` and the uncached outs that the job's log tells of, and fetches the others from the DVC remote.

    Raises:
        UserError: the log has no result, or the remote does not have the outs; `dvc.lock` is then as it was.
    """
    lock, files = results.parse(log)
    path = ROOT / LOCK
    before = path.read_text(encoding="utf-8") if path.exists() else None
    expected = {name for names in results.uncached(ROOT, lock).values() for name in names}
    if strange := set(files) - expected:
        raise UserError(f"the job brings files that dvc.yaml does not name: {', '.join(sorted(strange))}")
    stages = list(results.blocks(lock))
    write_bytes(path, results.merged(before or "", lock).encode())
    try:
        say(f"submit: fetching the outs of {len(stages)} stages from the DVC remote")
        dvc(ROOT, "pull", "--force", *stages)
    except UserError as error:
        if before is None:
            path.unlink()
        else:
            write_bytes(path, before.encode())
        raise UserError(f"{error}; if the remote has lost them, submit with --again") from None
    for name, data in files.items():
        write_bytes(ROOT / name, data)
    differs = dvc(ROOT, "status", *stages).strip()
    if "up to date" in differs:
        say("submit: everything is here; `dvc repro` has nothing to do")
    else:
        say(f"submit: fetched, but DVC finds differences to this working tree:\n{differs}")
