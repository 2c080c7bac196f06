"""The ids and the metadata of Kiln's jobs on a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ID_PREFIX = "kiln-"
_KEY = "kiln.key"
_COMMIT = "kiln.commit"
_STAGES = "kiln.stages"


@dataclass(frozen=True)
class JobMetadata:
    """Facts that Ray stores with a job and shows to everyone who has the cluster's token.

    The fields are empty for a job that was not submitted by `pipelines.submit`.
    """

    key: str
    """Idempotency key (`code_package.job_key`)."""
    commit: str
    """Hash of the commit that the code was packed from."""
    stages: tuple[str, ...]
    """The stages to run. Empty means all."""

    def to_ray(self) -> dict[str, str]:
        """Return the metadata as Ray stores it."""
        return {_KEY: self.key, _COMMIT: self.commit, _STAGES: " ".join(self.stages)}

    @classmethod
    def from_ray(cls, metadata: Mapping[str, str] | None) -> JobMetadata:
        """Read the metadata of a job (`JobDetails.metadata`)."""
        values = metadata or {}
        stages = tuple(values.get(_STAGES, "").split())
        return cls(values.get(_KEY, ""), values.get(_COMMIT, ""), stages)
