"""The embedded store after its folder was moved or copied, with real MLflow stores."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from components.errors import UserError
from components.tracking import address, embedded, spool, store

REPOSITORY = Path(__file__).resolve().parents[3]
Use = Callable[[Path], MlflowClient]


def point_to(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Make `folder` the repository whose embedded store this process uses."""
    uri = f"sqlite:///{folder}/mlflow.db"
    patch.setattr(embedded, "ROOT", folder)
    patch.setattr(address, "EMBEDDED_URI", uri)
    patch.setattr(store, "EMBEDDED_URI", uri)
    patch.setattr(spool, "FOLDER", folder / ".kiln" / "spool")
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    patch.chdir(folder)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """A function that connects to the embedded store of a folder."""

    def connect(folder: Path) -> MlflowClient:
        point_to(folder, monkeypatch)
        return store.connect()

    return connect


def write_version(client: MlflowClient, scratch: Path) -> str:
    """Register a version of two small files and return the id of its run."""
    experiment_id = store.ensure_experiment(client, "task")
    run_id: str = client.create_run(experiment_id).info.run_id
    (scratch / "predictions").write_text("original")
    client.log_artifact(run_id, str(scratch / "predictions"))
    model = client.create_logged_model(experiment_id, name="cnn", source_run_id=run_id)
    (scratch / "model").mkdir(exist_ok=True)
    (scratch / "model" / "MLmodel").write_text("original")
    client.log_model_artifacts(model.model_id, str(scratch / "model"))
    client.finalize_logged_model(model.model_id, "READY")
    client.create_model_version(
        "task", source=f"models:/{model.model_id}", run_id=run_id, await_creation_for=0
    )
    return run_id


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one version, and with MLflow's experiment "Default" in use.

    It is shared by the tests because its creation takes seconds. They use copies of it.
    """
    folder = tmp_path_factory.mktemp("first") / "kiln"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        point_to(folder, patch)
        client = store.connect()
        client.create_registered_model("task")
        write_version(client, tmp_path_factory.mktemp("scratch"))
        client.log_text(client.create_run("0").info.run_id, "original", "note")
    return folder


@pytest.fixture
def original(template: Path, tmp_path: Path, use: Use) -> Iterator[Path]:
    """A store in a folder of its own."""
    folder = tmp_path / "a" / "kiln"
    shutil.copytree(template, folder)
    use(folder)
    assert str(template) not in dump(folder)
    return folder


def dump(folder: Path) -> str:
    """Return the content of the database as SQL."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return "\n".join(database.iterdump())


