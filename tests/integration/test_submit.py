"""`submit` on a real cluster that shares no directory with the submitter: a head, two workers, S3 and MLflow over http."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.integration.hosts import skip_without_rights
from tests.integration.ray_cluster import SECRET, TOKEN, Proxy, RayCluster, UserClone

TRAIN = ("--model", "cnn", "--train", "data/augmented/train", "--val", "data/prepared/val")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    skip_without_rights()
    made = RayCluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.down()


@pytest.fixture(scope="module")
def user(cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> UserClone:
    """A clone with one model, submitted once: its outs are those of the job."""
    made = cluster.clone(tmp_path_factory.mktemp("user") / "clone")
    made.clone.change("train.models", {"cnn": made.clone.params()["train"]["models"]["cnn"]})
    made.clone.run("git", "commit", "-qam", "one model")
    done = made.submit()
    assert done.returncode == 0, done.stdout
    (made.path.parent / "first.log").write_text(done.stdout)
    return made


def runs(user: UserClone) -> list[dict[str, str]]:
    """The tags of every run that the MLflow server knows, with its status."""
    code = (
        "import json; from components.tracking import store; c = store.connect(); e = c.search_experiments();"
        "print(json.dumps([r.data.tags | {'status': r.info.status} for r in c.search_runs([x.experiment_id for x in e])]))"
    )
    told: list[dict[str, str]] = json.loads(user.run("python", "-c", code).stdout.splitlines()[-1])
    return told


def test_a_job_brings_back_what_a_local_run_would_have_made(user: UserClone) -> None:
    log = (user.path.parent / "first.log").read_text()
    assert "data: to 2 nodes through the DVC remote" in log
    assert "train@cnn: epoch 2/2" in log
    assert "kiln-result" not in log
    assert user.clone.run("git", "status", "--porcelain").stdout == "?? dvc.lock\n"
    assert "Running stage" not in user.run("dvc", "repro").stdout
    local = user.run("python", "-m", "pipelines.train", *TRAIN, "--out", "../local")
    assert local.returncode == 0, local.stdout
    for name in ("weights.safetensors", "history.csv", "result.json"):
        assert (user.path / "models/cnn" / name).read_bytes() == (user.path.parent / "local" / name).read_bytes()
    commit = user.clone.run("git", "rev-parse", "HEAD").stdout.strip()
    assert {"git.commit": commit, "git.dirty": "false"}.items() <= runs(user)[-1].items()
    status = user.run("python", "-m", "pipelines.status")
    assert "passed" in status.stdout
    assert status.returncode == 0


def test_no_secret_shows_in_the_log_or_the_jobs_description(user: UserClone) -> None:
    told = user.run("curl", "-s", "-H", f"Authorization: Bearer {TOKEN}", f"{user.cluster.address}/api/jobs/").stdout
    assert "components.jobs.runner" in told
    for text in (told, (user.path.parent / "first.log").read_text()):
        assert SECRET not in text
        assert f"Bearer {TOKEN}" not in text.replace("curl", "")
        assert TOKEN not in text


def test_submitting_twice_runs_once(user: UserClone) -> None:
    before = len(runs(user))
    (user.path / "dvc.lock").rename(user.path.parent / "dvc.lock")  # as in another clone of the commit
    again = user.submit()
    assert again.returncode == 0, again.stdout
    assert "attached to it" in again.stdout
    assert "train@cnn: epoch 2/2" in again.stdout, "the log of the job that ran"
    assert (user.path / "dvc.lock").read_bytes() == (user.path.parent / "dvc.lock").read_bytes()
    assert len(runs(user)) == before
    listed = user.submit("--status").stdout
    assert listed.count("kiln-") == 1
    assert "SUCCEEDED" in listed


@pytest.mark.parametrize(
    ("arguments", "env", "told"),
    [
        ((), {"RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "f" * 32}, "the token found here is not that cluster's"),
        ((), {"RAY_AUTH_TOKEN_PATH": "", "HOME": "/nowhere"}, "no token was found here"),
        (("trian",), {}, "no such stage: trian; there are preprocess, augment, train@cnn, register@cnn, evaluate"),
        (("--attach", "kiln-0-1"), {}, "knows no job kiln-0-1; it knows: kiln-"),
        (("--stop", "kiln-0-1"), {}, "knows no job kiln-0-1; it knows: kiln-"),
    ],
    ids=["wrong token", "no token", "no such stage", "no such job to attach", "no such job to stop"],
)
def test_a_mistake_is_told_before_anything_is_sent(
    user: UserClone, arguments: tuple[str, ...], env: dict[str, str], told: str
) -> None:
    done = user.submit(*arguments, **env)
    assert done.returncode == 2, done.stdout
    assert told in done.stdout
    assert "Traceback" not in done.stdout


def test_a_dirty_tree_is_refused_and_said(user: UserClone) -> None:
    (user.path / "notes.txt").write_text("mine")
    with (user.path / "params.yaml").open("a") as file:
        file.write("# changed\n")
    try:
        done = user.submit()
    finally:
        (user.path / "notes.txt").unlink()
        user.clone.run("git", "checkout", "-q", "params.yaml")
    assert done.returncode == 2
    assert " M params.yaml" in done.stdout
    assert "?? notes.txt" in done.stdout


def test_a_job_that_refuses_too_much_brings_the_list(user: UserClone) -> None:
    user.clone.run("git", "checkout", "-q", "-b", "photos")
    for n in range(6):
        path = user.path / "data" / "raw" / "photos" / "ab"[n % 2] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), 40 * n).save(path)
    path.write_bytes(path.read_bytes()[:50])
    user.clone.change("preprocess.source", {"kind": "image_folder", "path": "data/raw/photos"})
    user.clone.run("git", "add", "-A")
    user.clone.run("git", "commit", "-qm", "photos, one of them cut short")
    try:
        done = user.submit("preprocess")
        listed = (user.path / ".kiln" / "quarantine.csv").read_text().splitlines()
    finally:
        user.clone.run("git", "checkout", "-qf", "-")
    assert done.returncode not in (0, 2), done.stdout
    assert "max_quarantined_fraction allows" in done.stdout
    assert "what was refused is in .kiln/quarantine.csv here too" in done.stdout
    assert [line.split(",")[0] for line in listed] == ["path", "b/5.png"]


def test_a_driver_outside_the_cluster_trains_on_it(user: UserClone, tmp_path: Path) -> None:
    address = {"RAY_ADDRESS": f"ray://{user.cluster.hosts['head'].address}:10001", **user.cluster.site}
    command = ("python", "-m", "pipelines.train", *TRAIN, "--out")
    done = user.run(*command, str(tmp_path / "cnn"), **address)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "cnn/weights.safetensors").read_bytes() == (user.path / "models/cnn/weights.safetensors").read_bytes()
    refused = user.run(*command, str(tmp_path / "none"), **address | {"KILN_STORAGE": "/mnt/not-shared"})
    assert refused.returncode == 2
    assert "checkpoint storage /mnt/not-shared (KILN_STORAGE) does not work from 3 of 3 nodes" in refused.stdout
    assert "it is not shared" in refused.stdout
    assert not (tmp_path / "none").exists()


def lines_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """What a process says, up to the line with `text`."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    pytest.fail(f"it ended before {text!r}:\n{''.join(lines)}")


