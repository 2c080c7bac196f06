"""docs/server.md as it is written: PostgreSQL, artifacts through the server, passwords, and who may do what."""

from __future__ import annotations

import base64
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from components.errors import UserError
from components.registry import history, model_versions
from components.tracking import store
from pipelines import promote as verb
from tests.integration.conftest import Clone, Server
from tests.integration.postgres import PASSWORD, Postgres
from tests.integration.versions import NAME, judge, make

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "server.md").read_text()
USERS = {name: f"{name}-has-{os.urandom(8).hex()}" for name in ("admin", "ci", "alice", "reader")}
LEDGER = history.ledger(NAME)
Identity = Callable[[str], Any]


class Guarded(Server):
    """The server of docs/server.md, its words with other ports and folders."""

    def __init__(self, folder: Path, database: Postgres) -> None:
        super().__init__(folder)
        self.database = database

    def _here(self, text: str) -> str:
        for told, here in (
            ("127.0.0.1:5432", f"127.0.0.1:{self.database.port}"),
            ("--port 5000", f"--port {self.port}"),
            ("/srv/mlflow/artifacts", str(self.folder / "artifacts")),
        ):
            text = text.replace(told, here)
        return text

    def options(self) -> list[str]:
        told = re.search(r"^    mlflow server (.*?[^\\])$", TEXT, re.M | re.S)
        assert told is not None
        return [*shlex.split(self._here(told[1]).replace("\\\n", " ")), "--workers", "2"]

    def start(self, **env: str) -> None:
        told = re.search(r"^    \[mlflow\]\n(?:    .*\n)+", TEXT, re.M)
        assert told is not None
        ini = self.folder / "basic_auth.ini"
        ini.write_text(self._here(re.sub(r"^    ", "", told[0], flags=re.M)))
        settings = {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "MLFLOW_AUTH_CONFIG_PATH": str(ini),
            "MLFLOW_AUTH_ADMIN_PASSWORD": USERS["admin"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": os.urandom(16).hex(),
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{self.port}",
        }
        assert all(f"export {name}=" in TEXT for name in settings)
        super().start(PGPASSFILE=str(self.database.pgpass), **settings, **env)

    def client_env(self, user: str | None, password: str | None = None) -> dict[str, str]:
        env = {"MLFLOW_TRACKING_URI": self.address}
        return env | ({"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password or USERS[user]} if user else {})


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Guarded]:
    database = Postgres()
    server = Guarded(tmp_path_factory.mktemp("guarded"), database)
    try:
        server.start()
        for words in (("--training", "ci", "reader", "--promoters", "alice"), ("--remove", "reader")):
            done = command(server, home, "admin", "grant", *words)
            assert done.returncode == 0, done.stdout
        yield server
    finally:
        if hasattr(server, "process"):
            server.signal(signal.SIGKILL)
        database.stop()


@pytest.fixture
def as_user(guarded: Guarded, home: Path, monkeypatch: pytest.MonkeyPatch) -> Identity:
    """A client of that server, in this process, as somebody."""
    monkeypatch.chdir(home)

    def connect(user: str) -> Any:
        for key, value in guarded.client_env(user).items():
            monkeypatch.setenv(key, value)
        return store.connect()

    return connect


def command(
    server: Guarded, folder: Path, user: str | None, word: str, *arguments: str, **env: str
) -> subprocess.CompletedProcess[str]:
    """`python -m pipelines.<word>` as somebody; new users' passwords come from the environment."""
    new = {f"KILN_PASSWORD_{name.upper()}": password for name, password in USERS.items()}
    python = {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    return subprocess.run(
        [sys.executable, "-m", f"pipelines.{word}", *arguments], cwd=folder, text=True, timeout=300,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, **python, **(new if word == "grant" else {}), **server.client_env(user), **env},
    )  # fmt: skip


@pytest.fixture(scope="module")
def two(guarded: Guarded, home: Path) -> tuple[int, int]:
    """Two versions that the training identity registered and judged, the second clearly better."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for key, value in guarded.client_env("ci").items():
            patch.setenv(key, value)
        client = store.connect()
        receipts = [make(client, seed) for seed in (1, 2)]
        for receipt, right in zip(receipts, (1600, 1900), strict=True):
            judge(client, receipt, right)
    return receipts[0].version, receipts[1].version


def test_granting_again_changes_nothing(guarded: Guarded, home: Path, two: tuple[int, int]) -> None:
    before = guarded.database.dump("mlflow_auth"), guarded.database.dump("mlflow")
    done = command(guarded, home, "admin", "grant", "--training", "ci", "--promoters", "alice")
    assert done.returncode == 0, done.stdout
    assert (guarded.database.dump("mlflow_auth"), guarded.database.dump("mlflow")) == before


def test_the_training_identity_registers_and_does_not_promote(
    guarded: Guarded, home: Path, two: tuple[int, int], as_user: Identity
) -> None:
    before = guarded.database.dump("mlflow")
    for option in ((), ("--override", "let me"), ("--alias", "challenger")):
        done = command(guarded, home, "ci", "promote", "--version", str(two[1]), "--reason", "mine", *option)
        assert done.returncode == 2, done.stdout
        assert f"{guarded.address} does not let user 'ci' move {NAME}@" in done.stdout
        assert "that is for promoters" in done.stdout
        assert "Traceback" not in done.stdout
    assert guarded.database.dump("mlflow") == before, "nothing, neither in the history"
    rehearsed = command(guarded, home, "ci", "promote", "--version", str(two[1]), "--reason", "mine", "--dry-run")
    assert rehearsed.returncode == 0, rehearsed.stdout


def test_there_is_no_way_around_promote(guarded: Guarded, two: tuple[int, int], as_user: Identity) -> None:
    as_user("alice")
    verb.promote(two[0], "somewhere to stand")
    before = guarded.database.dump("mlflow")
    client = as_user("ci")
    record = "1"
    ways: list[Callable[[], Any]] = [
        lambda: client.set_registered_model_alias(NAME, "champion", str(two[1])),
        lambda: client.delete_registered_model_alias(NAME, "champion"),
        lambda: client.rename_registered_model(NAME, "elsewhere"),
        lambda: client.delete_registered_model(NAME),
        lambda: client.delete_model_version(NAME, str(two[0])),
        lambda: client.create_model_version(LEDGER, source=f"models:/{NAME}/{two[1]}", tags={"kiln.move": "{}"}),
        lambda: client.set_model_version_tag(LEDGER, record, "kiln.move", "{}"),
        lambda: client.delete_model_version(LEDGER, record),
        lambda: client.rename_registered_model(LEDGER, "elsewhere"),
        lambda: client.delete_registered_model(LEDGER),
    ]
    for way in ways:
        with pytest.raises(MlflowException) as caught:
            way()
        assert caught.value.get_http_status_code() == 403
    assert guarded.database.dump("mlflow") == before
    as_user("alice")
    verb.rollback("to where it began")


def test_promoters_promote_and_do_not_register_nor_rewrite(two: tuple[int, int], as_user: Identity) -> None:
    client = as_user("alice")
    verb.promote(two[0], "first")
    verb.promote(two[1], "better")
    assert model_versions.aliases(client, NAME) == {"champion": two[1]}
    verb.rollback("one back")
    assert model_versions.aliases(client, NAME) == {"champion": two[0]}
    verb.rollback("to before the first")
    assert model_versions.aliases(client, NAME) == {}
    written = [version.tags for version in model_versions.versions(client, LEDGER)]
    for change in (
        lambda: client.set_model_version_tag(LEDGER, "1", "kiln.move", "{}"),
        lambda: client.delete_model_version_tag(LEDGER, "1", "kiln.move"),
        lambda: client.delete_model_version(LEDGER, "1"),
        lambda: client.delete_registered_model(LEDGER),
    ):
        with pytest.raises(MlflowException, match="stays as it is"):
            change()
    assert [version.tags for version in model_versions.versions(client, LEDGER)] == written
    with pytest.raises(UserError, match=r"does not let user 'alice' write runs .* that is for the training identity"):
        make(client, seed=99)


def test_others_read_and_no_more(guarded: Guarded, home: Path, two: tuple[int, int]) -> None:
    assert command(guarded, home, "reader", "promote", "--history").returncode == 0
    traced = command(guarded, home, "reader", "trace", f"{NAME}/{two[1]}")
    assert traced.returncode == 0, traced.stdout
    refused = command(guarded, home, "reader", "promote", "--version", str(two[1]), "--reason", "r")
    assert (refused.returncode, "does not let user 'reader'" in refused.stdout) == (2, True), refused.stdout
    refused = command(guarded, home, "ci", "grant", "--promoters", "ci")
    assert (refused.returncode, "does not let user 'ci' give" in refused.stdout) == (2, True), refused.stdout


def test_whoever_made_the_registered_model_is_no_promoter_by_that(guarded: Guarded, home: Path, as_user: Identity) -> None:
    client = as_user("ci")
    early = make(client, seed=5, name="early")
    client.set_registered_model_alias("early", "champion", str(early.version))
    judge(client, early, 1900)
    early_promotion = command(guarded, home, "ci", "promote", "--name", "early", "--version", "1", "--reason", "r",
                              "--override", "by hand", "--alias", "other")  # fmt: skip
    assert (early_promotion.returncode, "that is for promoters" in early_promotion.stdout) == (2, True), early_promotion.stdout
    done = command(guarded, home, "admin", "grant", "--training", "ci", "--promoters", "alice", "--name", "early")
    assert done.returncode == 0, done.stdout
    with pytest.raises(MlflowException, match="those who may add to early-history"):
        client.set_registered_model_alias("early", "champion", str(early.version))
    make(client, seed=6, name="early")


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"MLFLOW_TRACKING_PASSWORD": "not-the-password"}, "does not accept the name and password of user 'ci'"),
        ({"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_PASSWORD": ""}, "MLFLOW_TRACKING_USERNAME is not set"),
        ({"MLFLOW_TRACKING_URI": "localhost"}, "MLFLOW_SERVER_ALLOWED_HOSTS has to have it"),
    ],
    ids=["password", "nobody", "host"],
)
def test_a_client_that_is_not_let_in_is_told_why(guarded: Guarded, home: Path, env: dict[str, str], told: str) -> None:
    if "MLFLOW_TRACKING_URI" in env:
        env = {"MLFLOW_TRACKING_URI": f"http://localhost:{guarded.port}"}
    done = command(guarded, home, "ci", "promote", "--history", **env)
    assert done.returncode == 2, done.stdout
    assert told in done.stdout
    assert "Traceback" not in done.stdout


def test_two_processes_register_exactly_once(guarded: Guarded, home: Path, as_user: Identity) -> None:
    client = as_user("ci")
    code = (
        "from components.tracking import store; from tests.integration.versions import make; c = store.connect();"
        "print(sorted({(n % 2, make(c, 900 + n % 2).version) for n in range(4)}))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    started = [
        subprocess.Popen([sys.executable, "-c", code], cwd=home, env=env, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]  # fmt: skip
    told = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    assert told[0][0].splitlines()[-1] == told[1][0].splitlines()[-1], "everybody got the same version for the same model"
    digests = [
        v.tags["kiln.sha256"] for v in model_versions.versions(client, NAME) if not v.tags["kiln.sha256"].startswith("spare")
    ]
    assert len(digests) == len(set(digests))
    assert len({number for _, number in eval(told[0][0].splitlines()[-1])}) == 2


def test_a_spare_that_may_not_be_removed_loses_its_digest(as_user: Identity, two: tuple[int, int]) -> None:
    client = as_user("ci")
    first = client.get_model_version(NAME, str(two[0]))
    tags = {"kiln.sha256": first.tags["kiln.sha256"], "kiln.model": "cnn"}
    spare = client.create_model_version(
        NAME, source=first.source, run_id=first.run_id, model_id=model_versions.model_id(first), tags=tags, await_creation_for=0
    )
    assert model_versions.find(client, NAME, first.tags["kiln.sha256"]).version == first.version
    assert client.get_model_version(NAME, spare.version).tags["kiln.sha256"] == f"spare of version {first.version}"


def test_the_whole_path_and_no_password_left_on_it(guarded: Guarded, clone: Clone, tmp_path: Path) -> None:
    out = tmp_path / "models" / "cnn"
    data = ("--train", "data/augmented/train", "--val", "data/prepared/val")
    new = {f"KILN_PASSWORD_{name.upper()}": password for name, password in USERS.items()}
    told = []
    for user, *words in (
        ("admin", "grant", "--training", "ci", "--promoters", "alice"),
        ("ci", "train", "--model", "cnn", *data, "--out", str(out)),
        ("ci", "register", "--model", "cnn", "--trained", str(out), "--out", str(out / "receipt.json")),
        ("ci", "register", "--model", "resnet", "--trained", str(clone.path / "models/resnet"), "--out",
         str(out.parent / "resnet/receipt.json")),
        ("ci", "evaluate", "--models", str(out.parent), "--test", "data/prepared/test", "--out", str(tmp_path / "reports")),
        ("alice", "promote", "--best", "--reason", "a server"),
        ("alice", "promote", "--history"),
        ("reader", "trace", "fashion-mnist@champion"),
    ):  # fmt: skip
        done = clone.stage(*words, **guarded.client_env(user), **(new if words[0] == "grant" else {}))
        assert done.returncode == 0, done.stdout
        told.append(done.stdout)
    where = clone.run(
        "python", "-c",
        "from components.tracking import store; c = store.connect(); v = c.get_model_version_by_alias('fashion-mnist',"
        "'champion'); print(c.get_run(v.run_id).info.artifact_uri)", **guarded.client_env("reader"),
    ).stdout  # fmt: skip
    assert where.splitlines()[-1].startswith("mlflow-artifacts:/"), "clients need no sight of the folder"
    assert list((guarded.folder / "artifacts").rglob("*.pt2"))
    places = [*told, guarded.database.dump("mlflow"), guarded.database.dump("mlflow_auth")]
    files = [p for folder in (clone.path, tmp_path, guarded.folder) for p in folder.rglob("*") if p.is_file()]
    assert len(files) > 50
    secrets = [PASSWORD, *USERS.values(), *(base64.b64encode(f"{n}:{p}".encode()).decode() for n, p in USERS.items())]
    for secret in secrets:
        assert not [text for text in places if secret in text]
        assert not [path for path in files if secret.encode() in path.read_bytes()]
