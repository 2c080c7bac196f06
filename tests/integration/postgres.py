"""A PostgreSQL of the test's own: Debian's programs, a temporary folder, 127.0.0.1, passwords."""

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


def programs() -> Path:
    """Where initdb and postgres lie; skips the test where they do not."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if not found:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql): the tests of a server with it are left out")
    return found[-1].parent


class Postgres:
    """A running cluster with the role and the databases of docs/server.md."""

    def __init__(self) -> None:
        self.bin, self.port = programs(), free_port()
        # It refuses to be root's.
        self.user = "postgres" if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="kiln-pg-"))
        if self.user:
            shutil.chown(self.folder, self.user)
        self.pgpass = self.folder / "pgpass"
        self.pgpass.write_text(f"127.0.0.1:{self.port}:*:mlflow:{PASSWORD}\n")
        self.pgpass.chmod(0o600)
        self._call(
            "initdb", "-D", "data", "-U", self.user or getpass.getuser(), "--auth-local=peer", "--auth-host=scram-sha-256"
        )
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={self.folder} -c fsync=off"
        self._call("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")
        self._call("createuser", "--pwprompt", "mlflow", said=f"{PASSWORD}\n{PASSWORD}\n")
        for name in ("mlflow", "mlflow_auth"):
            self._call("createdb", "--owner", "mlflow", name)

    def _call(self, program: str, *arguments: str, said: str = "") -> str:
        env = {**os.environ, "PGHOST": str(self.folder), "PGPORT": str(self.port)}
        # A session without a terminal: createuser takes the password from where it is said.
        done = subprocess.run([self.bin / program, *arguments], cwd=self.folder, user=self.user, env=env, input=said,
                              stdout=subprocess.PIPE if program == "pg_dump" else subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, start_new_session=True, timeout=120)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout or ""

    def dump(self, name: str) -> str:
        """Everything in a database, as SQL."""
        rows = self._call("pg_dump", name).splitlines()
        return "\n".join(row for row in rows if not row.startswith(("\\restrict", "\\unrestrict")))  # a nonce of pg_dump's

    def stop(self) -> None:
        self._call("pg_ctl", "-D", "data", "-m", "immediate", "stop")
        shutil.rmtree(self.folder)
