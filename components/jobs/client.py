"""Ray jobs as Kiln uses them: submitted once, followed through dropped connections, stopped, listed."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from components.console import say
from components.errors import UserError
from components.jobs.security import certificates, check_address, check_authentication, token
from components.ray_session.addresses import forwarded_addresses
from components.ray_session.code_package import Package, job_key, write_archive

PREFIX = "kiln-"
_ANSWER_S = 60
_SILENCE_S = 30.0
_PATIENCE_S = 900.0
for _name in ("dashboard_sdk", "job.sdk"):
    logging.getLogger(f"ray.dashboard.modules.{_name}").setLevel(logging.WARNING)
_LOST = (requests.RequestException, aiohttp.ClientError, OSError, TimeoutError, RuntimeError)


class Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client, whose requests end: it sets no timeout, and a cut cable would hold them for ever."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, timeout=_ANSWER_S, **options)


def connect(address: str, insecure: bool, trust_network: bool) -> Client:
    """A client of the dashboard at `address`, after its security was checked (`components.jobs.security`).

    Raises:
        UserError: the address, the token or the cluster's authentication will not do, or it does not answer.
    """
    address = check_address(address, trust_network)
    secret = token()
    check_authentication(address, insecure)
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    try:
        with _without_rays_own_address():
            return Client(address, headers=headers, verify=certificates())
    except AuthenticationError:
        known = "the token found here is not that cluster's" if secret else "no token was found here"
        raise UserError(
            f"{address}: {known}; put the cluster's into a file of mode 0600 and name it in RAY_AUTH_TOKEN_PATH"
        ) from None
    except (ConnectionError, RuntimeError, requests.RequestException) as error:
        raise UserError(f"{address} cannot be used: {error}") from None


@contextmanager
def _without_rays_own_address() -> Iterator[None]:
    """Ray's client prefers these variables to the address that it is given."""
    kept = {name: os.environ.pop(name) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS") if name in os.environ}
    try:
        yield
    finally:
        os.environ |= kept


def submit(client: Client, package: Package, stages: Sequence[str], again: bool = False) -> str:
    """The id of the job for these files and stages: the one that there is already if it runs or succeeded, else a new one.

    Ids are `kiln-KEY-N`: the same files and stages have the same key, N counts the attempts. With `again`, a job that
    succeeded is run once more.
    """
    key = job_key(package, stages)
    stem = f"{PREFIX}{key[:16]}-"
    attempts = {int(job.submission_id.removeprefix(stem)): job for job in listed(client) if job.submission_id.startswith(stem)}
    number = max(attempts, default=0)
    if number:
        last = attempts[number]
        if not last.status.is_terminal() or (last.status == JobStatus.SUCCEEDED and not again):
            say(f"submit: {last.submission_id} is the same files and stages ({last.status.value}): attached to it")
            return str(last.submission_id)
        say(f"submit: attempt {number} {last.status.value}; what it finished or kept as checkpoints is taken up")
    job = f"{stem}{number + 1}"
    entrypoint = ["python", "-m", "components.jobs.runner", "--job", job, "--mark", key, "--commit", package.commit]
    entrypoint += ["--dirty", str(bool(package.dirty)).lower()]
    entrypoint += [word for name, value in forwarded_addresses().items() for word in ("--setting", f"{name}={value}")]
    with tempfile.TemporaryDirectory() as folder:
        archive = write_archive(package, Path(folder))
        metadata = {"kiln.key": key, "kiln.commit": package.commit, "kiln.stages": " ".join(stages)}
        try:
            client.submit_job(
                entrypoint=shlex.join([*entrypoint, "--", *stages]),
                submission_id=job,
                runtime_env={"working_dir": str(archive)},
                metadata=metadata,
            )
        except RuntimeError as error:
            if "already" not in str(error):
                raise UserError(f"the cluster did not take the job: {error}") from None
            say(f"submit: somebody else submitted {job} at this moment: attached to it")
    return job


def listed(client: Client) -> list[JobDetails]:
    """Kiln's jobs on the cluster, the oldest first."""
    jobs = [job for job in client.list_jobs() if (job.submission_id or "").startswith(PREFIX)]
    return sorted(jobs, key=lambda job: job.start_time or 0)


def info(client: Client, job: str) -> JobDetails:
    """Raises `UserError` if the cluster does not know the job."""
    try:
        return client.get_job_info(job)
    except RuntimeError as error:
        if "404" not in str(error) and "does not exist" not in str(error):
            raise
        known = ", ".join(str(other.submission_id) for other in listed(client)) or "none"
        raise UserError(
            f"{client.get_address()} knows no job {job}; it knows: {known}. A head that was restarted forgets its jobs: "
            "submit again, what was finished or kept as a checkpoint is taken up"
        ) from None


def stop(client: Client, job: str) -> JobDetails:
    """Asks for the end of a job and waits for it."""
    if not info(client, job).status.is_terminal():
        client.stop_job(job)
        for _ in range(60):
            if info(client, job).status.is_terminal():
                break
            time.sleep(0.5)
    return info(client, job)


def follow(client: Client, job: str, show: Callable[[str], None]) -> tuple[JobDetails, str]:
    """Hands a job's log to `show` as it grows, until the job has ended; returns how it ended, and the whole log.

    A connection that drops or falls silent is made anew and goes on where it stopped.

    Raises:
        UserError: the cluster did not answer for a quarter of an hour, or does not know the job.
    """
    seen, since, told, waiting = "", time.monotonic(), False, None
    while True:
        try:
            details = info(client, job)
            if told:
                say("submit: connected again")
            since, told = time.monotonic(), False
            if details.status.is_terminal():
                log = client.get_job_logs(job)
                show(log[len(seen) :])
                return details, log
            if details.status == JobStatus.PENDING and details.message != waiting:
                waiting = details.message
                say(f"submit: {waiting}")
            seen = asyncio.run(_tail(client, job, seen, show))
        except UserError:
            raise
        except _Dropped as dropped:
            seen = dropped.seen
        except _LOST as error:
            if time.monotonic() - since > _PATIENCE_S:
                raise UserError(
                    f"{client.get_address()} has not answered for {_PATIENCE_S / 60:.0f} minutes ({type(error).__name__}); the "
                    f"job goes on as long as the cluster does: --attach {job} collects it"
                ) from None
            if not told:
                say(f"submit: the connection is lost ({type(error).__name__}), trying again; the job goes on")
                told = True
            time.sleep(3)


class _Dropped(Exception):  # noqa: N818 (nothing has gone wrong yet)
    def __init__(self, seen: str) -> None:
        super().__init__()
        self.seen = seen


async def _tail(client: Client, job: str, seen: str, show: Callable[[str], None]) -> str:
    """Follows the log from its beginning, as Ray offers it, and shows what comes after `seen`. Ends with the connection, or
    when nothing came for a while: a dead one is not told from a quiet job."""
    text = ""
    stream = client.tail_job_logs(job)
    try:
        while True:
            # Not `wait_for`: in Python 3.11 it loses a Ctrl-C that comes in the moment of a line (bpo-37658).
            async with asyncio.timeout(_SILENCE_S):
                text += await anext(stream)
            if len(text) > len(seen):
                show(text[len(seen) :])
                seen = text
    except StopAsyncIteration:
        return seen
    except _LOST:
        raise _Dropped(seen) from None
    finally:
        await stream.aclose()


def exit_code(details: JobDetails) -> int:
    """Of the job's command; a job that was stopped, or failed without one, is a failure too."""
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        return 143
    return details.driver_exit_code or 1
