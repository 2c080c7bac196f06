"""Following a job's log."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from components.jobs.follow import follow


class _Client:
    """A client whose job is running, then succeeds.

    It replaces a cluster, which could not be made to send a signal or to drop a connection at an
    exact moment.
    """

    def __init__(self, statuses: list[JobStatus], log: str = "") -> None:
        self.statuses = iter(statuses)
        self.log = log

    def get_job_info(self, job: str) -> JobDetails:
        status = next(self.statuses)
        return JobDetails(submission_id=job, type=JobType.SUBMISSION, status=status, entrypoint="")

    def get_job_logs(self, _job: str) -> str:
        return self.log


class _InterruptedClient(_Client):
    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        signal.raise_signal(signal.SIGINT)
        yield f"a line of {job}"
        await asyncio.sleep(5)
        raise AssertionError("the interrupt was lost")


class _DroppedClient(_Client):
    """Sends one line more after each connection that drops."""

    connections = 0

    async def tail_job_logs(self, _job: str) -> AsyncIterator[str]:
        self.connections += 1
        for line in self.log.splitlines(keepends=True)[: self.connections]:
            yield line
        raise RuntimeError("WebSocket connection closed unexpectedly")


@pytest.fixture
def sigint_handler() -> Iterator[None]:
    """Set Python's own SIGINT handler. A shell starts background commands with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint_handler")
def test_interrupt_that_arrives_with_a_line_is_raised() -> None:
    client = _InterruptedClient([JobStatus.RUNNING])
    with pytest.raises(KeyboardInterrupt):
        follow(cast(Any, client), "kiln-0-1", lambda text: None)


def test_each_line_is_shown_once_when_connections_drop() -> None:
    log = "one\ntwo\nthree\n"
    client = _DroppedClient([JobStatus.RUNNING, JobStatus.RUNNING, JobStatus.SUCCEEDED], log)
    shown: list[str] = []
    finished = follow(cast(Any, client), "kiln-0-1", shown.append)
    assert shown == ["one\n", "two\n", "three\n"]
    assert finished.log == log
    assert finished.details.status == JobStatus.SUCCEEDED
