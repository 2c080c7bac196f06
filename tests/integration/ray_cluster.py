"""A Ray cluster on the hosts of `tests.integration.hosts`, with an S3 and an MLflow server.

The head runs no workers; two other hosts do.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import psutil

from tests.conftest import make_certificate
from tests.integration.conftest import NO_JOBS, Clone, make_clone
from tests.integration.hosts import Host, Network

TOKEN = "0123456789abcdef" * 2
SECRET = "a-secret-that-must-not-show"


class RayCluster:
    """A cluster, its servers and the host `dev` of the user.

    Only `dev` sees the checkout; the other hosts see the Python environment. All data travels over
    the network.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts = Network(folder, ["dev", "store", "head", "one", "two"])
        store = self.hosts["store"]
        self.s3 = f"http://{store.address}:9000"
        self.mlflow = f"http://{store.address}:5000"
        self.address = f"http://{self.hosts['head'].address}:8265"
        self.keys = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": SECRET}
        self.site = {
            "MLFLOW_TRACKING_URI": self.mlflow,
            "KILN_STORAGE": "s3://kiln/runs",
            "AWS_ENDPOINT_URL": self.s3,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            # Ray then notices a lost node within seconds.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_failure_threshold": "3",
            **self.keys,
        }
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(TOKEN)
        self.user = {
            "RAY_AUTH_TOKEN_PATH": str(token),
            "MLFLOW_TRACKING_URI": self.mlflow,
            **self.keys,
        }
        self._start_servers(store)
        self.start(
            "head",
            "--head",
            "--port=6379",
            "--dashboard-host=0.0.0.0",
            "--num-cpus=0",
            "--disable-usage-stats",
        )
        self.join("one")
        self.join("two")
        self._wait_for_nodes(3)

    def _start_servers(self, store: Host) -> None:
        log = self.folder / "services.log"
        store.start("python", "-m", "moto.server", "-H", store.address, "-p", "9000", log=log)
        mlflow = ["mlflow", "server", "--host", store.address, "--port", "5000"]
        mlflow += ["--workers", "1", "--allowed-hosts", "*"]
        mlflow += ["--backend-store-uri", "sqlite:////tmp/mlflow.db"]
        mlflow += ["--artifacts-destination", "/tmp/artifacts"]
        store.start(*mlflow, log=log, **NO_JOBS)
        probe = (
            "import boto3, requests, sys, time\n"
            "for _ in range(240):\n"
            "    try:\n"
            f"        s3 = boto3.client('s3', endpoint_url='{self.s3}', region_name='us-east-1')\n"
            "        s3.create_bucket(Bucket='kiln')\n"
            f"        sys.exit(not requests.get('{self.mlflow}/health', timeout=2).ok)\n"
            "    except Exception as error:\n"
            "        last = error; time.sleep(0.5)\n"
            "sys.exit(str(last))"
        )
        done = store.run("python", "-c", probe, **self.keys)
        assert done.returncode == 0, done.stdout + log.read_text()

    def start(self, name: str, *options: str) -> None:
        """Start Ray on a host."""
        host = self.hosts[name]
        command = ["ray", "start", f"--node-ip-address={host.address}", "--block"]
        command += ["--object-store-memory=100000000", *options]
        host.start(*command, log=self.folder / f"{name}.log", **self.site)

    def join(self, name: str) -> None:
        """Start Ray on a host as a worker node with two cores."""
        self.start(name, f"--address={self.hosts['head'].address}:6379", "--num-cpus=2")

    def _wait_for_nodes(self, nodes: int) -> None:
        for _ in range(60):
            done = self.hosts["head"].run("ray", "status", **self.site)
            if done.stdout.count(" node_") == nodes:
                return
            time.sleep(1)
        raise AssertionError(done.stdout + (self.folder / "head.log").read_text())

    def clone(self, path: Path) -> UserClone:
        """Clone the repository on `dev` and commit a DVC remote on the S3 server."""
        clone = make_clone(path)
        clone.run("dvc", "remote", "add", "-q", "--default", "store", "s3://kiln/dvc")
        clone.run("dvc", "remote", "modify", "-q", "store", "endpointurl", self.s3)
        clone.run("git", "commit", "-qam", "a remote")
        return UserClone(clone, self)

    def down(self) -> None:
        self.hosts.down()


class UserClone:
    """A clone of the repository on `dev`, and commands of its user."""

    def __init__(self, clone: Clone, cluster: RayCluster) -> None:
        self.clone = clone
        self.cluster = cluster
        self.path = clone.path

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.cluster.hosts["dev"].run(*command, cwd=self.path, **(self.cluster.user | env))

    def submit(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `pipelines.submit`, connected to the head directly."""
        options = ("--address", self.cluster.address, "--trust-network")
        return self.run("python", "-m", "pipelines.submit", *options, *arguments, **env)

    def start_submit(
        self, *arguments: str, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[str]:
        """Start `pipelines.submit`, connected through the proxy."""
        command = ["python", "-u", "-m", "pipelines.submit"]
        command += ["--address", "https://localhost:8265", *arguments]
        trusted = {"REQUESTS_CA_BUNDLE": str(self.cluster.folder / "certificate.pem")}
        return self.cluster.hosts["dev"].start(
            *command, cwd=self.path, stdin=stdin, **(self.cluster.user | trusted)
        )


class Proxy:
    """An https proxy on port 8265 of `dev` for the head's dashboard. It can drop connections."""

    CODE = """
import asyncio, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
async def pump(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
async def serve(reader, writer):
    head_reader, head_writer = await asyncio.open_connection(sys.argv[1], 8265)
    pumps = pump(reader, head_writer), pump(head_reader, writer)
    await asyncio.gather(*pumps, return_exceptions=True)
async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", 8265, ssl=context) as server:
        print("open", flush=True)
        await server.serve_forever()
asyncio.run(main())
"""

    def __init__(self, cluster: RayCluster) -> None:
        self.cluster = cluster
        self.certificate = cluster.folder / "certificate.pem"
        self.key = cluster.folder / "key.pem"
        make_certificate(self.certificate, self.key)
        self.open()

    def open(self) -> None:
        """Start the proxy."""
        head = self.cluster.hosts["head"].address
        files = str(self.certificate), str(self.key)
        self.process = self.cluster.hosts["dev"].start("python", "-c", self.CODE, head, *files)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "open\n"

    def drop(self) -> None:
        """End the proxy and all connections through it."""
        for child in psutil.Process(self.process.pid).children():
            child.kill()
        self.process.wait()
