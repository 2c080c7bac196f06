"""Outcomes of jobs."""

from __future__ import annotations

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from components.jobs.client import exit_code


@pytest.mark.parametrize(
    ("status", "driver_exit_code", "expected"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.STOPPED, None, 143),
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, None, 1),
    ],
)
def test_exit_code_of_every_outcome(
    status: JobStatus, driver_exit_code: int | None, expected: int
) -> None:
    details = JobDetails(
        type=JobType.SUBMISSION,
        status=status,
        entrypoint="",
        driver_exit_code=driver_exit_code,
    )
    assert exit_code(details) == expected
