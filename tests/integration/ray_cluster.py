"""A real cluster on the hosts of `tests.integration.hosts`: a head without workers, two workers, S3 and MLflow on `dev`."""

from __future__ import annotations

import time
from pathlib import Path

from tests.integration.conftest import Clone, make_clone
from tests.integration.hosts import Host, Network

TOKEN = "0123456789abcdef" * 2
SECRET = "a-secret-that-must-not-show"


class RayCluster:
    """`dev` holds the checkout; the other hosts have the environment alone. Everything travels over the bridge."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts = Network(folder, ["dev", "head", "one", "two"])
        dev = self.hosts["dev"]
        self.s3, self.mlflow = f"http://{dev.address}:9000", f"http://{dev.address}:5000"
        self.address = f"http://{self.hosts['head'].address}:8265"
        self.keys = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": SECRET}
        self.site = {
            "MLFLOW_TRACKING_URI": self.mlflow,
            "KILN_STORAGE": "s3://kiln/runs",
            "AWS_ENDPOINT_URL": self.s3,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            # A lost node is noticed within seconds.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_failure_threshold": "3",
            **self.keys,
        }
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(TOKEN)
        self.user = {"RAY_AUTH_TOKEN_PATH": str(token), "MLFLOW_TRACKING_URI": self.mlflow, **self.keys}
        self._serve(dev)
        self.start("head", "--head", f"--port={6379}", "--dashboard-host=0.0.0.0", "--num-cpus=0", "--disable-usage-stats")
        self.join("one")
        self.join("two")
        self._wait(3)

    def _serve(self, dev: Host) -> None:
        log = self.folder / "services.log"
        dev.start("moto_server", "-H", dev.address, "-p", "9000", cwd=self.folder, log=log)
        dev.start(
            "mlflow", "server", "--host", dev.address, "--port", "5000", "--workers", "1", "--allowed-hosts", "*",
            "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--artifacts-destination",
            str(self.folder / "artifacts"), cwd=self.folder, log=log,
        )  # fmt: skip
        probe = (
            "import boto3, requests, sys, time\n"
            "for _ in range(240):\n"
            "    try:\n"
            f"        boto3.client('s3', endpoint_url='{self.s3}', region_name='us-east-1').create_bucket(Bucket='kiln')\n"
            f"        sys.exit(not requests.get('{self.mlflow}/health', timeout=2).ok)\n"
            "    except Exception as error:\n"
            "        last = error; time.sleep(0.5)\n"
            "sys.exit(str(last))"
        )
        done = dev.run("python", "-c", probe, cwd=self.folder, **self.keys)
        assert done.returncode == 0, done.stdout + log.read_text()

    def start(self, name: str, *options: str) -> None:
        host = self.hosts[name]
        host.start("ray", "start", f"--node-ip-address={host.address}", "--object-store-memory=100000000", "--block", *options,
                   log=self.folder / f"{name}.log", **self.site)  # fmt: skip

    def join(self, name: str) -> None:
        self.start(name, f"--address={self.hosts['head'].address}:6379", "--num-cpus=1")

    def _wait(self, nodes: int) -> None:
        for _ in range(60):
            done = self.hosts["head"].run("ray", "status", **self.site)
            if done.stdout.count(" node_") == nodes:
                return
            time.sleep(1)
        raise AssertionError(done.stdout + (self.folder / "head.log").read_text())

    def clone(self, path: Path) -> UserClone:
        made = make_clone(path)
        made.run("dvc", "remote", "add", "-q", "--default", "store", "s3://kiln/dvc")
        made.run("dvc", "remote", "modify", "-q", "store", "endpointurl", self.s3)
        made.run("git", "commit", "-qam", "a remote")
        return UserClone(made, self)

    def down(self) -> None:
        self.hosts.down()


class UserClone:
    """A clone on `dev`, and commands run there as its user."""

    def __init__(self, clone: Clone, cluster: RayCluster) -> None:
        self.clone, self.cluster, self.path = clone, cluster, clone.path

    def run(self, *command: str, **env: str):
        return self.cluster.hosts["dev"].run(*command, cwd=self.path, **(self.cluster.user | env))

    def submit(self, *arguments: str, **env: str):
        return self.run(
            "python", "-m", "pipelines.submit", "--address", self.cluster.address, "--trust-network", *arguments, **env
        )
