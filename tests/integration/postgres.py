"""A temporary PostgreSQL server for a test, on 127.0.0.1 and with passwords."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.integration.conftest import free_port

PASSWORD = "postgres-1-" + os.urandom(8).hex()


def find_programs() -> Path:
    """Return the folder of Debian's newest initdb and postgres; skip the test without them."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3])
    )
    if not versions:
        pytest.skip(
            "PostgreSQL is not installed (apt-get install postgresql): the tests of a server with "
            "it are left out"
        )
    return versions[-1].parent


class Postgres:
    """A running cluster with the role and the databases of docs/how-to/server.md."""

    def __init__(self) -> None:
        self.bin = find_programs()
        self.port = free_port()
        # PostgreSQL refuses to run as root.
        self.user = "postgres" if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="kiln-pg-"))
        if self.user:
            shutil.chown(self.folder, self.user)
        self.pgpass = self.folder / "pgpass"
        self.pgpass.write_text(f"127.0.0.1:{self.port}:*:mlflow:{PASSWORD}\n")
        self.pgpass.chmod(0o600)
        self._call(
            "initdb",
            "-D",
            "data",
            "-U",
            self.user or getpass.getuser(),
            "--auth-local=peer",
            "--auth-host=scram-sha-256",
        )
        options = (
            f"-c listen_addresses=127.0.0.1 -c port={self.port} "
            f"-c unix_socket_directories={self.folder} -c fsync=off"
        )
        self._call("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")
        self._call("createuser", "--pwprompt", "mlflow", stdin=f"{PASSWORD}\n{PASSWORD}\n")
        for name in ("mlflow", "mlflow_auth"):
            self._call("createdb", "--owner", "mlflow", name)

    def _call(self, program: str, *arguments: str, stdin: str = "") -> str:
        env = {**os.environ, "PGHOST": str(self.folder), "PGPORT": str(self.port)}
        done = subprocess.run(
            [self.bin / program, *arguments],
            cwd=self.folder,
            user=self.user,
            env=env,
            input=stdin,
            stdout=subprocess.PIPE if program == "pg_dump" else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # without a terminal, createuser reads the password from stdin
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout or ""

    def execute(self, name: str, statement: str) -> None:
        """Run a statement of SQL in a database."""
        self._call("psql", "-d", name, "-v", "ON_ERROR_STOP=1", "-c", statement)

    def dump(self, name: str) -> str:
        """Return the content of a database as SQL."""
        rows = self._call("pg_dump", name).splitlines()
        # These lines contain a random key of pg_dump's.
        random = ("\\restrict", "\\unrestrict")
        return "\n".join(row for row in rows if not row.startswith(random))

    def stop(self) -> None:
        self._call("pg_ctl", "-D", "data", "-m", "immediate", "stop")
        shutil.rmtree(self.folder)
