"""Runs stages as one job on a Ray cluster and brings the results back here. (for a person or CI)"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from components.console import launch, say, table
from components.dvc_cli import check_remote, check_stages, dvc
from components.errors import UserError
from components.jobs.collect import check_same, collect, collect_refused
from components.jobs.results import Shown
from components.paths import ROOT
from components.ray_session.code_package import job_key, pack


def run(client: Any, stages: Sequence[str], allow_dirty: bool, again: bool, detach: bool) -> int:
    """Submits, unless the same was submitted before, and follows; returns the job's exit code."""
    from components.jobs import client as ray_jobs

    check_stages(stages)
    package = pack(allow_dirty)
    if package.dirty:
        say("submit: with what differs from the commit:\n" + "\n".join(f"  {line}" for line in package.dirty))
    say(f"submit: commit {package.commit[:12]}, {len(package.data) / 2**20:.1f} MiB of code; data to the DVC remote")
    check_remote(ROOT, job_key(package, stages), create_marker=True)
    dvc(ROOT, "push")
    job = ray_jobs.submit(client, package, stages, again)
    say(f"submit: job {job}")
    if detach:
        say(f"submit: detached; --attach {job} follows and collects it")
        return 0
    return attach(client, job)


def attach(client: Any, job: str) -> int:
    """Follows a job to its end and collects its results; returns its exit code. Ctrl-C asks whether to stop it."""
    from components.jobs import client as ray_jobs

    try:
        details, log = ray_jobs.follow(client, job, Shown())
    except KeyboardInterrupt:
        if _wants_it_stopped():
            say(f"submit: {job} {ray_jobs.stop(client, job).status.value}")
        else:
            say(f"submit: detached, {job} goes on; --attach {job} follows and collects it")
        raise
    say(f"submit: {job} {details.status.value}")
    if code := ray_jobs.exit_code(details):
        if not log.strip():
            say(details.message or "")
        collect_refused(log)
        say(f"submit: to try again, submit again: what finished is not repeated, training resumes (exit code {code})")
        return code
    check_same(details.metadata or {}, job)
    collect(log)
    return 0


def _wants_it_stopped() -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return input("\nstop the job? [y/N] (no: it goes on) ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        return False


def _status(client: Any, job: str | None) -> None:
    from components.jobs import client as ray_jobs

    found = [ray_jobs.info(client, job)] if job else ray_jobs.listed(client)
    facts = [(str(d.submission_id), d.status.value, d.metadata or {}) for d in found]
    rows = [[name, status, of.get("kiln.commit", "")[:12], of.get("kiln.stages") or "all"] for name, status, of in facts]
    table(f"jobs on {client.get_address()}", ["job", "status", "commit", "stages"], rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="such as train@cnn, or train for all models; default: all")
    parser.add_argument("--address", default=os.environ.get("RAY_API_SERVER_ADDRESS"), help="the dashboard: https://head:8265")
    parser.add_argument("--allow-dirty", action="store_true", help="take uncommitted changes along")
    parser.add_argument("--again", action="store_true", help="run it even if the same was run with success")
    parser.add_argument("--detach", action="store_true", help="do not wait for the job's end")
    parser.add_argument("--attach", metavar="ID", help="follow that job and collect its results")
    parser.add_argument("--status", metavar="ID", nargs="?", const="", help="show that job, or all")
    parser.add_argument("--stop", metavar="ID", help="end that job")
    parser.add_argument("--insecure", action="store_true", help="accept a cluster without token authentication")
    parser.add_argument("--trust-network", action="store_true", help="accept plain http to another machine")
    args = parser.parse_args(argv)
    if not args.address:
        raise UserError("--address is needed: the cluster's dashboard, such as https://head:8265 or http://localhost:8265")
    from components.jobs import client as ray_jobs

    client = ray_jobs.connect(args.address, args.insecure, args.trust_network)
    if args.status is not None:
        _status(client, args.status or None)
    elif args.stop:
        say(f"submit: {args.stop} {ray_jobs.stop(client, args.stop).status.value}")
    elif args.attach:
        sys.exit(attach(client, args.attach))
    else:
        sys.exit(run(client, args.stages, args.allow_dirty, args.again, args.detach))


if __name__ == "__main__":
    launch(main)
