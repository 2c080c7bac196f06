"""Run stages as one job on a Ray cluster and bring the results back. (for users and CI)"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.console import echo, launch, print_table
from components.dvc_cli import check_remote, check_stages, dvc
from components.errors import UserError
from components.jobs.collect import check_same_files, collect, collect_quarantine
from components.jobs.metadata import JobMetadata
from components.jobs.results import LogPrinter
from components.paths import ROOT
from components.ray_session.code_package import job_key, pack

if TYPE_CHECKING:
    from components.ray_session.private_api.jobs import TimeoutJobSubmissionClient


def run(
    client: TimeoutJobSubmissionClient,
    stages: Sequence[str],
    allow_dirty: bool,
    again: bool,
    detach: bool,
) -> int:
    """Submit a job, or attach to the one for the same files and stages, and collect its results.

    Args:
        client: client of the cluster.
        stages: the stages to run. Empty means all.
        allow_dirty: accept uncommitted changes.
        again: run the job again if it has already succeeded.
        detach: return after the submission.

    Returns:
        The job's exit code; 0 with `detach`.
    """
    from components.jobs import client as ray_jobs

    check_stages(stages)
    package = pack(allow_dirty)
    if package.changes:
        echo(
            "submit: with what differs from the commit:\n"
            + "\n".join(f"  {line}" for line in package.changes)
        )
    size = len(package.archive) / 2**20
    echo(f"submit: commit {package.commit[:12]}, {size:.1f} MiB of code; data to the DVC remote")
    check_remote(ROOT, job_key(package, stages), create_marker=True)
    dvc(ROOT, "push")
    job = ray_jobs.submit(client, package, stages, again)
    echo(f"submit: job {job}")
    if detach:
        echo(f"submit: detached; --attach {job} follows and collects it")
        return 0
    return attach(client, job)


def attach(client: TimeoutJobSubmissionClient, job: str) -> int:
    """Follow a job to its end, collect its results and return its exit code.

    Ctrl-C asks whether to stop the job, and raises KeyboardInterrupt in either case.
    """
    from components.jobs import client as ray_jobs
    from components.jobs.follow import follow

    try:
        finished = follow(client, job, LogPrinter())
    except KeyboardInterrupt:
        if _confirm_stop():
            _stop(client, job)
        else:
            echo(f"submit: detached, {job} goes on; --attach {job} follows and collects it")
        raise
    echo(f"submit: {job} {finished.details.status.value}")
    if code := ray_jobs.exit_code(finished.details):
        if not finished.log.strip():
            echo(finished.details.message or "")
        collect_quarantine(finished.log)
        echo(
            "submit: to try again, submit again: what finished is not repeated, training resumes "
            f"(exit code {code})"
        )
        return code
    check_same_files(JobMetadata.from_ray(finished.details.metadata), job)
    collect(finished.log)
    return 0


def _confirm_stop() -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return input("\nstop the job? [y/N] (no: it goes on) ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        return False


def _stop(client: TimeoutJobSubmissionClient, job: str) -> None:
    from components.jobs import client as ray_jobs

    echo(f"submit: {job} {ray_jobs.stop(client, job).status.value}")


def _show_status(client: TimeoutJobSubmissionClient, job: str | None) -> None:
    """Print a table with one job, or with all jobs."""
    from components.jobs import client as ray_jobs

    rows = []
    for details in [ray_jobs.get_details(client, job)] if job else ray_jobs.list_jobs(client):
        metadata = JobMetadata.from_ray(details.metadata)
        stages = " ".join(metadata.stages) or "all"
        rows.append(
            [str(details.submission_id), details.status.value, metadata.commit[:12], stages]
        )
    print_table(f"jobs on {client.get_address()}", ["job", "status", "commit", "stages"], rows)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and submit, attach to, list or stop a job."""
    args = _parser().parse_args(argv)
    if not args.address:
        raise UserError(
            "--address is needed: the cluster's dashboard, such as https://head:8265 or "
            "http://localhost:8265"
        )
    from components.jobs.client import connect

    client = connect(args.address, args.insecure, args.trust_network)
    if args.status is not None:
        _show_status(client, args.status or None)
    elif args.stop:
        _stop(client, args.stop)
    elif args.attach:
        sys.exit(attach(client, args.attach))
    else:
        sys.exit(run(client, args.stages, args.allow_dirty, args.again, args.detach))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "stages",
        nargs="*",
        metavar="STAGE",
        help="such as train@cnn, or train for all models; default: all",
    )
    parser.add_argument(
        "--address",
        default=os.environ.get("RAY_API_SERVER_ADDRESS"),
        help="the dashboard: https://head:8265",
    )
    parser.add_argument("--allow-dirty", action="store_true", help="accept uncommitted changes")
    parser.add_argument(
        "--again", action="store_true", help="run it even if the same was run with success"
    )
    parser.add_argument("--detach", action="store_true", help="do not wait for the job's end")
    parser.add_argument("--attach", metavar="ID", help="follow that job and collect its results")
    parser.add_argument("--status", metavar="ID", nargs="?", const="", help="show that job, or all")
    parser.add_argument("--stop", metavar="ID", help="end that job")
    parser.add_argument(
        "--insecure", action="store_true", help="accept a cluster without token authentication"
    )
    parser.add_argument(
        "--trust-network", action="store_true", help="accept plain http to another machine"
    )
    return parser


if __name__ == "__main__":
    launch(main)
