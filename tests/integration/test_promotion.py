"""Who may stand behind `champion`, how one gets there, and how the way back is found."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.data.format.images import Images
from components.data.format.shards import read_split, write_split
from components.errors import UserError
from components.records.registry import Receipt
from components.records.splits import Manifest
from components.registry import history, model_versions
from pipelines import promote as verb
from pipelines import trace
from tests.integration.versions import EXAMPLES, NAME, NETWORK, folder, judge, make

ROOT = Path(__file__).resolve().parents[2]
BETTER = (1600, 1700, 1800, 1900)


@pytest.fixture
def four(client: Any) -> list[Receipt]:
    """Four versions, each clearly better than the one before, and an alias that stands nowhere."""
    receipts = [make(client, seed) for seed in range(4)]
    for receipt, right in zip(receipts, BETTER, strict=True):
        judge(client, receipt, right)
    for name in (history.ledger(NAME),):
        if client.search_registered_models(f"name = '{name}'"):
            client.delete_registered_model(name)
    for alias in model_versions.aliases(client, NAME):
        client.delete_registered_model_alias(NAME, alias)
    return receipts


def promote(receipt: Receipt, reason: str = "r", **options: Any) -> None:
    verb.promote(receipt.version, reason, **options)


def champion(client: Any, alias: str = "champion") -> int | None:
    return model_versions.aliases(client, NAME).get(alias)


def dump(home: Path) -> str:
    """Everything that the store holds."""
    with sqlite3.connect(home / "mlflow.db") as database:
        rows = "\n".join(database.iterdump())
    return rows + "\n".join(str(path) for path in sorted(home.rglob("*")) if "mlflow.db" not in path.name)


def test_a_better_version_moves_the_champion_and_a_worse_one_does_not(
    client: Any, four: list[Receipt], capsys: pytest.CaptureFixture[str]
) -> None:
    promote(four[1])
    promote(four[2], reason="better by far")
    assert champion(client) == four[2].version
    assert "90.00%" in capsys.readouterr().out
    with pytest.raises(UserError, match=rf"may be worse than version {four[2].version} by .* points of top-1"):
        promote(four[0])
    assert champion(client) == four[2].version


def test_an_override_is_possible_and_recorded_for_ever(client: Any, four: list[Receipt]) -> None:
    judge(client, four[0], BETTER[0], passed=False)
    promote(four[1])
    with pytest.raises(UserError, match=r"its verdict failed: min_top1 is 0\.5, found 0\.1000"):
        promote(four[0])
    with pytest.raises(UserError, match="--override is empty"):
        promote(four[0], override=" ")
    promote(four[0], override="the new one leaks memory")
    assert champion(client) == four[0].version
    move = history.read(client, NAME)[-1].move
    assert (move.override, move.source, move.target) == ("the new one leaks memory", four[1].version, four[0].version)
    promote(four[2], override="not needed")
    assert history.read(client, NAME)[-1].move.override is None, "nothing was overridden"


def test_not_even_an_override_promotes_what_was_never_evaluated_or_was_altered(client: Any, four: list[Receipt]) -> None:
    with pytest.raises(UserError, match="was never evaluated"):
        promote(make(client, seed=77), override="please")
    receipt = make(client, seed=78)
    judge(client, receipt, 1990)
    (folder(client, receipt) / "data" / "more").write_text("x")
    with pytest.raises(UserError, match="was altered after its verdict: its files were judged with sha256"):
        promote(receipt, override="please")
    assert champion(client) is None


def test_best_goes_by_the_metric_among_those_that_passed(client: Any, four: list[Receipt], home: Path) -> None:
    judge(client, four[3], BETTER[3], passed=False)
    others = [v for v in model_versions.versions(client, NAME) if int(v.version) not in [r.version for r in four]]
    for version in others:
        client.delete_model_version(NAME, version.version)
    verb.promote(None, "the best")
    assert champion(client) == four[2].version
    text = (home / "params.yaml").read_text()
    (home / "params.yaml").write_text(text.replace("metric: top1", "metric: beauty"))
    try:
        with pytest.raises(UserError, match=r"promote\.metric is beauty, .*known: top1, nll"):
            verb.promote(None, "the best")
    finally:
        (home / "params.yaml").write_text(text)


def test_three_promotions_and_two_rollbacks_land_on_the_first(
    client: Any, four: list[Receipt], capsys: pytest.CaptureFixture[str]
) -> None:
    for receipt in four[:3]:
        promote(receipt, reason=f"to {receipt.version}")
    verb.rollback("bad news")
    assert champion(client) == four[1].version
    verb.rollback("worse news")
    assert champion(client) == four[0].version
    capsys.readouterr()
    verb.show_history()
    shown = capsys.readouterr().out
    for text in (
        "to 1",
        "bad news (takes back 3)",
        "worse news (takes back 2)",
        f"{NAME}@champion is version {four[0].version}",
    ):
        assert text in shown
    promote(four[3])
    verb.rollback("and again")
    assert champion(client) == four[0].version
    verb.rollback("to the state before the first")
    assert champion(client) is None
    with pytest.raises(UserError, match="has no move to take back"):
        verb.rollback("once more")


def test_other_aliases_are_free_but_want_a_verdict(client: Any, four: list[Receipt]) -> None:
    promote(four[3])
    promote(four[2], alias="challenger")
    promote(four[1], alias="challenger")
    assert (champion(client), champion(client, "challenger")) == (four[3].version, four[1].version)
    verb.rollback("back", alias="challenger")
    assert (champion(client), champion(client, "challenger")) == (four[3].version, four[2].version)


def test_a_dry_run_changes_nothing(client: Any, four: list[Receipt], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    promote(four[0])
    before = dump(home)
    promote(four[1], dry_run=True)
    verb.rollback("r", dry_run=True)
    verb.show_history()
    assert dump(home) == before
    shown = capsys.readouterr().out
    assert f"would move from version {four[0].version} to {four[1].version}" in shown
    assert "would return to nothing" in shown


def test_compare_and_swap(client: Any, four: list[Receipt]) -> None:
    with pytest.raises(UserError, match=rf"is nothing, not version {four[1].version}: nobody has moved it yet"):
        promote(four[0], expect=four[1].version)
    promote(four[0], expect=0)
    with pytest.raises(UserError, match=rf"is version {four[0].version}, not nothing: .* moved it"):
        promote(four[1], expect=0)
    promote(four[1], reason="me first", expect=four[0].version)
    with pytest.raises(
        UserError, match=rf"is version {four[1].version}, not version {four[0].version}: .* moved it .*me first"
    ):
        promote(four[2], expect=four[0].version)


def test_of_two_at_the_same_moment_one_is_told_of_the_other(client: Any, four: list[Receipt], monkeypatch: Any) -> None:
    promote(four[0])
    append, inside = history.append, threading.Event()

    def slow(*arguments: Any) -> Any:
        """Between deciding and writing, somebody else moves the alias."""
        if not inside.is_set():
            inside.set()
            promote(four[2], reason="the quick one")
        return append(*arguments)

    monkeypatch.setattr(history, "append", slow)
    with pytest.raises(UserError, match=rf"was quicker: champion moved to version {four[2].version} .*the quick one"):
        promote(four[1])
    assert champion(client) == four[2].version
    assert [entry.move.target for entry in history.read(client, NAME)] == [four[0].version, four[2].version]


def test_two_processes_at_the_same_moment(client: Any, four: list[Receipt], home: Path) -> None:
    promote(four[0])
    command = [
        sys.executable,
        "-m",
        "pipelines.promote",
        "--expect-current",
        str(four[0].version),
        "--reason",
        "race",
        "--version",
    ]
    started = [
        subprocess.Popen([*command, str(receipt.version)], cwd=home, env={**os.environ, "PYTHONPATH": str(ROOT)},
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for receipt in (four[2], four[3])
    ]  # fmt: skip
    told = [process.communicate()[0] for process in started]
    codes = [process.returncode for process in started]
    assert sorted(codes) == [0, 2], told
    loser = told[codes.index(2)]
    assert "was quicker" in loser or "not version" in loser
    winner = (four[2], four[3])[codes.index(0)].version
    assert champion(client) == winner
    assert history.state(client, NAME, "champion").expected == winner


def test_an_interrupted_move_counts_and_is_completed_by_trying_again(
    client: Any, four: list[Receipt], monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(four[0])
    with monkeypatch.context() as patch:
        patch.setattr(history, "follow", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            promote(four[1])
    assert champion(client) == four[0].version
    verb.show_history()
    told = capsys.readouterr().out
    assert "is under way or was interrupted" in told
    assert f"or somebody has set the alias back to version {four[0].version} by hand; the move counts as done" in told
    with pytest.raises(UserError, match=rf"not version {four[0].version}"):
        promote(four[2], expect=four[0].version)
    promote(four[1])
    assert champion(client) == four[1].version
    assert len(history.read(client, NAME)) == 2


def test_a_hand_moved_alias_and_a_deleted_version_are_told(
    client: Any, four: list[Receipt], capsys: pytest.CaptureFixture[str]
) -> None:
    promote(four[0])
    promote(four[1])
    client.set_registered_model_alias(NAME, "champion", str(four[3].version))
    verb.show_history()
    assert f"is version {four[3].version}, but its history leads to version {four[1].version}" in capsys.readouterr().out
    with pytest.raises(UserError, match="it was moved by hand"):
        promote(four[2], expect=four[1].version)
    spare = make(client, seed=50)
    judge(client, spare, 1950)
    promote(spare)
    client.delete_model_version(NAME, str(spare.version))
    capsys.readouterr()
    verb.show_history()
    shown = capsys.readouterr().out
    assert f"is nothing, but its history leads to version {spare.version}" in shown
    assert f"version {spare.version} of move 3 was deleted" in shown
    promote(four[2])
    assert champion(client) == four[2].version


def test_a_hand_moved_alias_opens_no_way_around_the_comparison(client: Any, four: list[Receipt]) -> None:
    promote(four[3])
    client.set_registered_model_alias(NAME, "champion", str(four[0].version))
    for receipt in (four[0], four[1]):
        with pytest.raises(UserError, match=f"may be worse than version {four[3].version}"):
            promote(receipt)
    assert champion(client) == four[0].version, "nothing moved, nothing was mended in silence"
    promote(four[0], override="taken over by hand")
    assert history.state(client, NAME, "champion").expected == champion(client) == four[0].version
    promote(four[3])
    assert champion(client) == four[3].version


def test_an_alias_that_stood_before_there_was_a_history(client: Any, four: list[Receipt]) -> None:
    stranger = make(client, seed=60)
    client.set_registered_model_alias(NAME, "champion", str(stranger.version))
    with pytest.raises(UserError, match=f"cannot be compared with version {stranger.version}: .* was never evaluated"):
        promote(four[3])
    promote(four[3], override="nobody knows what stood there")
    client.set_registered_model_alias(NAME, "challenger", str(four[1].version))
    promote(four[1], alias="challenger")
    assert champion(client, "challenger") == four[1].version


def test_a_cut_history_is_told(client: Any, four: list[Receipt]) -> None:
    promote(four[0])
    promote(four[1])
    client.delete_model_version(history.ledger(NAME), "1")
    with pytest.raises(UserError, match="was tampered with: move 1 is not there"):
        promote(four[2])


def test_versions_judged_on_different_splits_are_not_compared(client: Any, four: list[Receipt], tmp_path: Path) -> None:
    judge(client, four[1], BETTER[1], split="u" * 64)
    promote(four[0])
    split = f"test split {'u' * 64}, version {four[0].version} on {'t' * 64}"
    with pytest.raises(UserError, match=f"{split}; .* where now is nothing"):
        promote(four[1])
    other = a_test_split(tmp_path / "other")
    with pytest.raises(UserError, match=f"{split}; .* where now is {other.sha256}"):
        promote(four[1], test=tmp_path / "other")
    assert champion(client) == four[0].version


def a_test_split(where: Path, classes: tuple[str, ...] = ("a", "b", "c"), seed: int = 0) -> Manifest:
    """As many examples as `judge` judges on, with the same ids and labels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (EXAMPLES, *NETWORK.shape), np.uint8)
    ids = [f"test/{n}" for n in range(EXAMPLES)]
    return write_split(where, "test", Images(pixels, np.arange(EXAMPLES) % 3, ids), list(classes), shard_mb=1)