def signal_client(process: subprocess.Popen[str], number: signal.Signals) -> None:
    for child in psutil.Process(process.pid).children():
        child.send_signal(number)
    if number == signal.SIGKILL:
        process.wait()


def test_a_job_outlives_clients_proxies_nodes_and_being_stopped(user: UserClone) -> None:
    user.clone.change("train.models.cnn.epochs", 100)
    user.clone.change("seed", 1)
    user.clone.run("git", "commit", "-qam", "longer")
    proxy = Proxy(user.cluster)
    terminal, keyboard = pty.openpty()
    first = user.start_submit(stdin=keyboard)
    head = "".join(lines_until(first, "epoch 2/100"))
    job = head.partition("submit: job ")[2].split()[0]
    beside = user.start_submit("--attach", job)
    signal_client(first, signal.SIGINT)
    os.write(terminal, b"y\n")
    rest = first.communicate(timeout=60)[0]
    assert "stop the job? [y/N]" in rest
    assert f"{job} STOPPED" in rest
    assert first.returncode == 130
    assert f"{job} STOPPED" in beside.communicate(timeout=60)[0]
    assert beside.returncode == 143, "a stopped job is no success"
    assert f"{job} STOPPED" in user.submit("--stop", job).stdout

    user.cluster.hosts["head"].run("rm", "-r", "/tmp/kiln-0")  # as on another cluster
    second = user.start_submit()
    told = "".join(lines_until(second, "continuing in epoch"))
    assert "attempt 1 STOPPED" in told
    assert "Stage 'augment' is cached - skipping run" in told, "what the first attempt finished is in the remote"
    processes = user.cluster.hosts["head"].run("ps", "-ww", "-ef").stdout
    assert "components.jobs.runner" in processes
    assert SECRET not in processes
    assert TOKEN not in processes
    signal_client(second, signal.SIGKILL)
    job = job.removesuffix("-1") + "-2"
    interrupted = user.start_submit("--attach", job)
    lines_until(interrupted, "continuing in epoch")
    signal_client(interrupted, signal.SIGINT)
    assert f"detached, {job} goes on" in interrupted.communicate()[0]
    assert interrupted.returncode == 130
    third = user.start_submit("--attach", job)
    lines = lines_until(third, "val top-1")
    proxy.drop()
    lines += lines_until(third, "the connection is lost")
    proxy.open()
    lines += lines_until(third, "connected again")
    lines += lines_until(third, "val top-1")
    user.cluster.hosts["two"].kill()
    lines += third.communicate(timeout=300)[0].splitlines(keepends=True)
    shown = "".join(lines)
    assert third.returncode == 0, shown
    assert shown.count("Running stage 'train@cnn'") == 1, "nothing is shown twice"
    assert shown.count("epoch 100/100") == 1
    assert f"{job} SUCCEEDED" in shown
    assert "Running stage" not in user.run("dvc", "repro").stdout
    proxy.drop()
