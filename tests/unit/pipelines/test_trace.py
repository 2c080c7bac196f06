"""`trace` of versions that Kiln did not register, or of which it knows too little."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from components.errors import UserError
from components.git_cli import git
from components.registry import lineage
from components.tracking import store
from pipelines import trace

SHA256 = "ab" * 32
TAGS = {"kiln.sha256": SHA256, "kiln.model": "cnn", "data.raw.sha256": "r"}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a store with the empty registered model `task`."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").create_registered_model("task")
    return path


@pytest.fixture
def client(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of a copy of that store."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(database, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return store.connect()


def register(client: MlflowClient, run_tags: dict[str, str], tags: dict[str, str]) -> str:
    """Register a version with its own run, and return the id of the run."""
    run_id: str = client.create_run("0", tags=run_tags).info.run_id
    client.create_model_version(
        "task", source="/models", run_id=run_id, tags=tags, await_creation_for=0
    )
    return run_id


def show(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Run `trace` of version 1 and return its output; check that it exits with 1 for `--check`."""
    capsys.readouterr()
    if options:
        with pytest.raises(SystemExit) as ended:
            trace.main(["task/1", *options])
        assert ended.value.code == 1
    else:
        trace.main(["task/1"])
    return " ".join(capsys.readouterr().out.split())


def make_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make `folder` the repository that trace looks into, and return its commit."""
    identity = ("-c", "user.name=n", "-c", "user.email=n@localhost")
    git(folder, "init", "-q")
    git(folder, *identity, "commit", "-q", "--allow-empty", "-m", "x")
    monkeypatch.setattr(lineage, "ROOT", folder)
    return git(folder, "rev-parse", "HEAD").strip()


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({}, "its tag kiln.sha256 should be .* and there is no such tag"),
        ({"kiln.sha256": SHA256}, "its tag kiln.model should be .* and there is no such tag"),
        ({**TAGS, "kiln.sha256": "spare of version 3"}, "and it is 'spare of version 3'"),
        ({**TAGS, "kiln.model": "../../x; ls"}, r"and it is '\.\./\.\./x; ls'"),
        ({**TAGS, "kiln.model": "cnn\x1b[2J"}, r"and it is 'cnn\\x1b\[2J'"),
    ],
)
def test_versions_that_kiln_did_not_register_are_refused(
    client: MlflowClient, tags: dict[str, str], message: str
) -> None:
    """Also if they are of the run of a training, which has Kiln's tags."""
    register(client, {"kiln.model": "cnn", "git.commit": "c" * 40}, tags)
    with pytest.raises(UserError, match=f"^task version 1 was not registered by Kiln.*{message}$"):
        trace.main(["task/1"])


def test_history_is_not_a_model(client: MlflowClient) -> None:
    client.create_registered_model("task-history")
    client.create_model_version("task-history", source="/moves", await_creation_for=0)
    with pytest.raises(UserError, match=r"moves of the aliases of task: .*--history --name task"):
        trace.main(["task-history/1"])


@pytest.mark.parametrize(
    ("run_tags", "reason"),
    [
        ({"git.commit": "unknown"}, "the training was in no git repository"),
        ({}, "the training was in no git repository"),
        ({"git.commit": "--upload-pack=x"}, "the training was in no git repository"),
        ({"kiln.imported": "true"}, "it was imported, and only the store of its training has it"),
    ],
)
def test_version_without_a_commit_has_no_commands_to_rebuild_it(
    client: MlflowClient,
    capsys: pytest.CaptureFixture[str],
    run_tags: dict[str, str],
    reason: str,
) -> None:
    register(client, run_tags, TAGS)
    for options in ((), ("--check",)):
        shown = show(capsys, *options)
        assert " commit unknown " in shown
        assert (
            f"trace: it cannot be made again or checked here: its commit is unknown: {reason}"
            in (shown)
        )
        assert "worktree" not in shown


def test_version_whose_run_was_deleted_permanently(
    client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = register(client, {"git.commit": "c" * 40, "machine.cpu": "x"}, TAGS)
    client.delete_run(run_id)
    assert f" commit {'c' * 40} " in show(capsys), "a run in the trash can still be read"
    address = client.tracking_uri
    gc = ["gc", "--run-ids", run_id, "--backend-store-uri", address, "--tracking-uri", address]
    subprocess.run([sys.executable, "-m", "mlflow", *gc], check=True, capture_output=True)
    shown = show(capsys)
    assert f"MLflow run {run_id} (not in this registry)" in shown
    assert "libraries unknown machine unknown parameters unknown" in shown
    assert "only its run had it, which is not in this registry" in shown
    assert "worktree" not in shown


def test_commit_that_is_not_here_has_no_commands_to_rebuild_it(
    client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    register(client, {"git.commit": "c" * 40, "git.dirty": "false"}, TAGS)
    for options in ((), ("--check",)):
        shown = show(capsys, *options)
        assert f"commit {'c' * 40} is not in this repository; `git fetch` may bring it" in shown
        assert "worktree" not in shown


@pytest.mark.parametrize(("dirty", "warned"), [("true", True), ("unknown", True), ("false", False)])
def test_uncommitted_changes_of_the_training_are_said_before_the_commands(
    client: MlflowClient,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dirty: str,
    warned: bool,
) -> None:
    commit = make_repository(tmp_path, monkeypatch)
    register(client, {"git.commit": commit, "git.dirty": dirty}, TAGS)
    shown = show(capsys)
    assert ("trace: it was trained with uncommitted changes" in shown) == warned
    assert f"to make it again: git worktree add rebuild-{commit[:12]} {commit} cd " in shown


@pytest.mark.parametrize("verdict", ["", "{}", '{"newer": 1}', "[]"])
def test_unreadable_verdict_is_said(
    client: MlflowClient, capsys: pytest.CaptureFixture[str], verdict: str
) -> None:
    register(client, {}, {**TAGS, "kiln.verdict": verdict, "validation_status": "passed"})
    assert " verdict none: the verdict on task version 1 " in show(capsys)
