"""Atomic files and directories, locks, and records."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.errors import UserError
from components.files import atomic_directory, exclusive_lock, sha256_file, write_bytes
from components.records.receipt import Receipt

RECEIPT = Receipt(model="cnn", name="fashion", version=3, model_id="m-1", sha256="ab")


def test_record_reads_back_and_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    RECEIPT.write(tmp_path / "a" / "receipt.json")
    RECEIPT.write(tmp_path / "b.json")
    assert Receipt.read(tmp_path / "b.json") == RECEIPT
    assert sha256_file(tmp_path / "a" / "receipt.json") == sha256_file(tmp_path / "b.json")


def test_missing_or_invalid_record_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"receipt\.json is missing; `dvc repro` makes it"):
        Receipt.read(tmp_path / "receipt.json")
    (tmp_path / "receipt.json").write_text('{"version": "x"}')
    with pytest.raises(UserError, match=r"receipt\.json is not a Receipt"):
        Receipt.read(tmp_path / "receipt.json")


def test_failing_block_keeps_the_old_directory(tmp_path: Path) -> None:
    out = tmp_path / "data" / "prepared"
    with atomic_directory(out) as folder:
        (folder / "old").write_text("1")

    def fail() -> None:
        with atomic_directory(out) as folder:
            (folder / "new").write_text("2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in out.iterdir()] == ["old"]
    assert [p.name for p in out.parent.iterdir()] == ["prepared"]


def test_remains_of_a_killed_process_are_deleted(tmp_path: Path) -> None:
    remains = tmp_path / ".prepared.partial"
    remains.mkdir()
    (remains / "partial").write_text("x")
    with atomic_directory(tmp_path / "prepared") as folder:
        (folder / "complete").write_text("y")
    assert [p.name for p in tmp_path.iterdir()] == ["prepared"]
    assert [p.name for p in (tmp_path / "prepared").iterdir()] == ["complete"]


def test_failing_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(TypeError):
        write_bytes(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_lock_excludes_other_processes_until_its_holder_dies(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from components.files import exclusive_lock\n"
        "with exclusive_lock(Path(sys.argv[1]), 'x'): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    expected = f"models/cnn is already being made by process {holder.pid} "
    with pytest.raises(UserError, match=expected), exclusive_lock(tmp_path / "lock", "models/cnn"):
        pass
    waits: list[int] = []

    def on_wait() -> None:
        waits.append(1)
        if len(waits) == 2:
            holder.kill()

    with exclusive_lock(tmp_path / "lock", "models/cnn", wait=on_wait):
        assert len(waits) >= 2
        assert (tmp_path / "lock").read_text() == str(os.getpid())


@pytest.mark.parametrize(("umask", "public"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_private_file_is_for_its_owner_and_other_files_follow_the_umask(
    umask: int, public: int, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "private", b"x", private=True)
        write_bytes(tmp_path / "public", b"x")
        with atomic_directory(tmp_path / "out") as folder:
            (folder / "file").write_bytes(b"x")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes["private"] == 0o600
    assert modes["public"] == public
    assert modes["file"] == public
    assert modes["out"] == 0o777 & ~umask
