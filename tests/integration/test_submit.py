"""`pipelines.submit` on a cluster that shares no folder with the submitter.

The cluster has a head, two workers, an S3 server and an MLflow server.
"""

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

pytestmark = [pytest.mark.root, pytest.mark.slow]

TRAIN = ("--model", "cnn", "--train", "data/augmented/train", "--val", "data/prepared/val")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    skip_without_rights()
    cluster = RayCluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.down()


@pytest.fixture(scope="module")
def user(cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> UserClone:
    """A clone with one model, after a job whose results were collected."""
    user = cluster.clone(tmp_path_factory.mktemp("user") / "clone")
    user.clone.change("train.models", {"cnn": user.clone.params()["train"]["models"]["cnn"]})
    user.clone.run("git", "commit", "-qam", "one model")
    done = user.submit()
    assert done.returncode == 0, done.stdout
    (user.path.parent / "first.log").write_text(done.stdout)
    return user


def runs(user: UserClone) -> list[dict[str, str]]:
    """Return the tags of every run on the MLflow server, with its status."""
    code = (
        "import json\n"
        "from components.tracking import store\n"
        "client = store.connect()\n"
        "experiments = [e.experiment_id for e in client.search_experiments()]\n"
        "runs = client.search_runs(experiments)\n"
        "print(json.dumps([run.data.tags | {'status': run.info.status} for run in runs]))"
    )
    tags: list[dict[str, str]] = json.loads(user.run("python", "-c", code).stdout.splitlines()[-1])
    return tags


def test_job_returns_the_bytes_of_a_local_run(user: UserClone) -> None:
    log = (user.path.parent / "first.log").read_text()
    assert "data: to 2 nodes through the DVC remote" in log
    assert "train@cnn: epoch 2/2" in log
    assert "kiln-result" not in log
    assert user.clone.run("git", "status", "--porcelain").stdout == "?? dvc.lock\n"
    assert "Running stage" not in user.run("dvc", "repro").stdout
    local = user.run("python", "-m", "pipelines.train", *TRAIN, "--out", "../local")
    assert local.returncode == 0, local.stdout
    for name in ("weights.safetensors", "history.csv", "result.json"):
        submitted = (user.path / "models/cnn" / name).read_bytes()
        assert submitted == (user.path.parent / "local" / name).read_bytes()
    commit = user.clone.run("git", "rev-parse", "HEAD").stdout.strip()
    assert {"git.commit": commit, "git.dirty": "false"}.items() <= runs(user)[-1].items()
    status = user.run("python", "-m", "pipelines.status")
    assert "passed" in status.stdout
    assert status.returncode == 0


def test_log_and_job_description_hold_no_secret(user: UserClone) -> None:
    header = f"Authorization: Bearer {TOKEN}"
    jobs = user.run("curl", "-s", "-H", header, f"{user.cluster.address}/api/jobs/").stdout
    assert "components.jobs.runner" in jobs
    for text in (jobs, (user.path.parent / "first.log").read_text()):
        assert SECRET not in text
        assert f"Bearer {TOKEN}" not in text.replace("curl", "")
        assert TOKEN not in text


def test_submitting_twice_runs_once(user: UserClone) -> None:
    before = len(runs(user))
    # Another clone of the commit has no `dvc.lock`.
    (user.path / "dvc.lock").rename(user.path.parent / "dvc.lock")
    again = user.submit()
    assert again.returncode == 0, again.stdout
    assert "attached to it" in again.stdout
    assert "train@cnn: epoch 2/2" in again.stdout, "the log of the first job"
    assert (user.path / "dvc.lock").read_bytes() == (user.path.parent / "dvc.lock").read_bytes()
    assert len(runs(user)) == before
    status = user.submit("--status").stdout
    assert status.count("kiln-") == 1
    assert "SUCCEEDED" in status


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        (
            (),
            {"RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "f" * 32},
            "the token found here is not that cluster's",
        ),
        ((), {"RAY_AUTH_TOKEN_PATH": "", "HOME": "/nowhere"}, "no token was found here"),
        (
            ("trian",),
            {},
            "no such stage: trian; there are params, preprocess, augment, train@cnn, register@cnn, "
            "evaluate",
        ),
        (("--attach", "kiln-0-1"), {}, "knows no job kiln-0-1; it knows: kiln-"),
        (("--stop", "kiln-0-1"), {}, "knows no job kiln-0-1; it knows: kiln-"),
    ],
    ids=[
        "wrong token",
        "no token",
        "no such stage",
        "no such job to attach",
        "no such job to stop",
    ],
)
def test_mistake_is_reported_before_anything_is_sent(
    user: UserClone, arguments: tuple[str, ...], env: dict[str, str], message: str
) -> None:
    done = user.submit(*arguments, **env)
    assert done.returncode == 2, done.stdout
    assert message in done.stdout
    assert "Traceback" not in done.stdout


def test_dirty_tree_is_refused_with_its_changes(user: UserClone) -> None:
    (user.path / "notes.txt").write_text("a note")
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


