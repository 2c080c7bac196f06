"""Follow the log of a job to the job's end, through dropped connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
import requests
from ray.job_submission import JobDetails, JobStatus

from components.console import echo
from components.errors import UserError
from components.jobs.client import get_details
from components.ray_session.private_api.jobs import TimeoutJobSubmissionClient

IDLE_TIMEOUT_S = 30.0
RECONNECT_TIMEOUT_S = 900.0
RECONNECT_INTERVAL_S = 3.0
_CONNECTION_ERRORS = (
    requests.RequestException,
    aiohttp.ClientError,
    OSError,
    TimeoutError,
    RuntimeError,
)


@dataclass(frozen=True)
class FinishedJob:
    """A job that has ended."""

    details: JobDetails
    log: str
    """The whole log."""


def follow(
    client: TimeoutJobSubmissionClient, job: str, show: Callable[[str], None]
) -> FinishedJob:
    """Pass a job's log to `show` as it grows, and return when the job has ended.

    A connection that drops or falls silent is opened again; the log continues where it stopped.

    Raises:
        UserError: the cluster did not answer for a quarter of an hour, or does not know the job.
    """
    return _LogFollower(client, job, show).run()


class _LogFollower:
    def __init__(
        self, client: TimeoutJobSubmissionClient, job: str, show: Callable[[str], None]
    ) -> None:
        self.client = client
        self.job = job
        self.show = show
        self.shown = 0
        """Number of characters of the log that `show` has got."""
        self.last_answer = time.monotonic()
        self.disconnected = False
        self.pending_reason: str | None = None

    def run(self) -> FinishedJob:
        while True:
            try:
                details = get_details(self.client, self.job)
                self._on_answer(details)
                if details.status.is_terminal():
                    log = self.client.get_job_logs(self.job)
                    self._show_rest(log)
                    return FinishedJob(details, log)
                asyncio.run(self._tail())
            except UserError:
                raise
            except _CONNECTION_ERRORS as error:
                self._on_connection_error(error)

    def _on_answer(self, details: JobDetails) -> None:
        if self.disconnected:
            echo("submit: connected again")
        self.last_answer = time.monotonic()
        self.disconnected = False
        if details.status == JobStatus.PENDING and details.message != self.pending_reason:
            self.pending_reason = details.message
            echo(f"submit: {details.message}")

    def _on_connection_error(self, error: BaseException) -> None:
        """Wait before the next try.

        Raises:
            UserError: the cluster has not answered for `RECONNECT_TIMEOUT_S`.
        """
        if time.monotonic() - self.last_answer > RECONNECT_TIMEOUT_S:
            raise UserError(
                f"{self.client.get_address()} has not answered for "
                f"{RECONNECT_TIMEOUT_S / 60:.0f} minutes ({type(error).__name__}); the job goes on "
                f"as long as the cluster does: --attach {self.job} collects it"
            ) from None
        if not self.disconnected:
            self.disconnected = True
            echo(
                f"submit: the connection is lost ({type(error).__name__}), trying again; the job "
                "goes on"
            )
        time.sleep(RECONNECT_INTERVAL_S)

    async def _tail(self) -> None:
        """Show the log until the connection ends or nothing came for `IDLE_TIMEOUT_S`.

        An idle connection and a dead one look the same. Ray sends the log from its beginning.
        """
        log = ""
        stream = self.client.tail_job_logs(self.job)
        try:
            while True:
                # Not `wait_for`: in Python 3.11 it loses a Ctrl-C that arrives together with a
                # line (bpo-37658).
                async with asyncio.timeout(IDLE_TIMEOUT_S):
                    log += await anext(stream)
                self._show_rest(log)
        except (StopAsyncIteration, *_CONNECTION_ERRORS):
            return  # `run` asks for the job's status, and reports if that fails too
        finally:
            await stream.aclose()

    def _show_rest(self, log: str) -> None:
        """Show the part of the log that was not shown yet."""
        if len(log) > self.shown:
            self.show(log[self.shown :])
            self.shown = len(log)
