"""The verdict that is stored in the tags of a version."""

from __future__ import annotations

import pytest
from mlflow.entities.model_registry import ModelVersion, ModelVersionTag

from components.errors import UserError
from components.records.evaluation import ModelVerdict
from components.registry.model_versions import STATUS_TAG, get_model_id
from components.registry.verdicts import VERDICT_TAG, get_verdict

VERDICT = ModelVerdict(
    name="task",
    version=3,
    sha256="a",
    files_sha256="b",
    test_sha256="t",
    predictions_sha256="p",
    passed=True,
    metrics={"top1": 0.9},
    gates=[],
)


def make_version(**tags: str) -> ModelVersion:
    entities = [ModelVersionTag(key, value) for key, value in tags.items()]
    return ModelVersion("task", "3", 0, source="models:/m-1", tags=entities)


def test_verdict_is_read_from_the_tags() -> None:
    version = make_version(**{VERDICT_TAG: VERDICT.model_dump_json(), STATUS_TAG: "passed"})
    assert get_verdict(version) == VERDICT


@pytest.mark.parametrize("tag", [VERDICT_TAG, STATUS_TAG])
def test_incomplete_evaluation_is_none(tag: str) -> None:
    with pytest.raises(UserError, match="task version 3 was never evaluated"):
        get_verdict(make_version(**{tag: VERDICT.model_dump_json()}))


def test_model_id_comes_from_the_source() -> None:
    assert get_model_id(make_version()) == "m-1"
