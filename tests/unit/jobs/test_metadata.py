"""Metadata of jobs."""

from __future__ import annotations

import pytest

from components.jobs.metadata import JobMetadata


@pytest.mark.parametrize("stages", [(), ("train@cnn", "evaluate")])
def test_metadata_survives_storage_in_ray(stages: tuple[str, ...]) -> None:
    metadata = JobMetadata("key", "commit", stages)
    assert JobMetadata.from_ray(metadata.to_ray()) == metadata


@pytest.mark.parametrize("stored", [None, {}])
def test_jobs_of_other_submitters_have_empty_metadata(stored: dict[str, str] | None) -> None:
    assert JobMetadata.from_ray(stored) == JobMetadata("", "", ())
