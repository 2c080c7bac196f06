"""Options of `promote`, refusals before the first write, and a store that stops answering."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from components.errors import UserError
from components.records.evaluation import ModelVerdict
from components.records.moves import Move
from components.registry import history, model_versions
from components.registry.model_versions import STATUS_TAG
from components.registry.verdicts import VERDICT_TAG
from components.tracking import spool, store
from pipelines import grant
from pipelines import promote as command

ROOT = Path(__file__).resolve().parents[3]
NAME = "task"
VERDICT = ModelVerdict(
    name=NAME,
    version=1,
    sha256="a",
    files_sha256="b",
    test_sha256="t",
    predictions_sha256="p",
    passed=True,
    metrics={"top1": 0.9},
    gates=[],
)
REASON = ["--reason", "r"]
PROMOTE = ["--version", "1", *REASON]
ROLLBACK = ["--rollback", *REASON]
HISTORY = ["--history"]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a store with two versions of a registered model, without a history."""
    folder = tmp_path_factory.mktemp("template")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model(NAME)
    for _ in range(2):
        client.create_model_version(NAME, source="/tmp/x", await_creation_for=0)
    return folder / "mlflow.db"


@pytest.fixture
def home(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: parameters, and a store of its own."""
    shutil.copy(template, tmp_path / "mlflow.db")
    values = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text())
    values["register"]["name"] = NAME
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr(spool, "FOLDER", tmp_path / "spool")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def client(home: Path) -> MlflowClient:
    return store.connect()


def dump(home: Path) -> str:
    with sqlite3.connect(home / "mlflow.db") as database:
        return "\n".join(database.iterdump())


def execute(home: Path, statement: str) -> None:
    with sqlite3.connect(home / "mlflow.db") as database:
        database.execute(statement)


def add_move(
    client: MlflowClient,
    target: int | None,
    alias: str = "champion",
    reason: str = "better",
    undoes: int | None = None,
    sync: bool = True,
) -> None:
    """Append a move as another version of Kiln may have done, without any check."""
    state = history.get_alias_state(client, NAME, alias)
    move = Move(
        alias=alias,
        source=state.current_version,
        target=target,
        after=state.last_number,
        undoes=undoes,
        who="alice@host",
        when="2026-01-01T00:00:00+00:00",
        reason=reason,
        override=None,
        verdict_sha256=None,
        git_commit="c",
        comparison=None,
        nonce=f"{alias}-{target}-{state.last_number}",
    )
    history.append(client, NAME, move)
    if sync:
        history.sync_alias(client, NAME, alias)


def refuse(*arguments: str) -> str:
    """Return the message of the `UserError` with which a command line is refused."""
    with pytest.raises(UserError) as caught:
        command.main(list(arguments))
    message = str(caught.value)
    assert message.isprintable(), "one line that does nothing to a terminal"
    assert len(message) < 500
    return message


@pytest.mark.parametrize(
    "alias",
    ["v1", "latest", "a b", "", "a" * 300, "it's", 'say "x"', "a/b", "a\x1b[0m", "\udcff"],
    ids=ascii,
)
@pytest.mark.parametrize("action", [PROMOTE, ROLLBACK, HISTORY], ids=lambda action: action[0])
def test_alias_that_cannot_be_moved_is_refused(home: Path, action: list[str], alias: str) -> None:
    before = dump(home)
    assert "cannot be an alias: " in refuse(*action, "--alias", alias)
    assert dump(home) == before


@pytest.mark.parametrize(
    "name", ["", "it's", 'say "x"', "a/b", "a:b", "task@champion", "task-history", "\udcff"]
)
@pytest.mark.parametrize("action", [PROMOTE, ROLLBACK, HISTORY], ids=lambda action: action[0])
def test_name_that_no_model_can_have_is_refused(home: Path, action: list[str], name: str) -> None:
    before = dump(home)
    assert "cannot be the name of a registered model: " in refuse(*action, "--name", name)
    with pytest.raises(UserError, match="cannot be the name of a registered model"):
        grant.run([], [], [], name)
    assert dump(home) == before


@pytest.mark.parametrize("alias", ["Champion", "CHAMPION", "Challenger"])
def test_alias_in_mixed_case_is_rolled_back_and_shown_but_not_promoted(
    client: MlflowClient, home: Path, alias: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add_move(client, 1, alias=alias)
    before = dump(home)
    assert "lower case only" in refuse(*PROMOTE, "--alias", alias)
    assert dump(home) == before
    command.main([*HISTORY, "--alias", alias])
    assert f"moves of task@{alias}: 1" in capsys.readouterr().out
    command.main([*ROLLBACK, "--alias", alias])
    assert model_versions.get_aliases(client, NAME) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--version", "1"], "--reason is empty"),
        (["--rollback"], "--reason is empty"),
        (["--rollback", "--reason", "x" * 200_000], "--reason has 200,000 characters"),
        (["--version", "1", "--reason", "caf\udce9"], "--reason is not UTF-8 at character 4"),
        ([*PROMOTE, "--override", " "], "--override is empty"),
        ([*PROMOTE, "--override", "x" * 200_000], "--override has 200,000 characters"),
        ([*PROMOTE, "--override", "a\x00"], "--override has the control character U+0000"),
        (["--version", "0", *REASON], "--version is 0; give a number from 1 on"),
        (["--version", "-3", *REASON], "--version is -3"),
        (["--version", "3", *REASON], "task version 3 is not in this registry; versions there: 1"),
        (["--version", str(2**70), *REASON], f"task version {2**70} is not in this registry"),
        ([*PROMOTE, "--expect-current", "-1"], "--expect-current is -1; give a number from 0 on"),
        ([*ROLLBACK, "--expect-current", "-1"], "--expect-current is -1"),
        ([*ROLLBACK, "--override", "o"], "--rollback does not take --override; it takes --reason,"),
        ([*ROLLBACK, "--test", "x", "--override", ""], "does not take --override, --test;"),
        ([*HISTORY, *REASON], "--history does not take --reason; it takes --name, --alias"),
        ([*HISTORY, "--expect-current", "0", "--dry-run"], "take --expect-current, --dry-run;"),
        ([*HISTORY, "--override", "o", "--test", "t"], "does not take --override, --test;"),
    ],
    ids=range(18),
)  # fmt: skip
def test_options_are_refused_before_anything_is_written(
    home: Path, arguments: list[str], message: str
) -> None:
    before = dump(home)
    assert message in refuse(*arguments)
    assert dump(home) == before


def test_rollback_honours_expect_current(client: MlflowClient, home: Path) -> None:
    add_move(client, 1)
    before = dump(home)
    message = refuse(*ROLLBACK, "--expect-current", "2")
    assert "task@champion is version 1, not version 2: alice@host moved champion" in message
    assert "is version 1, not nothing" in refuse(*ROLLBACK, "--expect-current", "0")
    assert dump(home) == before
    command.main([*ROLLBACK, "--expect-current", "1"])
    assert model_versions.get_aliases(client, NAME) == {}


def test_interrupted_rollback_is_completed_and_takes_back_nothing_more(
    client: MlflowClient, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_move(client, 1)
    add_move(client, None, undoes=1)
    add_move(client, 2)
    add_move(client, None, undoes=3, sync=False)
    assert model_versions.get_aliases(client, NAME) == {"champion": 2}
    before = dump(home)
    command.main([*ROLLBACK, "--dry-run"])
    assert dump(home) == before
    command.main([*ROLLBACK, "--expect-current", "2"])
    assert "move 4 to nothing had been interrupted; it is complete" in capsys.readouterr().out
    assert model_versions.get_aliases(client, NAME) == {}
    assert len(history.read_moves(client, NAME)) == 4


def newer(record: str) -> str:
    return json.dumps({**json.loads(record), "signature": "s"})


def older(record: str) -> str:
    return json.dumps({key: value for key, value in json.loads(record).items() if key != "sha256"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (newer, "was written by a newer Kiln: this one does not know its field 'signature'; "),
        (lambda _: "gANjLg==", "is not a Move that this Kiln reads ('the whole': Invalid JSON: "),
        (lambda _: "[1]", "is not a Move that this Kiln reads ("),
    ],
    ids=["newer", "not JSON", "a list"],
)
def test_move_of_a_newer_kiln_is_refused(
    client: MlflowClient, home: Path, change: Callable[[str], str], message: str
) -> None:
    add_move(client, 1)
    record = client.get_model_version(f"{NAME}-history", "1").tags["kiln.move"]
    client.set_model_version_tag(f"{NAME}-history", "1", "kiln.move", change(record))
    before = dump(home)
    for action in (PROMOTE, ROLLBACK, HISTORY):
        refusal = refuse(*action)
        assert refusal.startswith(f"move 1 of task-history {message}")
        assert refusal.endswith("; upgrade Kiln")
    assert dump(home) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (newer, "was written by a newer Kiln: this one does not know its field 'signature'; "),
        (older, "was written by an older Kiln: it lacks 'sha256'; "),
        (lambda _: "{", "is not a ModelVerdict that this Kiln reads ('the whole': Invalid JSON: "),
    ],
    ids=["newer", "older", "not JSON"],
)
def test_verdict_of_another_kiln_is_refused(
    client: MlflowClient, home: Path, change: Callable[[str], str], message: str
) -> None:
    client.set_model_version_tag(NAME, "1", STATUS_TAG, "passed")
    client.set_model_version_tag(NAME, "1", VERDICT_TAG, change(VERDICT.model_dump_json()))
    before = dump(home)
    for action in (PROMOTE, ["--best", *REASON]):
        refusal = refuse(*action)
        assert refusal.startswith(f"the verdict on task version 1 {message}")
        assert "upgrade Kiln, or evaluate it again" in refusal
    assert dump(home) == before


def test_history_shows_long_reasons_whole(
    client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    address = "https://example.org/" + "x" * 300
    reason = " ".join(f"word{n}" for n in range(1000)) + f"\nsecond line: {address}"
    add_move(client, 1, reason=reason)
    capsys.readouterr()
    command.main(HISTORY)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "moves of task@champion: 1",
        "  1 2026-01-01T00:00:00+00:00 alice@host: nothing -> version 1",
        *(f"    {line}" for line in reason.splitlines()),
        "task@champion is version 1",
    ]


@pytest.mark.parametrize("action", [PROMOTE, ROLLBACK, HISTORY], ids=lambda action: action[0])
def test_store_that_fails_is_one_message(
    client: MlflowClient, home: Path, action: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    add_move(client, 2)
    execute(home, "ALTER TABLE model_version_tags RENAME TO away")
    before = dump(home)
    capfd.readouterr()
    message = refuse(*action)
    assert f"the tracking store sqlite:///{home}/mlflow.db failed (" in message
    assert "no such table: model_version_tags" in message
    assert message.endswith("repeat the command when it answers")
    assert capfd.readouterr().err == "", "no traceback in the log"
    assert dump(home) == before


def test_store_that_fails_between_move_and_alias_says_how_to_complete_it(
    client: MlflowClient,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    add_move(client, 1)
    sync_alias = history.sync_alias

    def sync_alias_in_a_failing_store(client: MlflowClient, name: str, alias: str) -> int | None:
        execute(home, "ALTER TABLE registered_model_aliases RENAME TO away")
        return sync_alias(client, name, alias)

    with monkeypatch.context() as patch:
        patch.setattr(history, "sync_alias", sync_alias_in_a_failing_store)
        assert "look at `--history` when it answers: the move may be recorded" in refuse(*ROLLBACK)
    assert capfd.readouterr().err == ""
    execute(home, "ALTER TABLE away RENAME TO registered_model_aliases")
    command.main(HISTORY)
    assert "is under way or was interrupted" in capfd.readouterr().out
    command.main(ROLLBACK)
    assert model_versions.get_aliases(client, NAME) == {}
    assert len(history.read_moves(client, NAME)) == 2
