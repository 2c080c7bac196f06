"""A split brought to a node that does not see the driver's folders, from a real DVC remote."""

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
from components.ray_session import code_package, nodes
from components.ray_session.nodes import Data
from tests.conftest import make_images


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose out `data/augmented` has a split and another file in it, pushed by nobody yet."""
    root = tmp_path_factory.mktemp("made") / "driver"
    (root / "made").mkdir(parents=True)
    write_split(root / "made/train", "train", make_images(60), ["a", "b", "c"], shard_mb=1)
    (root / "made/preview.png").write_bytes(b"a picture")
    stage = {"cmd": "mkdir -p data && cp -r made data/augmented", "deps": ["made"], "outs": ["data/augmented"]}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"augment": stage}}))
    for words in (("init", "-q", "--no-scm"), ("repro", "-q")):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, check=True)
    return root


@pytest.fixture
def driver(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "driver"
    shutil.copytree(made, root)
    with (root / ".dvc/config").open("a") as file:
        file.write(f"    remote = store\n['remote \"store\"']\n    url = {tmp_path / 'remote'}\n")
    for module in (nodes, dvc_cli, code_package):
        monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setenv("KILN_SCRATCH", str(tmp_path / "scratch"))
    return root


def shipped(driver: Path) -> Data:
    """What `provide` sends to a node, as it is on a node that has no such folder."""
    data = nodes.provide([driver / "data/augmented/train"])
    return dataclasses.replace(data, root=driver.parent / "not here")


def test_a_node_fetches_its_data_once_and_reads_the_same(driver: Path) -> None:
    assert nodes.provide([driver / "data/augmented/train"]).at(driver / "data/augmented/train").is_relative_to(driver)
    data = shipped(driver)
    assert data.missing() == ["data/augmented/train"]
    dvc_cli.dvc(driver, "push", *dvc_cli.outs_with(["data/augmented/train"], set()))
    assert data.fetch() == ""
    assert data.missing() == []
    found = data.at(data.root / "data/augmented/train")
    assert read_manifest(found) == read_manifest(driver / "data/augmented/train")
    assert len(read_split(found)[0]) == 60
    assert not (found.parent / "preview.png").exists(), "what it does not need stays away"
    shutil.rmtree(driver.parent / "remote")
    assert data.at("data/augmented/train") == found, "once"


def test_everything_of_an_out_is_in_the_remote_though_a_part_was_asked_for(driver: Path) -> None:
    dvc_cli.dvc(driver, "push", *dvc_cli.outs_with(["data/augmented/train"], set()))
    shutil.rmtree(driver / ".dvc/cache")
    shutil.rmtree(driver / "data")
    dvc_cli.dvc(driver, "pull")
    assert (driver / "data/augmented/preview.png").read_bytes() == b"a picture"


def test_other_bytes_in_the_remote_are_refused_and_not_kept(driver: Path) -> None:
    data = shipped(driver)
    dvc_cli.dvc(driver, "push")
    [shard] = [p for p in (driver.parent / "remote").rglob("*") if p.is_file() and p.read_bytes()[:4] == b"PAR1"]
    good = shard.read_bytes()
    shard.chmod(0o644)
    shard.write_bytes(good[:-9] + b"x" + good[-8:])
    assert "other bytes of train than were made (00000.parquet)" in data.fetch()
    assert data.missing() == ["data/augmented/train"]
    shard.write_bytes(good)
    assert data.fetch() == ""


def test_an_empty_remote_is_told(driver: Path) -> None:
    assert "`dvc pull data/augmented/train` failed" in shipped(driver).fetch()


def test_what_dvc_does_not_know_cannot_travel(driver: Path) -> None:
    with pytest.raises(UserError, match=r"elsewhere/train: not on one, and no out that dvc.lock knows"):
        dvc_cli.outs_with(["elsewhere/train"], {"one"})


def test_a_folder_as_remote_must_be_the_submitters(driver: Path) -> None:
    dvc_cli.check_remote(driver, "k" * 64, leave=True)
    dvc_cli.check_remote(driver, "k" * 64)
    shutil.rmtree(driver.parent / "remote")
    with pytest.raises(UserError, match="a folder that this node does not share with the submitter"):
        dvc_cli.check_remote(driver, "k" * 64)
    dvc_cli.dvc(driver, "remote", "remove", "store")
    with pytest.raises(UserError, match="no DVC remote"):
        dvc_cli.check_remote(driver, None)


def test_a_failed_fetch_leaves_the_lock_as_it_was(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.jobs import collect, results

    monkeypatch.setattr(collect, "ROOT", driver)
    before = (driver / "dvc.lock").read_text()
    unknown = before.replace(before.split("md5: ")[-1].split()[0], "0" * 32 + ".dir")
    with pytest.raises(UserError, match="submit with --again"):
        collect.collect("\n".join(results.lines(unknown, {})))
    assert (driver / "dvc.lock").read_text() == before
    with pytest.raises(UserError, match=r"files that dvc.yaml does not name: \.\./evil"):
        collect.collect("\n".join(results.lines(before, {"../evil": b"x"})))
