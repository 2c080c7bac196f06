"""Run stages inside a Ray job, in a copy of the code, and return the results.

`pipelines.submit` builds the command line:

    python -m components.jobs.runner --job ID --commit C --dirty false STAGE...
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from components.console import echo, launch
from components.dvc_cli import LOCK, check_remote, dvc, dvc_interactive
from components.errors import UserError
from components.files import exclusive_lock
from components.jobs.dvc_lock import find_uncached_outs, remove_stages
from components.jobs.results import JobResult, encode_lines
from components.paths import QUARANTINE
from components.provenance import COMMIT, DIRTY
from components.ray_session import shared_storage
from components.ray_session.addresses import FORWARDED, may_hold_password
from components.ray_session.nodes import living_nodes, node_scratch
from components.ray_session.session import session


def run(job: str, marker_key: str | None, stages: Sequence[str]) -> int:
    """Reproduce stages and their dependencies, push the outs and print the result to the log.

    Finished stages are pushed to the DVC remote even if a later one fails, so that another attempt
    does not repeat them.

    Args:
        job: the job's id.
        marker_key: names the marker file in a DVC remote that is a folder
            (`dvc_cli.check_remote`). None skips that check.
        stages: the stages to run. Empty means all.

    Returns:
        The exit code of `dvc repro`, or of `dvc push` if the stages succeeded.

    Raises:
        UserError: a setting of the site is missing. No stage was started.
    """
    _check_site()
    with _workspace(Path.cwd(), job, marker_key) as folder:
        lock_file = folder / LOCK
        lock = lock_file.read_text(encoding="utf-8") if lock_file.exists() else ""
        # DVC cannot fetch uncached outs, and skips a stage whose other outs it can fetch.
        stale = find_uncached_outs(folder, lock)
        _write_lock(lock_file, remove_stages(lock, set(stale)))
        code = dvc_interactive(folder, "repro", "--pull", *stages)
        echo("job: results to the DVC remote")
        push_code = dvc_interactive(folder, "push", "--run-cache")
        if code or push_code:
            if (folder / QUARANTINE).exists():
                _print_result("", folder, [str(QUARANTINE)])
            return code or push_code
        lock = lock_file.read_text(encoding="utf-8")
        uncached = find_uncached_outs(folder, lock)
        _print_result(lock, folder, [path for paths in uncached.values() for path in paths])
        return 0


def _print_result(lock: str, folder: Path, paths: Sequence[str]) -> None:
    files = {path: (folder / path).read_bytes() for path in paths}
    for line in encode_lines(JobResult(lock, files)):
        print(line, flush=True)


def _check_site() -> None:
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise UserError(
            "the cluster does not say where its MLflow is, and a run kept in the job's own copy "
            "would be lost: set MLFLOW_TRACKING_URI on every node (with MLFLOW_TRACKING_USERNAME "
            "and MLFLOW_TRACKING_PASSWORD if need be)"
        )
    with session() as cluster:
        if len(living_nodes()) == 1:
            # A single node may keep checkpoints on its own disk, outside the job's copy of the
            # code, which is deleted with the job.
            os.environ.setdefault("KILN_STORAGE", str(node_scratch() / "storage"))
        storage = shared_storage.resolve_checked()
        echo(f"job: on {cluster}; every node writes to and reads from {storage}")


@contextmanager
def _workspace(package: Path, job: str, marker_key: str | None) -> Iterator[Path]:
    """Yield a copy of the code for this job alone, with a DVC cache that the node's jobs share.

    Ray gives two jobs with the same package the same folder.
    """
    folder = node_scratch() / "jobs" / job
    with exclusive_lock(folder.with_suffix(".lock"), str(folder)):
        _remove_abandoned(folder.parent)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(
            package, folder, ignore=shutil.ignore_patterns("__pycache__", ".git", ".venv")
        )
        # A new cache of the remote's listing: an earlier attempt may have used another remote.
        os.environ["DVC_SITE_CACHE_DIR"] = str(folder / ".dvc" / "site")
        dvc(folder, "config", "--local", "cache.dir", str(node_scratch() / "cache"))
        dvc(folder, "config", "--local", "cache.type", "hardlink,reflink,copy")
        dvc(folder, "config", "--local", "core.no_scm", "true")
        check_remote(folder, marker_key)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(jobs: Path) -> None:
    """Delete the copies of jobs that were killed: no process holds their locks."""
    for lock in jobs.glob("*.lock"):
        with suppress(UserError), exclusive_lock(lock, str(lock)):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)


def _write_lock(path: Path, text: str) -> None:
    if text:
        path.write_text(text, encoding="utf-8")
    else:
        path.unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, put commit and addresses into the environment, and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE")
    parser.add_argument("--job", required=True, help="id of the job")
    parser.add_argument("--mark", help="key of the marker file in a DVC remote that is a folder")
    parser.add_argument("--commit", required=True, help="commit that the code was packed from")
    parser.add_argument(
        "--dirty",
        choices=["true", "false"],
        required=True,
        help="whether the code differs from that commit",
    )
    parser.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an address, used if the node's environment has none",
    )
    args = parser.parse_args(argv)
    os.environ |= {COMMIT: args.commit, DIRTY: args.dirty}
    for setting in args.setting:
        name, _, value = setting.partition("=")
        if name in FORWARDED and not may_hold_password(value):
            os.environ.setdefault(name, value)
    sys.exit(run(args.job, args.mark, args.stages))


if __name__ == "__main__":
    launch(main)
