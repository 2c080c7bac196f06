"""Ray jobs: connect to a cluster, submit a job once, list jobs, stop a job."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus

from components.console import echo
from components.errors import UserError
from components.jobs.metadata import ID_PREFIX, JobMetadata
from components.jobs.security import (
    check_address,
    check_authentication,
    find_certificates,
    read_token,
)
from components.ray_session.addresses import forwarded_addresses
from components.ray_session.code_package import Package, job_key, write_archive
from components.ray_session.private_api.jobs import TimeoutJobSubmissionClient
from components.redaction import redact

_STOP_TIMEOUT_S = 30.0
_STOP_POLL_INTERVAL_S = 0.5
_STOPPED_EXIT_CODE = 143  # the exit code of a process that SIGTERM ended


def connect(address: str, insecure: bool, trust_network: bool) -> TimeoutJobSubmissionClient:
    """Check the security of a cluster (`components.jobs.security`) and return a client for it.

    Args:
        address: URL of the cluster's dashboard.
        insecure: accept a cluster without token authentication.
        trust_network: accept plain http to another machine.

    Raises:
        UserError: the address, the token or the cluster's authentication is refused, or the
            cluster does not answer.
    """
    address = check_address(address, trust_network)
    token = read_token()
    check_authentication(address, insecure)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with _ray_addresses_unset():
            return TimeoutJobSubmissionClient(address, headers=headers, verify=find_certificates())
    except AuthenticationError:
        reason = (
            "the token found here is not that cluster's" if token else "no token was found here"
        )
        raise UserError(
            f"{address}: {reason}; put the cluster's into a file of mode 0600 and name it in "
            "RAY_AUTH_TOKEN_PATH"
        ) from None
    except (ConnectionError, RuntimeError, requests.RequestException) as error:
        raise UserError(f"{address} cannot be used: {redact(str(error))}") from None


@contextmanager
def _ray_addresses_unset() -> Iterator[None]:
    """Unset the variables that Ray's client prefers to the address that it is given."""
    names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    values = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ |= values


def submit(
    client: TimeoutJobSubmissionClient,
    package: Package,
    stages: Sequence[str],
    again: bool = False,
) -> str:
    """Submit a job, unless one for the same files and stages is running or has succeeded.

    Ids are `kiln-KEY-N`. The same files and stages have the same key; N counts the attempts.

    Args:
        client: client of the cluster.
        package: the code to run.
        stages: the stages to run. Empty means all.
        again: run the job again if it has already succeeded.

    Returns:
        The id of the new job or of the existing one.

    Raises:
        UserError: the cluster did not accept the job.
    """
    key = job_key(package, stages)
    stem = f"{ID_PREFIX}{key[:16]}-"
    number, last = _last_attempt(client, stem)
    if last:
        if not last.status.is_terminal() or (last.status == JobStatus.SUCCEEDED and not again):
            echo(
                f"submit: {last.submission_id} is the same files and stages "
                f"({last.status.value}): attached to it"
            )
            return str(last.submission_id)
        echo(
            f"submit: attempt {number} {last.status.value}; what it finished or kept as "
            "checkpoints is taken up"
        )
    job = f"{stem}{number + 1}"
    with tempfile.TemporaryDirectory() as folder:
        archive = write_archive(package, Path(folder))
        try:
            client.submit_job(
                entrypoint=_entrypoint(job, key, package, stages),
                submission_id=job,
                runtime_env={"working_dir": str(archive)},
                metadata=JobMetadata(key, package.commit, tuple(stages)).to_ray(),
            )
        except RuntimeError as error:
            if "already" not in str(error):
                reason = redact(str(error))
                raise UserError(f"the cluster did not take the job: {reason}") from None
            echo(f"submit: another process submitted {job} at this moment: attached to it")
    return job


def _last_attempt(client: TimeoutJobSubmissionClient, stem: str) -> tuple[int, JobDetails | None]:
    """Return number and details of the last job whose id starts with `stem`; 0 if there is none."""
    attempts = {
        int(job.submission_id.removeprefix(stem)): job
        for job in list_jobs(client)
        if job.submission_id.startswith(stem)
    }
    number = max(attempts, default=0)
    return number, attempts.get(number)


def _entrypoint(job: str, key: str, package: Package, stages: Sequence[str]) -> str:
    """Return the shell command that runs `stages` on the cluster."""
    command = ["python", "-m", "components.jobs.runner", "--job", job, "--mark", key]
    command += ["--commit", package.commit, "--dirty", str(bool(package.changes)).lower()]
    for name, value in forwarded_addresses().items():
        command += ["--setting", f"{name}={value}"]
    return shlex.join([*command, "--", *stages])


def list_jobs(client: TimeoutJobSubmissionClient) -> list[JobDetails]:
    """Return Kiln's jobs on the cluster, the oldest first."""
    jobs = [job for job in client.list_jobs() if (job.submission_id or "").startswith(ID_PREFIX)]
    return sorted(jobs, key=lambda job: job.start_time or 0)


def get_details(client: TimeoutJobSubmissionClient, job: str) -> JobDetails:
    """Return Ray's details of a job.

    Raises:
        UserError: the cluster does not know the job.
    """
    try:
        return client.get_job_info(job)
    except RuntimeError as error:
        if "404" not in str(error) and "does not exist" not in str(error):
            raise
        known = ", ".join(str(other.submission_id) for other in list_jobs(client)) or "none"
        raise UserError(
            f"{client.get_address()} knows no job {job}; it knows: {known}. A head that was "
            "restarted forgets its jobs: submit again, what was finished or kept as a checkpoint "
            "is taken up"
        ) from None


def stop(client: TimeoutJobSubmissionClient, job: str) -> JobDetails:
    """Stop a job, wait up to half a minute for its end, and return its details.

    Raises:
        UserError: the cluster does not know the job.
    """
    details = get_details(client, job)
    if not details.status.is_terminal():
        client.stop_job(job)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while not details.status.is_terminal() and time.monotonic() < deadline:
        time.sleep(_STOP_POLL_INTERVAL_S)
        details = get_details(client, job)
    return details


def exit_code(details: JobDetails) -> int:
    """Return the exit code of a job's command: 143 if stopped, 1 if it failed without a code."""
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        return _STOPPED_EXIT_CODE
    return details.driver_exit_code or 1
