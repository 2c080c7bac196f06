"""Shared storage in folders and on a local S3 server."""

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
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
    ).create_bucket(Bucket="kiln")
    yield address
    server.stop()


def resolve(monkeypatch: pytest.MonkeyPatch, value: str, **env: str) -> str:
    """Resolve `KILN_STORAGE=value` with these variables of AWS alone."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KILN_STORAGE", value)
    for name, text in env.items():
        monkeypatch.setenv(name, text)
    return shared_storage.resolve()


def test_folders_and_urls_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(monkeypatch, "") == str(ROOT / ".kiln")
    assert resolve(monkeypatch, "/shared/kiln/") == "/shared/kiln"
    assert resolve(monkeypatch, "s3://bucket/runs/") == "s3://bucket/runs"
    assert resolve(monkeypatch, "gs://bucket/runs/") == "gs://bucket/runs"
    storage = resolve(
        monkeypatch, "s3://bucket/runs", AWS_ENDPOINT_URL="http://minio:9000", AWS_REGION="eu"
    )
    assert storage == "s3://bucket/runs?endpoint_override=http%3A%2F%2Fminio%3A9000&region=eu"
    assert (
        join_uri(storage, "a", "b")
        == "s3://bucket/runs/a/b?endpoint_override=http%3A%2F%2Fminio%3A9000&region=eu"
    )
    assert "region=us" in resolve(monkeypatch, "s3://bucket?region=us", AWS_REGION="eu"), (
        "the URL comes before the environment"
    )


@pytest.mark.parametrize("value", ["runs", "./runs", "s3://key:hidden@bucket/runs"])
def test_relative_paths_and_credentials_are_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError) as caught:
        resolve(monkeypatch, value)
    assert "hidden" not in str(caught.value)


def test_unknown_scheme_is_a_user_error() -> None:
    with pytest.raises(UserError, match="cannot be used"):
        open_store("floppy://a/b")


def test_probes_are_written_read_and_removed_on_s3(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = resolve(monkeypatch, "s3://kiln/runs", AWS_ENDPOINT_URL=s3, **KEYS)
    folder = join_uri(storage, "probe")
    written = [shared_storage._write_probe(folder, "content") for _ in range(3)]
    assert [result.error for result in written] == ["", "", ""]
    names = [result.name for result in written]
    assert shared_storage._read_probes(folder, names, "content") == ""
    assert "other bytes" in shared_storage._read_probes(folder, names, "another")
    shared_storage._remove_probes(folder)
    missing = shared_storage._read_probes(folder, names, "content")
    assert "does not see what 3 of 3" in missing


def test_missing_bucket_and_read_only_folder_are_reported(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = resolve(monkeypatch, "s3://nowhere/runs", AWS_ENDPOINT_URL=s3, **KEYS)
    for probe in (join_uri(storage, "probe"), "/proc/kiln/probe"):
        assert "cannot write" in shared_storage._write_probe(probe, "content").error


def test_folder_that_is_not_shared_is_detected(tmp_path: Path) -> None:
    probes = [str(tmp_path / "node-a"), str(tmp_path / "node-b")]
    names = [shared_storage._write_probe(probe, "content").name for probe in probes]
    for probe in probes:
        assert "not shared" in shared_storage._read_probes(probe, names, "content")


@pytest.mark.parametrize("url", ["s3://KEY:pw1/pw2@[::1?secret_key=pw3", "x3://KEY:pw1@bucket"])
def test_storage_that_cannot_be_used_is_named_without_secrets(url: str) -> None:
    with pytest.raises(UserError, match=r"the storage .* cannot be used") as caught:
        open_store(url)
    assert "pw" not in str(caught.value)
    assert "***" in str(caught.value)
