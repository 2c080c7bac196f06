"""How a job is followed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from components.jobs import client


class Talkative:
    """A client, in place of a cluster that would have to speak in the moment of a signal."""

    def get_job_info(self, job: str) -> JobDetails:
        return JobDetails(submission_id=job, type=JobType.SUBMISSION, status=JobStatus.RUNNING, entrypoint="")

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        signal.raise_signal(signal.SIGINT)
        yield f"a line of {job}"
        await asyncio.sleep(5)
        raise AssertionError("the interrupt was lost")


def test_an_interrupt_in_the_moment_of_a_line_is_heard() -> None:
    # A shell that starts a command in the background has it ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            client.follow(cast(Any, Talkative()), "kiln-0-1", lambda text: None)
    finally:
        signal.signal(signal.SIGINT, before)
