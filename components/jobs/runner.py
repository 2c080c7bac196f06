"""The inside of a job: checks the site, reproduces stages in a copy of the code, keeps and tells the results.

python -m components.jobs.runner --job ID --commit C --dirty false STAGE...      (`pipelines.submit` builds this)
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from components.console import launch, say
from components.dvc_cli import LOCK, check_remote, dvc, dvc_interactive
from components.errors import UserError
from components.files import exclusive_lock
from components.jobs import results
from components.paths import QUARANTINE
from components.provenance import COMMIT, DIRTY
from components.ray_session import nodes, shared_storage
from components.ray_session.addresses import FORWARDED
from components.ray_session.session import session


def run(job: str, mark: str | None, stages: Sequence[str]) -> int:
    """Reproduces `stages` (all if none are named) and what they need; returns the exit code of `dvc repro`.

    What finished is pushed to the DVC remote even if a later stage fails, so that another attempt need not repeat it.

    Raises:
        UserError: before any work, for a site that lacks something.
    """
    _check_site()
    with _workspace(Path.cwd(), job, mark) as folder:
        lock_file = folder / LOCK
        before = lock_file.read_text(encoding="utf-8") if lock_file.exists() else ""
        # DVC cannot fetch these outs, and takes a stage whose other outs can be had for done.
        stale = results.uncached(folder, before)
        _write_lock(lock_file, results.without(before, set(stale)))
        code = dvc_interactive(folder, "repro", "--pull", *stages)
        say("job: results to the DVC remote")
        pushed = dvc_interactive(folder, "push", "--run-cache")
        if code or pushed:
            if (folder / QUARANTINE).exists():
                _tell(folder, "", [str(QUARANTINE)])
            return code or pushed
        lock = lock_file.read_text(encoding="utf-8")
        _tell(folder, lock, [path for outs in results.uncached(folder, lock).values() for path in outs])
        return 0


def _tell(folder: Path, lock: str, paths: Sequence[str]) -> None:
    for line in results.lines(lock, {path: (folder / path).read_bytes() for path in paths}):
        print(line, flush=True)


def _check_site() -> None:
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise UserError(
            "the cluster does not say where its MLflow is, and a run kept in the job's own copy would be lost: set "
            "MLFLOW_TRACKING_URI on every node (with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD if need be)"
        )
    # One node alone may keep checkpoints on its own disk, if they outlive the job's copy of the code.
    with session() as where:
        import ray

        if sum(node["Alive"] for node in ray.nodes()) == 1:
            os.environ.setdefault("KILN_STORAGE", str(nodes.scratch() / "storage"))
        say(f"job: on {where}; every node writes to and reads from {shared_storage.ready()}")


@contextmanager
def _workspace(package: Path, job: str, mark: str | None) -> Iterator[Path]:
    """A copy of the code for this job alone (Ray gives two jobs of one package the same folder), with the node's cache."""
    folder = nodes.scratch() / "jobs" / job
    with exclusive_lock(folder.with_suffix(".lock"), str(folder)):
        _tidy(folder.parent)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(package, folder, ignore=shutil.ignore_patterns("__pycache__", ".git", ".venv"))
        os.environ["DVC_SITE_CACHE_DIR"] = str(folder / ".dvc" / "site")  # nothing remembered of another attempt's remote
        cache = nodes.scratch() / "cache"
        dvc(folder, "config", "--local", "cache.dir", str(cache))
        dvc(folder, "config", "--local", "cache.type", "hardlink,reflink,copy")
        dvc(folder, "config", "--local", "core.no_scm", "true")
        check_remote(folder, mark)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _tidy(jobs: Path) -> None:
    """Removes the copies of jobs that were killed: nobody holds their lock."""
    for lock in jobs.glob("*.lock"):
        with suppress(UserError), exclusive_lock(lock, str(lock)):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)


def _write_lock(path: Path, text: str) -> None:
    if text:
        path.write_text(text, encoding="utf-8")
    else:
        path.unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE")
    parser.add_argument("--job", required=True, help="its id")
    parser.add_argument("--mark", help="what the submitter left in a DVC remote that is a folder")
    parser.add_argument("--commit", required=True, help="what the code was packed from")
    parser.add_argument("--dirty", choices=["true", "false"], required=True, help="whether it differs from that commit")
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="address, if the site has none")
    args = parser.parse_args(argv)
    os.environ |= {COMMIT: args.commit, DIRTY: args.dirty}
    for name, _, value in (setting.partition("=") for setting in args.setting):
        if name in FORWARDED and not urlsplit(value).password:
            os.environ.setdefault(name, value)
    sys.exit(run(args.job, args.mark, args.stages))


if __name__ == "__main__":
    launch(main)
