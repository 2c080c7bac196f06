"""A node that does not see the driver's folders fetches splits from a DVC remote."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components import dvc_cli
from components.data.format.shards import read_manifest, read_split, write_split
from components.errors import UserError
from components.ray_session import code_package, split_distribution
from components.ray_session.split_distribution import DistributedSplits, distribute_splits
from tests.conftest import make_images

SPLIT = "data/augmented/train"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC repository whose out `data/augmented` holds a split and another file."""
    root = tmp_path_factory.mktemp("repository") / "driver"
    (root / "made").mkdir(parents=True)
    write_split(root / "made/train", "train", make_images(60), ["a", "b", "c"], shard_mb=1)
    (root / "made/preview.png").write_bytes(b"a picture")
    stage = {
        "cmd": "mkdir -p data && cp -r made data/augmented",
        "deps": ["made"],
        "outs": ["data/augmented"],
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"augment": stage}}))
    for words in (("init", "-q", "--no-scm"), ("repro", "-q")):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, check=True)
    return root


@pytest.fixture
def driver(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the repository with an empty DVC remote, as the repository that Kiln works in."""
    root = tmp_path / "driver"
    shutil.copytree(repository, root)
    with (root / ".dvc/config").open("a") as file:
        file.write(f"    remote = store\n['remote \"store\"']\n    url = {tmp_path / 'remote'}\n")
    for module in (split_distribution, dvc_cli, code_package):
        monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setenv("KILN_SCRATCH", str(tmp_path / "scratch"))
    return root


def splits_on_another_node(driver: Path) -> DistributedSplits:
    """The splits as on a node that does not see the driver's folders."""
    splits = distribute_splits([driver / SPLIT])
    return dataclasses.replace(splits, root=driver.parent / "absent")


def push_split(driver: Path) -> None:
    dvc_cli.dvc(driver, "push", *dvc_cli.outs_containing([SPLIT], set()))


def test_node_fetches_splits_once_and_reads_the_same_images(driver: Path) -> None:
    splits = splits_on_another_node(driver)
    assert splits.list_missing() == [SPLIT]
    push_split(driver)
    assert splits.fetch_missing() == ""
    assert splits.list_missing() == []
    folder = splits.locate(splits.root / SPLIT)
    assert read_manifest(folder) == read_manifest(driver / SPLIT)
    assert len(read_split(folder)[0]) == 60
    assert not (folder.parent / "preview.png").exists(), "other files of the out are not fetched"
    shutil.rmtree(driver.parent / "remote")
    assert splits.locate(SPLIT) == folder, "a second call fetches nothing"


def test_whole_out_is_pushed_for_a_split_in_it(driver: Path) -> None:
    push_split(driver)
    shutil.rmtree(driver / ".dvc/cache")
    shutil.rmtree(driver / "data")
    dvc_cli.dvc(driver, "pull")
    assert (driver / "data/augmented/preview.png").read_bytes() == b"a picture"


def test_corrupt_shard_in_the_remote_is_refused_and_not_kept(driver: Path) -> None:
    splits = splits_on_another_node(driver)
    dvc_cli.dvc(driver, "push")
    files = [path for path in (driver.parent / "remote").rglob("*") if path.is_file()]
    [shard] = [path for path in files if path.read_bytes()[:4] == b"PAR1"]
    content = shard.read_bytes()
    shard.chmod(0o644)
    shard.write_bytes(content[:-9] + b"x" + content[-8:])
    assert "other bytes of train than were made (00000.parquet)" in splits.fetch_missing()
    assert splits.list_missing() == [SPLIT]
    shard.write_bytes(content)
    assert splits.fetch_missing() == ""


def test_empty_remote_is_reported(driver: Path) -> None:
    assert f"`dvc pull {SPLIT}` failed" in splits_on_another_node(driver).fetch_missing()


def test_split_outside_every_out_is_refused(driver: Path) -> None:
    with pytest.raises(
        UserError, match=r"elsewhere/train: not on one, and no out that dvc.lock knows"
    ):
        dvc_cli.outs_containing(["elsewhere/train"], {"one"})


def test_folder_as_remote_must_be_shared_with_the_submitter(driver: Path) -> None:
    dvc_cli.check_remote(driver, "k" * 64, create_marker=True)
    dvc_cli.check_remote(driver, "k" * 64)
    shutil.rmtree(driver.parent / "remote")
    with pytest.raises(
        UserError, match="a folder that this node does not share with the submitter"
    ):
        dvc_cli.check_remote(driver, "k" * 64)
    dvc_cli.dvc(driver, "remote", "remove", "store")
    with pytest.raises(UserError, match="no DVC remote"):
        dvc_cli.check_remote(driver, None)


def test_failed_collection_leaves_the_lock_unchanged(
    driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.jobs import collect
    from components.jobs.results import JobResult, encode_lines

    monkeypatch.setattr(collect, "ROOT", driver)
    before = (driver / "dvc.lock").read_text()
    last_digest = before.split("md5: ")[-1].split()[0]
    absent_from_remote = before.replace(last_digest, "0" * 32 + ".dir")
    with pytest.raises(UserError, match="submit with --again"):
        collect.collect("\n".join(encode_lines(JobResult(absent_from_remote))))
    assert (driver / "dvc.lock").read_text() == before
    with pytest.raises(UserError, match=r"files that dvc.yaml does not name: \.\./evil"):
        collect.collect("\n".join(encode_lines(JobResult(before, {"../evil": b"x"}))))