def test_job_that_refuses_too_many_images_returns_their_list(user: UserClone) -> None:
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
        quarantine = (user.path / ".kiln" / "quarantine.csv").read_text().splitlines()
    finally:
        user.clone.run("git", "checkout", "-qf", "-")
    assert done.returncode not in (0, 2), done.stdout
    assert "max_quarantined_fraction allows" in done.stdout
    assert "what was refused is in .kiln/quarantine.csv here too" in done.stdout
    assert [line.split(",")[0] for line in quarantine] == ["path", "b/5.png"]


def test_driver_outside_the_cluster_trains_the_same_weights(
    user: UserClone, tmp_path: Path
) -> None:
    address = {
        "RAY_ADDRESS": f"ray://{user.cluster.hosts['head'].address}:10001",
        **user.cluster.site,
    }
    command = ("python", "-m", "pipelines.train", *TRAIN, "--out")
    done = user.run(*command, str(tmp_path / "cnn"), **address)
    assert done.returncode == 0, done.stdout
    weights = (tmp_path / "cnn/weights.safetensors").read_bytes()
    assert weights == (user.path / "models/cnn/weights.safetensors").read_bytes()
    refused = user.run(
        *command, str(tmp_path / "none"), **address | {"KILN_STORAGE": "/mnt/not-shared"}
    )
    assert refused.returncode == 2
    assert (
        "checkpoint storage /mnt/not-shared (KILN_STORAGE) does not work from 3 of 3 nodes"
        in refused.stdout
    )
    assert "it is not shared" in refused.stdout
    assert not (tmp_path / "none").exists()


def lines_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """Return the lines that a process prints, up to the one with `text`."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    pytest.fail(f"it ended before {text!r}:\n{''.join(lines)}")


def signal_client(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal to a command that was started on a host (`nsenter` is its parent)."""
    for child in psutil.Process(process.pid).children():
        child.send_signal(number)
    if number == signal.SIGKILL:
        process.wait()


@pytest.fixture
def proxy(user: UserClone) -> Iterator[Proxy]:
    proxy = Proxy(user.cluster)
    yield proxy
    if proxy.process.poll() is None:
        proxy.drop()


def test_job_survives_clients_connections_nodes_and_a_stop(user: UserClone, proxy: Proxy) -> None:
    user.clone.change("train.models.cnn.epochs", 100)
    user.clone.change("seed", 1)
    user.clone.run("git", "commit", "-qam", "longer")
    first_job = submit_and_stop_with_ctrl_c(user)
    user.cluster.hosts["head"].run("rm", "-r", "/tmp/kiln-0")  # as on another cluster
    submit_again_and_kill_the_client(user)
    second_job = first_job.removesuffix("-1") + "-2"
    attach_and_detach_with_ctrl_c(user, second_job)
    log = attach_and_lose_connection_and_node(user, proxy, second_job)
    assert log.count("Running stage 'train@cnn'") == 1, "no line is shown twice"
    assert log.count("epoch 100/100") == 1
    assert f"{second_job} SUCCEEDED" in log
    assert "Running stage" not in user.run("dvc", "repro").stdout


def submit_and_stop_with_ctrl_c(user: UserClone) -> str:
    """Submit a job, follow it with a second client and stop it; return its id."""
    terminal, keyboard = pty.openpty()
    client = user.start_submit(stdin=keyboard)
    output = "".join(lines_until(client, "epoch 2/100"))
    job = output.partition("submit: job ")[2].split()[0]
    other_client = user.start_submit("--attach", job)
    signal_client(client, signal.SIGINT)
    os.write(terminal, b"y\n")
    output = client.communicate(timeout=600)[0]
    assert "stop the job? [y/N]" in output
    assert f"{job} STOPPED" in output
    assert client.returncode == 130
    assert f"{job} STOPPED" in other_client.communicate(timeout=600)[0]
    assert other_client.returncode == 143, "a stopped job is a failure"
    assert f"{job} STOPPED" in user.submit("--stop", job).stdout
    return job


def submit_again_and_kill_the_client(user: UserClone) -> None:
    client = user.start_submit()
    output = "".join(lines_until(client, "continuing in epoch"))
    assert "attempt 1 STOPPED" in output
    assert "Stage 'augment' is cached - skipping run" in output, (
        "the outs of the first attempt come from the DVC remote"
    )
    processes = user.cluster.hosts["head"].run("ps", "-ww", "-ef").stdout
    assert "components.jobs.runner" in processes
    assert SECRET not in processes
    assert TOKEN not in processes
    signal_client(client, signal.SIGKILL)


def attach_and_detach_with_ctrl_c(user: UserClone, job: str) -> None:
    client = user.start_submit("--attach", job)
    lines_until(client, "continuing in epoch")
    signal_client(client, signal.SIGINT)
    assert f"detached, {job} goes on" in client.communicate()[0]
    assert client.returncode == 130


def attach_and_lose_connection_and_node(user: UserClone, proxy: Proxy, job: str) -> str:
    """Follow a job through a dropped connection and the loss of a node; return the output."""
    client = user.start_submit("--attach", job)
    lines = lines_until(client, "val top-1")
    proxy.drop()
    lines += lines_until(client, "the connection is lost")
    proxy.open()
    lines += lines_until(client, "connected again")
    lines += lines_until(client, "val top-1")
    user.cluster.hosts["two"].kill()
    output = "".join(lines) + client.communicate(timeout=1800)[0]
    assert client.returncode == 0, output
    return output