def change(folder: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        database.execute(statement, values)


def digest(folder: Path) -> dict[Path, str]:
    """Return the digest of each file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def mark(folder: Path) -> None:
    """Make the artifacts of a copy different from those of the original."""
    for path in folder.glob("ml*/**/*"):
        if path.is_file():
            path.write_text("copy")


def read(client: MlflowClient, scratch: Path) -> set[str]:
    """Return the contents of the artifacts of the version and of all runs."""
    version = client.get_model_version("task", "1")
    run = client.search_runs(["0"])[0].info.run_id
    scratch.mkdir(exist_ok=True)
    files = {
        "models:/task/1": "MLmodel",
        version.source: "MLmodel",
        f"runs:/{version.run_id}/": "predictions",
        f"runs:/{run}/": "note",
    }
    return {
        (Path(download_artifacts(uri, dst_path=str(scratch))) / name).read_text()
        for uri, name in files.items()
    }


@pytest.mark.parametrize(
    "name",
    [
        "kiln2",
        "with space",
        'it\'s "quoted"',
        "50% off",
        "a#b",
        "a&b;$c",
        "窯-Öfen",
        "kiln/inner",
        "mlartifacts/task",
    ],
)
def test_copy_uses_its_own_artifacts_only(
    name: str, original: Path, use: Use, tmp_path: Path
) -> None:
    before = digest(original)
    copy = tmp_path / "a" / name
    shutil.copytree(original, copy)
    mark(copy)
    client = use(copy)
    assert read(client, tmp_path / "scratch") == {"copy"}
    files = len(digest(copy / "mlartifacts"))
    run_id = write_version(client, tmp_path / "scratch")
    client.delete_model_version("task", "1")
    client.delete_run(run_id)
    assert len(digest(copy / "mlartifacts")) == files + 2
    shutil.rmtree(copy)  # one of the copies is in the original's folder
    assert digest(original) == before


def test_moved_store_finds_its_artifacts(
    original: Path, use: Use, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = original.rename(tmp_path / "moved")
    assert read(use(moved), tmp_path / "scratch") == {"original"}
    assert str(original) not in dump(moved).replace(str(moved), "")
    assert f"came from {original}; it names its artifacts here now" in capsys.readouterr().out
    assert store.ensure_experiment(MlflowClient(), "next")
    assert f"{moved}/mlartifacts/next" in dump(moved)


@pytest.mark.parametrize("name", ["outer/kiln", "a"])
def test_store_moves_into_and_out_of_a_folder(
    name: str, original: Path, use: Use, tmp_path: Path
) -> None:
    moved = tmp_path / name
    original.rename(tmp_path / "between")
    shutil.rmtree(original.parent)
    moved.parent.mkdir(exist_ok=True)
    (tmp_path / "between").rename(moved)
    assert read(use(moved), tmp_path / "scratch") == {"original"}


def test_locations_that_are_uris_are_relocated(original: Path, use: Use, tmp_path: Path) -> None:
    odd = tmp_path / "50% of ü#"
    shutil.copytree(original, odd)
    use(odd)
    with closing(sqlite3.connect(odd / "mlflow.db")) as database, database:
        database.create_function("as_uri", 1, lambda path: Path(path).as_uri())
        for table, column, condition in embedded._COLUMNS:
            condition = condition or f"WHERE {column} LIKE '/%'"
            database.execute(f"UPDATE {table} SET {column} = as_uri({column}) {condition}")
    assert "file:///" in dump(odd)
    assert read(use(odd), tmp_path / "scratch") == {"original"}
    assert "file:///" in dump(odd)  # in its own place nothing changes
    moved = odd.rename(tmp_path / "moved")
    assert read(use(moved), tmp_path / "scratch") == {"original"}
    assert "file:///" not in dump(moved)


def test_other_locations_stay(original: Path, use: Use, tmp_path: Path) -> None:
    client = use(original)
    others = {
        "bucket": "s3://bucket/mlartifacts/bucket",
        "beside": f"{original}2/mlartifacts/kept",
        "inside": f"{original}/notes/runs",
        "server": "mlflow-artifacts:/mlartifacts/server",
    }
    for name, location in others.items():
        client.create_experiment(name, artifact_location=location)
    client = use(original.rename(tmp_path / "moved"))
    for name, location in others.items():
        assert client.get_experiment_by_name(name).artifact_location == location


def test_runs_of_another_directory_stay_there(original: Path, use: Use, tmp_path: Path) -> None:
    """A store that another program created elsewhere has its experiment "Default" there."""
    before = dump(original)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(original / "mlruns", elsewhere / "mlruns")
    for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
        statement = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"
        change(original, statement, f"{original}/mlruns", f"{elsewhere}/mlruns")
    changed = dump(original)
    assert changed != before
    assert read(use(original), tmp_path / "scratch") == {"original"}
    assert dump(original) == changed


def test_nothing_is_written_when_nothing_moved(original: Path, use: Use) -> None:
    before = digest(original)
    start = time.monotonic()
    assert embedded.relocate() == []
    assert time.monotonic() - start < 1
    assert digest(original) == before


def test_links_to_the_folder_change_nothing(original: Path, use: Use, tmp_path: Path) -> None:
    before = dump(original)
    link = tmp_path / "link"
    link.symlink_to(original)
    assert read(use(link), tmp_path / "scratch") == {"original"}
    assert dump(original) == before


def test_database_without_artifacts_is_refused_with_the_command(
    original: Path, use: Use, tmp_path: Path
) -> None:
    copy = tmp_path / "it's a copy"
    copy.mkdir()
    shutil.copy(original / "mlflow.db", copy)
    before = digest(copy)
    start = time.monotonic()
    with pytest.raises(UserError, match=f"came from {original} without all of its") as caught:
        use(copy)
    assert time.monotonic() - start < 5
    assert str(copy / "mlartifacts" / "task") in str(caught.value)
    assert digest(copy) == before
    command = str(caught.value).partition("Copy them: ")[2]
    subprocess.run(command, shell=True, check=True)
    mark(copy)
    client = use(copy)
    assert Path(download_artifacts("models:/task/1/MLmodel")).read_text() == "copy"
    # A run of "Default", which is no run of Kiln, is still read where its artifacts are.
    assert read(client, tmp_path / "scratch") == {"copy", "original"}


def test_database_whose_artifacts_are_gone_is_refused(
    original: Path, use: Use, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (original / "mlflow.db").rename(copy / "mlflow.db")
    shutil.rmtree(original)
    before = digest(copy)
    message = rf"it has 1 models, and there is no folder {copy}/mlartifacts.*{original}/mlartifacts"
    with pytest.raises(UserError, match=message):
        use(copy)
    assert digest(copy) == before
    (copy / "mlartifacts").mkdir()
    assert use(copy).get_model_version("task", "1").status == "READY"


def test_store_without_models_needs_no_artifacts(original: Path, use: Use, tmp_path: Path) -> None:
    for table in ("logged_models", "model_versions", "runs"):
        change(original, f"DELETE FROM {table}")
    copy = tmp_path / "copy"
    copy.mkdir()
    (original / "mlflow.db").rename(copy / "mlflow.db")
    shutil.rmtree(original)
    location = use(copy).get_experiment_by_name("task").artifact_location
    assert location == f"{copy}/mlartifacts/task"


def test_interrupted_change_leaves_the_database_as_it_was(
    original: Path, use: Use, tmp_path: Path
) -> None:
    moved = original.rename(tmp_path / "moved")
    change(
        moved,
        "CREATE TRIGGER fault BEFORE UPDATE ON model_versions BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    before = dump(moved)
    with pytest.raises(UserError, match=r"came from another folder, .* cannot be changed \(no\)"):
        use(moved)
    assert dump(moved) == before
    change(moved, "DROP TRIGGER fault")
    assert read(use(moved), tmp_path / "scratch") == {"original"}


def test_processes_at_once_change_the_paths_once(original: Path, use: Use, tmp_path: Path) -> None:
    moved = original.rename(tmp_path / "moved")
    code = (
        "import sys, pathlib\nfrom components.tracking import embedded\n"
        "embedded.ROOT = pathlib.Path(sys.argv[1])\n"
        "print(end='.', flush=True)\nsys.stdin.readline()\nprint(len(embedded.relocate()))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(moved)], cwd=REPOSITORY, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for _ in range(6)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.read(1) == "."
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    results = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert sorted(results) == ["0"] * 5 + ["1"]
    assert read(use(moved), tmp_path / "scratch") == {"original"}


@pytest.mark.parametrize("name", ["what?", "50%20off"])
def test_path_that_is_no_address_is_refused(name: str, use: Use, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    with pytest.raises(UserError, match=r"has '(\?|%20)', which an address"):
        use(folder)
    assert list(tmp_path.rglob("*")) == [folder]


@pytest.mark.parametrize("content", [None, b""])
def test_new_store_is_not_relocated(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_to(tmp_path, monkeypatch)
    if content is not None:
        (tmp_path / "mlflow.db").write_bytes(content)
    assert embedded.relocate() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_store_that_may_not_be_written_is_refused(original: Path, use: Use, tmp_path: Path) -> None:
    moved = original.rename(tmp_path / "moved")
    moved.chmod(0o500)
    before = digest(moved)
    with pytest.raises(UserError, match=f"you may not write {shlex.quote(str(moved))}"):
        use(moved)
    assert digest(moved) == before
    moved.chmod(0o700)
