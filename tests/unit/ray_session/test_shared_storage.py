"""Storage that a site names, on disk and on a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from components.errors import UserError
from components.paths import ROOT
from components.ray_session import shared_storage
from components.storage import join_uri, open_store

KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "hidden"}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    boto3.client(
        "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    ).create_bucket(Bucket="kiln")
    yield address
    server.stop()


def named(monkeypatch: pytest.MonkeyPatch, value: str, **env: str) -> str:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KILN_STORAGE", value)
    for name, text in env.items():
        monkeypatch.setenv(name, text)
    return shared_storage.resolve()


def test_what_a_site_may_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert named(monkeypatch, "") == str(ROOT / ".kiln")
    assert named(monkeypatch, "/shared/kiln/") == "/shared/kiln"
    assert named(monkeypatch, "s3://bucket/runs/") == "s3://bucket/runs"
    assert named(monkeypatch, "gs://bucket/runs/") == "gs://bucket/runs"
    found = named(monkeypatch, "s3://bucket/runs", AWS_ENDPOINT_URL="http://minio:9000", AWS_REGION="eu")
    assert found == "s3://bucket/runs?endpoint_override=http%3A%2F%2Fminio%3A9000&region=eu"
    assert join_uri(found, "a", "b") == "s3://bucket/runs/a/b?endpoint_override=http%3A%2F%2Fminio%3A9000&region=eu"
    assert "region=us" in named(monkeypatch, "s3://bucket?region=us", AWS_REGION="eu"), "the URL is the nearer word"


@pytest.mark.parametrize("value", ["runs", "./runs", "s3://key:hidden@bucket/runs"])
def test_what_it_may_not(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as caught:
        named(monkeypatch, value)
    assert "hidden" not in str(caught.value)


def test_unknown_storage_is_an_error_and_no_traceback() -> None:
    with pytest.raises(UserError, match="cannot be used"):
        open_store("floppy://a/b")


def test_every_writer_is_read_back_from_s3(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = named(monkeypatch, "s3://kiln/runs", AWS_ENDPOINT_URL=s3, **KEYS)
    folder = join_uri(found, "probe")
    wrote = [shared_storage._write(folder, "mark") for _ in range(3)]
    assert [error for _, error in wrote] == ["", "", ""]
    assert shared_storage._read(folder, [name for name, _ in wrote], "mark") == ""
    assert "other bytes" in shared_storage._read(folder, [name for name, _ in wrote], "another")
    shared_storage._remove(folder)
    assert "does not see what 3 of 3" in shared_storage._read(folder, [name for name, _ in wrote], "mark")


def test_a_missing_bucket_and_a_read_only_folder_are_told(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = named(monkeypatch, "s3://nowhere/runs", AWS_ENDPOINT_URL=s3, **KEYS)
    assert "cannot write" in shared_storage._write(join_uri(found, "probe"), "mark")[1]
    assert "cannot write" in shared_storage._write("/proc/kiln/probe", "mark")[1]


def test_folders_that_are_not_shared_are_found_out(tmp_path: Path) -> None:
    one, _ = shared_storage._write(str(tmp_path / "one"), "mark")
    other, _ = shared_storage._write(str(tmp_path / "other"), "mark")
    assert "not shared" in shared_storage._read(str(tmp_path / "one"), [one, other], "mark")
