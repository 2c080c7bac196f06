"""Checkpoints on a disk and on a store that is not one: what verifies, what is kept, what happens without room."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from components.files import RETENTION_DAYS, stale_paths
from components.orchestration.checkpoints import Checkpoints, Writer, note
from components.storage import LocalStore, join_uri, open_store


def state(step: int) -> dict[str, Any]:
    return {"step": step, "model": {"w": torch.full((1000,), float(step))}, "history": [{"val_loss": 0.5}]}


@pytest.fixture(params=["disk", "remote"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    storage = str(tmp_path) if request.param == "disk" else tmp_path.as_uri()
    return Checkpoints(open_store(storage, "runs", "f1"), "f1", keep=2)


def newest(checkpoints: Checkpoints) -> tuple[int | None, list[str]]:
    told: list[dict[str, Any]] = []
    data = checkpoints.newest(told.append)
    return checkpoints.read(data)["step"] if data else None, [event["text"] for event in told]


def test_what_is_written_comes_back_whole_and_only_the_newest_are_kept(checkpoints: Checkpoints, tmp_path: Path) -> None:
    assert newest(checkpoints) == (None, [])
    for step in (1, 5, 10):
        checkpoints.write(state(step))
    data = checkpoints.newest(lambda event: pytest.fail(event["text"]))
    assert data is not None
    back = checkpoints.read(data)
    assert back["step"] == 10
    assert torch.equal(back["model"]["w"], state(10)["model"]["w"])
    assert sorted(p.name for p in (tmp_path / "runs" / "f1").iterdir()) == [
        f"{step:010d}.{kind}" for step, kind in itertools.product((5, 10), ("json", "pt"))
    ]
    checkpoints.place.clear()
    assert newest(checkpoints) == (None, [])


@pytest.mark.parametrize("damage", ["flip", "cut", "note", "lost", "foreign"])
def test_a_damaged_one_is_told_and_the_one_before_it_taken(checkpoints: Checkpoints, tmp_path: Path, damage: str) -> None:
    for step in (1, 2):
        checkpoints.write(state(step))
    blob, words = (tmp_path / "runs" / "f1" / f"0000000002.{kind}" for kind in ("pt", "json"))
    if damage == "flip":
        data = bytearray(blob.read_bytes())
        data[len(data) // 2] ^= 1
        blob.write_bytes(data)
    elif damage == "cut":
        blob.write_bytes(blob.read_bytes()[:-100])
    elif damage == "note":
        words.write_text(words.read_text()[:-20])
    elif damage == "lost":
        blob.unlink()
    else:
        words.write_text(words.read_text().replace('"f1"', '"f2"'))
    step, told = newest(checkpoints)
    assert step == 1
    assert len(told) == 1
    assert "0000000002.pt" in told[0]
    assert "trying the one before" in told[0]
    if damage != "lost":  # a store that does not answer may have it later; what is damaged must not push out what is not
        checkpoints.keep = 1
        checkpoints.write(state(1))
        assert newest(checkpoints) == (1, [])


def test_what_a_kill_left_half_written_does_not_count(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.write(state(1))
    home = tmp_path / "runs" / "f1"
    (home / ".0000000002.pt.123").write_bytes(b"half")
    (home / "0000000002.pt").write_bytes(b"whole, but the kill came before its note")
    assert newest(checkpoints) == (1, [])
    assert not (home / ".0000000002.pt.123").exists()


def test_the_writer_goes_on_when_there_is_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(LocalStore(tmp_path / "c"), "f1", keep=2)
    told: list[dict[str, Any]] = []
    writer = Writer(checkpoints, told.append)
    writer.save(state(1), True)
    put = LocalStore.put

    def full(self: LocalStore, name: str, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(self.path / name))

    monkeypatch.setattr(LocalStore, "put", full)
    writer.save(state(2), True)
    assert newest(checkpoints)[0] == 1
    assert len(told) == 1
    assert "no checkpoint at step 2" in told[0]["text"]
    assert str(tmp_path / "c") in told[0]["text"]
    monkeypatch.setattr(LocalStore, "put", put)
    writer.save(state(3), True)
    assert newest(checkpoints)[0] == 3


def test_words_beside_the_checkpoints(tmp_path: Path) -> None:
    place = open_store(str(tmp_path), "runs", "f1")
    assert note(place, "mlflow-1") is None
    note(place, "mlflow-1", "abc")
    assert (note(place, "mlflow-1"), note(place, "mlflow-2")) == ("abc", None)


def test_a_url_keeps_its_query_and_does_not_show_it() -> None:
    assert join_uri("s3://bucket/kiln/?endpoint_override=x", "runs", "f") == "s3://bucket/kiln/runs/f?endpoint_override=x"
    assert open_store("file:///tmp/kiln?secret=1", "runs").uri == "file:///tmp/kiln/runs"


def test_a_training_counts_as_forgotten_after_a_time(tmp_path: Path) -> None:
    for name in ("old", "new"):
        Checkpoints(open_store(str(tmp_path), "runs", name), name, 1).write(state(1))
    now = (tmp_path / "runs" / "new" / "0000000001.pt").stat().st_mtime
    for days, expected in ((-1, []), (1, ["new", "old"])):
        gone = stale_paths((tmp_path / "runs").iterdir(), now + (RETENTION_DAYS + days) * 86_400)
        assert [path.name for path in gone] == expected
    assert stale_paths([tmp_path / "runs" / "taken away meanwhile"]) == []
