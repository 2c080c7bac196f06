"""Promotion, rollback and history of aliases, on an embedded store."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from components.errors import UserError
from components.records.receipt import Receipt
from components.registry import (
    history,
    model_versions,
    packaging,
    promotion,
    reasons,
    verdicts,
)
from components.tracking import store
from pipelines import promote as command
from pipelines import trace
from tests.integration.conftest import Server
from tests.integration.versions import (
    NAME,
    evaluate_honestly,
    evaluate_version,
    files_of_version,
    register_version,
    write_test_split,
)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CORRECT = (1600, 1700, 1800, 1900)
"""Correct predictions, of 2,000, of the four versions of the fixture."""


@pytest.fixture
def versions(client: MlflowClient) -> list[Receipt]:
    """Four versions, each clearly better than the one before, without aliases or history."""
    receipts = [register_version(client, seed) for seed in range(4)]
    for receipt, num_correct in zip(receipts, CORRECT, strict=True):
        evaluate_version(client, receipt, num_correct)
    name = history.history_model_name(NAME)
    if client.search_registered_models(f"name = '{name}'"):
        client.delete_registered_model(name)
    for alias in model_versions.get_aliases(client, NAME):
        client.delete_registered_model_alias(NAME, alias)
    return receipts


def promote(receipt: Receipt, reason: str = "r", **options: Any) -> None:
    command.promote(receipt.version, reason, **options)


def get_alias_version(client: MlflowClient, alias: str = "champion") -> int | None:
    return model_versions.get_aliases(client, NAME).get(alias)


def dump(home: Path) -> str:
    """Return all that the store holds: the database as SQL and the names of its files."""
    with sqlite3.connect(home / "mlflow.db") as database:
        rows = "\n".join(database.iterdump())
    return rows + "\n".join(
        str(path) for path in sorted(home.rglob("*")) if "mlflow.db" not in path.name
    )


def test_better_version_becomes_champion_and_worse_version_is_refused(
    client: MlflowClient, versions: list[Receipt], capsys: pytest.CaptureFixture[str]
) -> None:
    promote(versions[1])
    promote(versions[2], reason="better by far")
    assert get_alias_version(client) == versions[2].version
    assert "90.00%" in capsys.readouterr().out
    with pytest.raises(
        UserError, match=rf"may be worse than version {versions[2].version} by .* points of top-1"
    ):
        promote(versions[0])
    assert get_alias_version(client) == versions[2].version


def test_override_promotes_a_failed_version_and_is_recorded(
    client: MlflowClient, versions: list[Receipt]
) -> None:
    evaluate_version(client, versions[0], CORRECT[0], passed=False)
    promote(versions[1])
    with pytest.raises(UserError, match=r"its verdict failed: min_top1 is 0\.001, found 0\.1000"):
        promote(versions[0])
    with pytest.raises(UserError, match="--override is empty"):
        promote(versions[0], override=" ")
    promote(versions[0], override="the new one leaks memory")
    assert get_alias_version(client) == versions[0].version
    move = history.read_moves(client, NAME)[-1].move
    assert (move.override, move.source, move.target) == (
        "the new one leaks memory",
        versions[1].version,
        versions[0].version,
    )
    promote(versions[2], override="not needed")
    assert history.read_moves(client, NAME)[-1].move.override is None, "there was no objection"


def test_no_override_for_unevaluated_or_altered_versions(
    client: MlflowClient, versions: list[Receipt]
) -> None:
    with pytest.raises(UserError, match="was never evaluated"):
        promote(register_version(client, seed=77), override="please")
    receipt = register_version(client, seed=78)
    evaluate_version(client, receipt, 1990)
    (files_of_version(client, receipt) / "data" / "more").write_text("x")
    with pytest.raises(
        UserError, match="is refused before anything of it is read: it contains data/more"
    ):
        promote(receipt, override="please")
    assert get_alias_version(client) is None


def test_best_selects_by_metric_among_passed_versions(
    client: MlflowClient, versions: list[Receipt], home: Path
) -> None:
    evaluate_version(client, versions[3], CORRECT[3], passed=False)
    others = [
        v
        for v in model_versions.list_versions(client, NAME)
        if int(v.version) not in [r.version for r in versions]
    ]
    for version in others:
        client.delete_model_version(NAME, version.version)
    command.promote(None, "the best")
    assert get_alias_version(client) == versions[2].version
    text = (home / "params.yaml").read_text()
    (home / "params.yaml").write_text(text.replace("metric: top1", "metric: beauty"))
    try:
        with pytest.raises(UserError, match=r"promote\.metric is beauty, .*known: top1, "):
            command.promote(None, "the best")
    finally:
        (home / "params.yaml").write_text(text)


def test_rollbacks_return_through_earlier_versions_to_none(
    client: MlflowClient, versions: list[Receipt], capsys: pytest.CaptureFixture[str]
) -> None:
    for receipt in versions[:3]:
        promote(receipt, reason=f"to {receipt.version}")
    command.rollback("bad news")
    assert get_alias_version(client) == versions[1].version
    command.rollback("worse news")
    assert get_alias_version(client) == versions[0].version
    capsys.readouterr()
    command.show_history()
    output = capsys.readouterr().out
    for text in (
        "to 1",
        "bad news (takes back 3)",
        "worse news (takes back 2)",
        f"{NAME}@champion is version {versions[0].version}",
    ):
        assert text in output
    promote(versions[3])
    command.rollback("and again")
    assert get_alias_version(client) == versions[0].version
    command.rollback("to the state before the first")
    assert get_alias_version(client) is None
    with pytest.raises(UserError, match="has no move to take back"):
        command.rollback("once more")


def test_other_aliases_may_name_worse_versions(
    client: MlflowClient, versions: list[Receipt]
) -> None:
    promote(versions[3])
    promote(versions[2], alias="challenger")
    promote(versions[1], alias="challenger")
    assert (get_alias_version(client), get_alias_version(client, "challenger")) == (
        versions[3].version,
        versions[1].version,
    )
    command.rollback("back", alias="challenger")
    assert (get_alias_version(client), get_alias_version(client, "challenger")) == (
        versions[3].version,
        versions[2].version,
    )


def test_dry_run_changes_nothing(
    client: MlflowClient, versions: list[Receipt], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(versions[0])
    before = dump(home)
    promote(versions[1], dry_run=True)
    command.rollback("r", dry_run=True)
    command.show_history()
    assert dump(home) == before
    output = capsys.readouterr().out
    assert f"would move from version {versions[0].version} to {versions[1].version}" in output
    assert "would return to nothing" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alias": "v1"}, "'v1' cannot be an alias: MLflow reserves latest and v1"),
        ({"alias": "a b"}, "'a b' cannot be an alias: it has 1 to 63 of the characters"),
        ({"alias": "Champion"}, "lower case only, as in champion"),
        ({"reason": "x" * 200_000}, "--reason has 200,000 characters"),
        ({"reason": "caf\udce9"}, "--reason is not UTF-8"),
        ({"override": "x" * 200_000}, "--override has 200,000 characters"),
    ],
    ids=range(6),
)
def test_version_that_qualifies_is_not_promoted_with_a_wrong_argument(
    client: MlflowClient,
    versions: list[Receipt],
    home: Path,
    options: dict[str, str],
    message: str,
) -> None:
    before = dump(home)
    with pytest.raises(UserError, match=message):
        promote(versions[0], **options)
    assert dump(home) == before


def test_longest_reason_is_kept_and_shown(
    client: MlflowClient, versions: list[Receipt], capsys: pytest.CaptureFixture[str]
) -> None:
    reason = '"' * (reasons.MAX_LENGTH - 1) + "x"
    promote(versions[0], reason=reason)
    assert history.read_moves(client, NAME)[0].move.reason == reason
    capsys.readouterr()
    command.show_history()
    assert f"    {reason}\n" in capsys.readouterr().out


def test_expect_current_refuses_an_unexpected_version(
    client: MlflowClient, versions: list[Receipt]
) -> None:
    with pytest.raises(
        UserError, match=rf"is nothing, not version {versions[1].version}: it was never moved"
    ):
        promote(versions[0], expect=versions[1].version)
    promote(versions[0], expect=0)
    with pytest.raises(
        UserError, match=rf"is version {versions[0].version}, not nothing: .* moved champion to"
    ):
        promote(versions[1], expect=0)
    promote(versions[1], reason="me first", expect=versions[0].version)
    with pytest.raises(
        UserError,
        match=rf"is version {versions[1].version}, not version {versions[0].version}: "
        ".* moved champion to .*me first",
    ):
        promote(versions[2], expect=versions[0].version)


def test_promotion_fails_if_another_move_came_between_decision_and_append(
    client: MlflowClient, versions: list[Receipt], monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(versions[0])
    append = history.append
    moved = threading.Event()

    def append_after_another_move(*arguments: Any) -> history.RecordedMove:
        if not moved.is_set():
            moved.set()
            promote(versions[2], reason="the quick one")
        return append(*arguments)

    monkeypatch.setattr(history, "append", append_after_another_move)
    with pytest.raises(
        UserError,
        match=rf"was quicker: .* moved champion to version {versions[2].version} .*the quick one",
    ):
        promote(versions[1])
    assert get_alias_version(client) == versions[2].version
    assert [recorded.move.target for recorded in history.read_moves(client, NAME)] == [
        versions[0].version,
        versions[2].version,
    ]


def test_concurrent_promotions_one_wins(
    client: MlflowClient, versions: list[Receipt], home: Path
) -> None:
    promote(versions[0])
    arguments = [
        sys.executable, "-m", "pipelines.promote", "--reason", "race",
        "--expect-current", str(versions[0].version), "--version",
    ]  # fmt: skip
    processes = [
        subprocess.Popen(
            [*arguments, str(receipt.version)],
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for receipt in (versions[2], versions[3])
    ]
    outputs = [process.communicate()[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 2], outputs
    refusal = outputs[codes.index(2)]
    assert "was quicker" in refusal or "not version" in refusal
    winner = (versions[2], versions[3])[codes.index(0)].version
    assert get_alias_version(client) == winner
    assert history.get_alias_state(client, NAME, "champion").expected_version == winner


def test_interrupted_move_is_not_completed_for_another_verdict(
    client: MlflowClient, versions: list[Receipt]
) -> None:
    """A model that was registered again under an old name inherits the moves of the earlier one."""
    promote(versions[0])
    promote(versions[1])
    client.set_registered_model_alias(NAME, "champion", str(versions[0].version))
    evaluate_version(client, versions[1], CORRECT[1] + 1)
    with pytest.raises(UserError, match="was decided for another verdict than version"):
        promote(versions[1])
    assert get_alias_version(client) == versions[0].version


def test_interrupted_move_counts_as_done_and_is_completed_by_the_next_promotion(
    client: MlflowClient,
    versions: list[Receipt],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    promote(versions[0])
    with monkeypatch.context() as patch:
        patch.setattr(history, "sync_alias", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            promote(versions[1])
    assert get_alias_version(client) == versions[0].version
    command.show_history()
    output = capsys.readouterr().out
    assert "is under way or was interrupted" in output
    assert (
        f"or the alias was set back to version {versions[0].version} by hand; the move "
        "counts as done"
    ) in output
    with pytest.raises(UserError, match=rf"not version {versions[0].version}"):
        promote(versions[2], expect=versions[0].version)
    promote(versions[1])
    assert get_alias_version(client) == versions[1].version
    assert len(history.read_moves(client, NAME)) == 2


def test_hand_moved_alias_and_deleted_version_are_reported(
    client: MlflowClient, versions: list[Receipt], capsys: pytest.CaptureFixture[str]
) -> None:
    promote(versions[0])
    promote(versions[1])
    client.set_registered_model_alias(NAME, "champion", str(versions[3].version))
    command.show_history()
    assert (
        f"is version {versions[3].version}, but its history leads to version {versions[1].version}"
        in capsys.readouterr().out
    )
    with pytest.raises(UserError, match="it was moved by hand"):
        promote(versions[2], expect=versions[1].version)
    spare = register_version(client, seed=50)
    evaluate_version(client, spare, 1950)
    promote(spare)
    client.delete_model_version(NAME, str(spare.version))
    capsys.readouterr()
    command.show_history()
    output = capsys.readouterr().out
    assert f"is nothing, but its history leads to version {spare.version}" in output
    assert f"version {spare.version} of move 3 was deleted" in output
    promote(versions[2])
    assert get_alias_version(client) == versions[2].version


def test_hand_moved_alias_does_not_bypass_the_comparison(
    client: MlflowClient, versions: list[Receipt]
) -> None:
    promote(versions[3])
    client.set_registered_model_alias(NAME, "champion", str(versions[0].version))
    for receipt in (versions[0], versions[1]):
        with pytest.raises(UserError, match=f"may be worse than version {versions[3].version}"):
            promote(receipt)
    assert get_alias_version(client) == versions[0].version, "a refusal moves nothing"
    promote(versions[0], override="taken over by hand")
    assert get_alias_version(client) == versions[0].version
    state = history.get_alias_state(client, NAME, "champion")
    assert state.expected_version == versions[0].version
    promote(versions[3])
    assert get_alias_version(client) == versions[3].version


def test_alias_older_than_its_history_needs_a_verdict_or_an_override(
    client: MlflowClient, versions: list[Receipt]
) -> None:
    unevaluated = register_version(client, seed=60)
    client.set_registered_model_alias(NAME, "champion", str(unevaluated.version))
    with pytest.raises(
        UserError,
        match=f"cannot be compared with version {unevaluated.version}: .* was never evaluated",
    ):
        promote(versions[3])
    promote(versions[3], override="the present champion was never evaluated")
    client.set_registered_model_alias(NAME, "challenger", str(versions[1].version))
    promote(versions[1], alias="challenger")
    assert get_alias_version(client, "challenger") == versions[1].version


def test_history_without_its_first_move_is_refused(
    client: MlflowClient, versions: list[Receipt]
) -> None:
    promote(versions[0])
    promote(versions[1])
    client.delete_model_version(history.history_model_name(NAME), "1")
    with pytest.raises(UserError, match="was tampered with: move 1 is not there"):
        promote(versions[2])


def test_versions_with_different_test_splits_are_not_compared(
    client: MlflowClient, versions: list[Receipt], tmp_path: Path
) -> None:
    evaluate_version(client, versions[1], CORRECT[1], split="u" * 64)
    promote(versions[0])
    split = f"test split {'u' * 64}, version {versions[0].version} on {'t' * 64}"
    with pytest.raises(UserError, match=f"{split}; .* where now is nothing"):
        promote(versions[1])
    other = write_test_split(client, versions[0], tmp_path / "other")
    with pytest.raises(UserError, match=f"{split}; .* where now is {other.sha256}"):
        promote(versions[1], test=tmp_path / "other")
    assert get_alias_version(client) == versions[0].version


def test_champion_with_another_test_split_is_evaluated_again_on_the_candidates_split(
    client: MlflowClient,
    versions: list[Receipt],
    tmp_path: Path,
    home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    promote(versions[0])
    test = tmp_path / "test"
    write_test_split(client, versions[0], test, wrong=100)
    evaluate_honestly(client, versions[1], test)
    with pytest.raises(UserError, match=f"may be worse than version {versions[0].version}"):
        promote(versions[1], test=test)
    write_test_split(client, versions[1], test, wrong=100)
    evaluate_honestly(client, versions[1], test)
    before = dump(home)
    promote(versions[1], dry_run=True, test=test)
    assert dump(home) == before
    promote(versions[1], test=test)
    assert get_alias_version(client) == versions[1].version
    comparison = history.read_moves(client, NAME)[-1].move.comparison
    assert comparison is not None
    assert comparison.rejudged
    assert comparison.candidate_top1 == 0.95
    assert comparison.champion_top1 < 0.9
    assert "judged on it for this comparison" in capsys.readouterr().out

    another = tmp_path / "another"
    write_test_split(client, versions[2], another, wrong=50)
    evaluate_honestly(client, versions[2], another)
    added = files_of_version(client, versions[1]) / "data" / "more"
    added.write_text("x")
    try:
        with pytest.raises(
            UserError, match=f"version {versions[1].version} is refused before anything of it"
        ):
            promote(versions[2], test=another)
    finally:
        added.unlink()


def test_rollback_restores_no_hand_set_version_and_no_failed_version_without_override(
    client: MlflowClient, versions: list[Receipt]
) -> None:
    promote(versions[1])
    evaluate_version(client, versions[0], CORRECT[0], passed=False)
    client.set_registered_model_alias(NAME, "champion", str(versions[0].version))
    promote(versions[2])
    command.rollback("the version that was set by hand is not restored")
    assert get_alias_version(client) == versions[1].version
    evaluate_version(client, versions[1], CORRECT[1], passed=False)
    promote(versions[3])
    with pytest.raises(
        UserError, match=f"does not return to version {versions[1].version}: its verdict failed"
    ):
        command.rollback("to a version that was evaluated again and failed")
    assert get_alias_version(client) == versions[3].version
    promote(versions[0], override="needed for a day")
    promote(versions[3])
    command.rollback("back to the version with an override")
    assert get_alias_version(client) == versions[0].version


def test_champion_is_compared_even_if_promote_alias_names_another_alias(
    client: MlflowClient, versions: list[Receipt], home: Path
) -> None:
    promote(versions[3])
    text = (home / "params.yaml").read_text()
    assert "alias: champion" in text
    (home / "params.yaml").write_text(text.replace("alias: champion", "alias: production"))
    try:
        with pytest.raises(UserError, match=f"may be worse than version {versions[3].version}"):
            promote(versions[0], alias="champion")
    finally:
        (home / "params.yaml").write_text(text)


def test_rollback_of_the_first_move_works_after_its_version_was_deleted(
    client: MlflowClient, versions: list[Receipt]
) -> None:
    spare = register_version(client, seed=52)
    evaluate_version(client, spare, 1950)
    promote(spare)
    client.delete_model_version(NAME, str(spare.version))
    command.rollback("the version is gone")
    state = history.get_alias_state(client, NAME, "champion")
    assert state.find_inconsistency(NAME) is None
    assert (state.current_version, len(state.moves)) == (None, 2)
    promote(versions[0])
    assert get_alias_version(client) == versions[0].version


def test_three_promotions_and_three_rollbacks_in_every_order_follow_a_stack(
    client: MlflowClient, versions: list[Receipt], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The files of the same four versions are compared in the other tests, which takes seconds.
    monkeypatch.setattr(packaging, "_is_reproduced", lambda *_: True)
    for others in sorted(set(itertools.permutations("PPRRR"))):
        actions = ("P", *others)
        alias = f"order-{''.join(actions).lower()}"
        candidates = iter(versions)
        stack: list[int] = []
        for action in actions:
            if action == "P":
                candidate = next(candidates)
                promote(candidate, alias=alias)
                stack.append(candidate.version)
            elif stack:
                command.rollback("r", alias=alias)
                stack.pop()
            else:
                with pytest.raises(UserError, match="no move to take back"):
                    command.rollback("r", alias=alias)
            state = history.get_alias_state(client, NAME, alias)
            assert state.current_version == state.expected_version
            assert [recorded.move.target for recorded in state.active_moves] == stack
            assert state.current_version == (stack[-1] if stack else None)


def test_baseline_of_a_deleted_champion_is_the_version_before_it(
    client: MlflowClient, versions: list[Receipt]
) -> None:
    promote(versions[2])
    spare = register_version(client, seed=51)
    evaluate_version(client, spare, 1950)
    promote(spare)
    client.delete_model_version(NAME, str(spare.version))
    with pytest.raises(UserError, match=f"may be worse than version {versions[2].version}"):
        promote(versions[0])
    promote(versions[3])
    assert get_alias_version(client) == versions[3].version


def test_altered_predictions_are_refused(client: MlflowClient, versions: list[Receipt]) -> None:
    promote(versions[0])
    run = client.get_run(client.get_model_version(NAME, str(versions[1].version)).run_id)
    path = next(Path(run.info.artifact_uri.removeprefix("file://")).rglob("predictions.parquet"))
    original = path.read_bytes()
    path.write_bytes(original[:-1] + b"x")
    try:
        with pytest.raises(UserError, match=r"predictions of .* were altered: expected sha256"):
            promote(versions[1])
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("link", "cannot be read"),
        ("pipe", "cannot be read"),
        ("folder", "is a folder"),
        ("huge", "has room for"),
    ],
)
def test_predictions_that_are_no_regular_file_are_one_message(
    client: MlflowClient, versions: list[Receipt], tmp_path: Path, name: str, message: str
) -> None:
    version = model_versions.get(client, NAME, versions[1].version)
    run = client.get_run(version.run_id)
    path = next(Path(run.info.artifact_uri.removeprefix("file://")).rglob("predictions.parquet"))
    path.rename(tmp_path / "predictions")
    try:
        if name == "link":
            path.symlink_to(tmp_path / "predictions")
        elif name == "pipe":
            os.mkfifo(path)
        elif name == "folder":
            path.mkdir()
        else:
            path.touch()
            os.truncate(path, 8 << 40)
        with pytest.raises(UserError, match=rf"the predictions of .* {message}"):
            verdicts.download_predictions(client, version)
    finally:
        path.rmdir() if name == "folder" else path.unlink()
        (tmp_path / "predictions").rename(path)


def test_trace_refuses_versions_that_kiln_did_not_register(
    client: MlflowClient, versions: list[Receipt]
) -> None:
    source = client.get_model_version(NAME, str(versions[0].version)).source
    client.create_registered_model("foreign")
    client.create_model_version("foreign", source=source, await_creation_for=0)
    with pytest.raises(
        UserError, match=r"foreign version 1 was not registered by Kiln, .* kiln\.sha256"
    ):
        trace.run("foreign/1", check=False)


@pytest.mark.parametrize(
    ("moment", "advice"),
    [
        ("check_candidate", "nothing was changed; repeat the command when it answers"),
        ("append", "look at `--history` when it answers: the move may be recorded"),
        ("sync_alias", "look at `--history` when it answers: the move may be recorded"),
    ],
)
def test_server_that_dies_during_a_promotion_is_one_message(
    running: Server,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    moment: str,
    advice: str,
) -> None:
    shutil.copy(home / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running.address)
    client = store.connect()
    receipt = register_version(client, seed=0)
    evaluate_version(client, receipt, CORRECT[0])
    module: Any = promotion if moment == "check_candidate" else history
    function = getattr(module, moment)

    def kill_server_before(*arguments: Any) -> Any:
        running.signal(signal.SIGKILL)
        return function(*arguments)

    capfd.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(module, moment, kill_server_before)
        with pytest.raises(UserError, match=f"{running.address} failed .*{advice}") as caught:
            promote(receipt)
    assert str(caught.value).count("\n") == 0
    assert capfd.readouterr().err == ""
    for action in (["--version", "1", "--reason", "r"], ["--rollback", "--reason", "r"]):
        with pytest.raises(UserError, match="does not answer"):
            command.main(action)
    with pytest.raises(UserError, match="does not answer"):
        command.main(["--history"])

    running.start()
    moves = 1 if moment == "sync_alias" else 0
    assert len(history.read_moves(client, NAME)) == moves
    promote(receipt)
    assert get_alias_version(client) == receipt.version
    assert len(history.read_moves(client, NAME)) == 1
