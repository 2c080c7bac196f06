"""References to versions, and the presentation of a version's lineage."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, ModelVersionTag

from components.errors import UserError
from components.registry.lineage import Lineage, get_lineage

FACTS = {
    "kiln.sha256": "w",
    "kiln.model": "cnn",
    "kiln.fingerprint": "f",
    "git.dirty": "false",
    "data.test.sha256": "t",
    "data.raw.sha256": "r",
    "version.torch": "2.13",
    "machine.cpu": "a processor",
}


def make_lineage(**facts: str) -> Lineage:
    tags = [ModelVersionTag(key, value) for key, value in FACTS.items()]
    version = ModelVersion("task", "3", 0, source="models:/m-1", run_id="run", tags=tags)
    params = {"seed": "1", "recipe.epochs": "2"}
    return Lineage(version, "cnn", "c" * 40, FACTS | facts, params)


@pytest.mark.parametrize(
    "reference",
    [
        "task",
        "task@",
        "task/x",
        "task@Champion",
        "@a",
        "a b/1",
        "task@champion\n",
        "task/1\n",
        "task/-1",
        "task/" + "9" * 5000,
        "task/\u0661",
        "it's/1",
        "--help/1",
        "../task/1",
        "",
    ],
)
def test_malformed_references_are_refused(reference: str) -> None:
    with pytest.raises(UserError, match="is neither name@alias nor name/version"):
        get_lineage(MlflowClient("http://127.0.0.1:1"), reference)


def test_table_lists_all_recorded_facts() -> None:
    assert make_lineage().table_rows() == [
        ["version", "task version 3, m-1"],
        ["weights", "sha256 w"],
        ["starting weights", "random"],
        ["commit", f"{'c' * 40} (clean)"],
        ["data.raw.sha256", "r"],
        ["data.test.sha256", "t"],
        ["fingerprint", "f"],
        ["MLflow run", "run"],
        ["libraries", "torch 2.13"],
        ["machine", "a processor"],
        ["parameters", "recipe.epochs=2, seed=1"],
        ["verdict", "none: it was never evaluated"],
    ]


def test_table_marks_imported_runs_and_uncommitted_changes() -> None:
    rows = dict(make_lineage(**{"kiln.imported": "true", "git.dirty": "true"}).table_rows())
    assert rows["MLflow run"] == "run (imported: trained elsewhere)"
    assert rows["commit"].endswith("(with uncommitted changes)")
    rows = dict(make_lineage(**{"git.dirty": "unknown"}).table_rows())
    assert rows["commit"].endswith("(perhaps with uncommitted changes)")


def test_commands_rebuild_the_weights_in_a_worktree_of_the_commit() -> None:
    assert make_lineage().rebuild_commands() == [
        f"git worktree add rebuild-cccccccccccc {'c' * 40}",
        "cd rebuild-cccccccccccc && make setup && source .venv/bin/activate",
        "dvc repro train@cnn",
        "sha256sum models/cnn/weights.safetensors",
    ]


def test_commit_that_this_repository_lacks_is_an_obstacle() -> None:
    assert make_lineage().find_obstacle() == (
        f"commit {'c' * 40} is not in this repository; `git fetch` may bring it"
    )


def test_pretrained_weights_are_named_with_their_network() -> None:
    lineage = make_lineage(**{"data.init.sha256": "i", "kiln.init": "pretrained"})
    lineage.params["recipe.architecture"] = "timm/resnet26"
    rows = dict(lineage.table_rows())
    assert rows["starting weights"] == "pretrained, of timm/resnet26, sha256 i"
    assert "data.init.sha256" not in rows
