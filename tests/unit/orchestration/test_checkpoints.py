"""Checkpoints in a folder and in an object store: verification, retention, failed writes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from components.files import RETENTION_DAYS, stale_paths
from components.orchestration.checkpoints import (
    Checkpoints,
    CheckpointWriter,
    parse_checkpoint,
    read_marker,
    write_marker,
)
from components.storage import LocalStore, join_uri, open_store
from components.training.events import TrainingWarning


def make_state(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "model": {"w": torch.full((1000,), float(step))},
        "history": [{"val_loss": 0.5}],
    }


@pytest.fixture(params=["folder", "object store"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    storage = str(tmp_path) if request.param == "folder" else tmp_path.as_uri()
    return Checkpoints(open_store(storage, "runs", "f1"), "f1", keep=2)


def read_newest(checkpoints: Checkpoints) -> tuple[int | None, list[str]]:
    """Return the step of the newest checkpoint, and the warnings on the way to it."""
    warnings: list[TrainingWarning] = []
    data = checkpoints.read_newest(warnings.append)
    step = parse_checkpoint(data)["step"] if data else None
    return step, [warning.text for warning in warnings]


def test_a_state_comes_back_unchanged_and_only_the_newest_are_kept(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    assert read_newest(checkpoints) == (None, [])
    for step in (1, 5, 10):
        checkpoints.write(make_state(step))
    data = checkpoints.read_newest(lambda warning: pytest.fail(warning.text))
    assert data is not None
    state = parse_checkpoint(data)
    assert state["step"] == 10
    assert torch.equal(state["model"]["w"], make_state(10)["model"]["w"])
    assert sorted(p.name for p in (tmp_path / "runs" / "f1").iterdir()) == [
        f"{step:010d}.{kind}" for step, kind in itertools.product((5, 10), ("json", "pt"))
    ]
    checkpoints.store.clear()
    assert read_newest(checkpoints) == (None, [])


@pytest.mark.parametrize("damage", ["flip", "truncate", "description", "lost", "foreign"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(
    checkpoints: Checkpoints, tmp_path: Path, damage: str
) -> None:
    for step in (1, 2):
        checkpoints.write(make_state(step))
    blob = tmp_path / "runs" / "f1" / "0000000002.pt"
    description = blob.with_suffix(".json")
    if damage == "flip":
        data = bytearray(blob.read_bytes())
        data[len(data) // 2] ^= 1
        blob.write_bytes(data)
    elif damage == "truncate":
        blob.write_bytes(blob.read_bytes()[:-100])
    elif damage == "description":
        description.write_text(description.read_text()[:-20])
    elif damage == "lost":
        blob.unlink()
    else:
        description.write_text(description.read_text().replace('"f1"', '"f2"'))
    step, warnings = read_newest(checkpoints)
    assert step == 1
    assert len(warnings) == 1
    assert "0000000002.pt" in warnings[0]
    assert "trying the one before" in warnings[0]
    # A store that does not answer may have the blob later. A damaged one must not count among
    # the newest that are kept.
    if damage != "lost":
        checkpoints.keep = 1
        checkpoints.write(make_state(1))
        assert read_newest(checkpoints) == (1, [])


def test_a_write_that_was_cut_off_does_not_count(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.write(make_state(1))
    folder = tmp_path / "runs" / "f1"
    (folder / ".0000000002.pt.123").write_bytes(b"half")
    (folder / "0000000002.pt").write_bytes(b"whole, but without its description")
    assert read_newest(checkpoints) == (1, [])
    assert not (folder / ".0000000002.pt.123").exists()


class FullStore(LocalStore):
    """A folder on a disk that may be full."""

    full = False

    def put(self, name: str, data: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device", str(self.path / name))
        super().put(name, data)


def test_the_writer_continues_when_there_is_room_again(tmp_path: Path) -> None:
    store = FullStore(tmp_path / "c")
    checkpoints = Checkpoints(store, "f1", keep=2)
    warnings: list[TrainingWarning] = []
    writer = CheckpointWriter(checkpoints, warnings.append)
    writer.save(make_state(1), True)
    store.full = True
    writer.save(make_state(2), True)
    assert read_newest(checkpoints)[0] == 1
    assert len(warnings) == 1
    assert "no checkpoint at step 2" in warnings[0].text
    assert str(tmp_path / "c") in warnings[0].text
    store.full = False
    writer.save(make_state(3), True)
    assert read_newest(checkpoints)[0] == 3


def test_markers_beside_the_checkpoints(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), "runs", "f1")
    assert read_marker(store, "mlflow-1") is None
    write_marker(store, "mlflow-1", "abc")
    assert read_marker(store, "mlflow-1") == "abc"
    assert read_marker(store, "mlflow-2") is None


def test_a_url_keeps_its_query_and_does_not_show_it() -> None:
    joined = join_uri("s3://bucket/kiln/?endpoint_override=x", "runs", "f")
    assert joined == "s3://bucket/kiln/runs/f?endpoint_override=x"
    assert open_store("file:///tmp/kiln?secret=1", "runs").uri == "file:///tmp/kiln/runs"


def test_checkpoints_are_stale_after_the_retention_time(tmp_path: Path) -> None:
    for name in ("old", "new"):
        Checkpoints(open_store(str(tmp_path), "runs", name), name, 1).write(make_state(1))
    now = (tmp_path / "runs" / "new" / "0000000001.pt").stat().st_mtime
    for days, expected in ((-1, []), (1, ["new", "old"])):
        later = now + (RETENTION_DAYS + days) * 86_400
        stale = stale_paths((tmp_path / "runs").iterdir(), later)
        assert [path.name for path in stale] == expected
    assert stale_paths([tmp_path / "runs" / "deleted meanwhile"]) == []