def test_a_champion_judged_on_another_split_is_judged_on_the_candidates(
    client: Any, four: list[Receipt], tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = tmp_path / "test"
    split = a_test_split(where)
    promote(four[0])
    module = model_versions.load(four[0]).module
    pixels, labels = read_split(where)[0].pixels, np.arange(EXAMPLES) % 3
    right = float((module(torch.from_numpy(pixels)).argmax(1).numpy() == labels).mean())

    judge(client, four[1], 100, split=split.sha256)
    with pytest.raises(UserError, match=f"may be worse than version {four[0].version}"):
        promote(four[1], test=where)
    judge(client, four[1], 1900, split=split.sha256)
    before = dump(home)
    promote(four[1], dry_run=True, test=where)
    assert dump(home) == before
    promote(four[1], test=where)
    assert champion(client) == four[1].version
    found = history.read(client, NAME)[-1].move.comparison
    assert found is not None
    assert (found.rejudged, found.champion_top1, found.candidate_top1) == (True, right, 0.95)
    assert "judged on it for this comparison" in capsys.readouterr().out

    more = a_test_split(tmp_path / "more", ("a", "b", "d"))
    judge(client, four[2], 1990, split=more.sha256)
    with pytest.raises(UserError, match=f"cannot be compared with version {four[1].version}: .* was trained for 3 classes"):
        promote(four[2], test=tmp_path / "more")

    another = a_test_split(tmp_path / "another", seed=1)
    judge(client, four[2], 1990, split=another.sha256)
    added = folder(client, four[1]) / "data" / "more"
    added.write_text("x")
    try:
        with pytest.raises(UserError, match=f"version {four[1].version} was altered after its verdict"):
            promote(four[2], test=tmp_path / "another")
    finally:
        added.unlink()


def test_a_rollback_brings_back_what_the_history_knows_and_nothing_that_failed(client: Any, four: list[Receipt]) -> None:
    promote(four[1])
    judge(client, four[0], BETTER[0], passed=False)
    client.set_registered_model_alias(NAME, "champion", str(four[0].version))
    promote(four[2])
    verb.rollback("what stood here by hand stays away")
    assert champion(client) == four[1].version
    judge(client, four[1], BETTER[1], passed=False)
    promote(four[3])
    with pytest.raises(UserError, match=f"does not return to version {four[1].version}: its verdict failed"):
        verb.rollback("to one that was judged again and failed")
    assert champion(client) == four[3].version
    promote(four[0], override="needed for a day")
    promote(four[3])
    verb.rollback("the override stands for ever")
    assert champion(client) == four[0].version


def test_champion_is_compared_whatever_alias_the_parameters_name(client: Any, four: list[Receipt], home: Path) -> None:
    promote(four[3])
    text = (home / "params.yaml").read_text()
    assert "alias: champion" in text
    (home / "params.yaml").write_text(text.replace("alias: champion", "alias: production"))
    try:
        with pytest.raises(UserError, match=f"may be worse than version {four[3].version}"):
            promote(four[0], alias="champion")
    finally:
        (home / "params.yaml").write_text(text)


def test_where_the_champion_was_deleted_whoever_stood_there_before_is_the_measure(client: Any, four: list[Receipt]) -> None:
    promote(four[2])
    spare = make(client, seed=51)
    judge(client, spare, 1950)
    promote(spare)
    client.delete_model_version(NAME, str(spare.version))
    with pytest.raises(UserError, match=f"may be worse than version {four[2].version}"):
        promote(four[0])
    promote(four[3])
    assert champion(client) == four[3].version


def test_altered_predictions_are_no_evidence(client: Any, four: list[Receipt]) -> None:
    promote(four[0])
    run = client.get_run(client.get_model_version(NAME, str(four[1].version)).run_id)
    path = next(Path(run.info.artifact_uri.removeprefix("file://")).rglob("predictions.parquet"))
    kept = path.read_bytes()
    path.write_bytes(kept[:-1] + b"x")
    try:
        with pytest.raises(UserError, match=r"predictions of .* were altered: expected sha256"):
            promote(four[1])
    finally:
        path.write_bytes(kept)


def test_what_kiln_did_not_register_is_not_traced(client: Any, four: list[Receipt]) -> None:
    source = client.get_model_version(NAME, str(four[0].version)).source
    client.create_registered_model("foreign")
    client.create_model_version("foreign", source=source, await_creation_for=0)
    with pytest.raises(UserError, match=r"foreign version 1 was not registered by Kiln: .* no tag kiln\.sha256"):
        trace.run("foreign/1", check=False)
